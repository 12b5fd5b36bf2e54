// What the map's colours mean: entries of the legend, and which of them each image belongs to.
import { t } from "./texts.js";

const GREY = { light: [150, 150, 146], dark: [116, 120, 126] };

// A colour of many that are easy to tell from their neighbours in the list, as bytes.
export function colorOf(position, isDark) {
  const hue = (position * 137.508 + 165) % 360;
  const level = Math.floor(position / 2) % 3;
  const lightness = isDark ? [0.66, 0.56, 0.76][level] : [0.42, 0.54, 0.32][level];
  const amount = (isDark ? 0.72 : 0.85) * Math.min(lightness, 1 - lightness);
  return [0, 8, 4].map((offset) => {
    const k = (offset + hue / 30) % 12;
    return Math.round(255 * (lightness - amount * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  });
}

const STATUS = {
  waiting: () => t("no label"),
  skipped: () => t("skipped"),
  unknown: () => t("unknown"),
  disputed: () => t("disputed"),
};

export function nameOfLabel(value, names) {
  if (!value) return t("no label");
  if (value.status !== "labeled") return STATUS[value.status]?.() ?? value.status;
  return value.classes.map((id) => names.get(id) ?? "?").join(", ") || t("none of the classes");
}

// The keys of a value's entries, by what the map is coloured by.
const KEYS = {
  labels: (value) => {
    if (!value) return ["waiting"];
    if (value.status !== "labeled") return [value.status];
    return value.classes.length ? value.classes : ["empty"];
  },
  predictions: (value) => (value ? (value.classes.length ? value.classes : ["empty"]) : ["unpredicted"]),
  progress: (value) => {
    if (!value || value.status === "waiting" || value.status === "skipped") return ["waiting"];
    return [value.status === "labeled" ? "done" : value.status];
  },
  people: (value) => [value ? `person ${value.person}` : "waiting"],
};

const OTHERS = {
  waiting: () => t("no label"),
  skipped: () => t("skipped"),
  unknown: () => t("unknown"),
  disputed: () => t("disputed"),
  empty: () => t("none of the classes"),
  unpredicted: () => t("no prediction"),
  done: () => t("labeled"),
};
const IS_GREY = new Set(["waiting", "skipped", "unpredicted"]);

// The entries of a colouring, {key, name, color, count}, and the positions of those that each value has.
export function entriesOf(kind, { values, codes }, classes, isDark) {
  const counts = new Array(values.length).fill(0);
  for (const code of codes) counts[code] += 1;
  const found = new Map(); // by key
  const numbers = new Map(classes.map((each, position) => [each.id, position]));
  let others = classes.length;
  const add = (key) => {
    if (!found.has(key)) {
      const isClass = numbers.has(key);
      const text = String(key);
      const name = isClass
        ? classes[numbers.get(key)].name
        : text.startsWith("person ")
          ? text.slice(7)
          : (OTHERS[key]?.() ?? t("a class that was removed"));
      const color = IS_GREY.has(key)
        ? GREY[isDark ? "dark" : "light"]
        : colorOf(isClass ? numbers.get(key) : others++, isDark);
      found.set(key, { key, name, color, count: 0, isOther: !isClass && !text.startsWith("person ") });
    }
    return found.get(key);
  };
  const keys = values.map((value, code) => (counts[code] ? KEYS[kind](value) : []));
  keys.forEach((list, code) => list.forEach((key) => (add(key).count += counts[code])));
  const entries = [...found.values()].sort((a, b) => b.isOther - a.isOther || b.count - a.count);
  const at = new Map(entries.map((entry, position) => [entry.key, position]));
  return { entries, of: keys.map((list) => list.map((key) => at.get(key))) };
}
