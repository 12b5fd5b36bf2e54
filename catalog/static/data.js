// The data page: the images that match the address, and actions on those that are selected.
import { Actions, request } from "./data_actions.js";
import { ImageGrid } from "./image_grid.js";
import { button } from "./notices.js";
import { shown, t, tn } from "./texts.js";

const byId = (id) => document.getElementById(id);
const app = byId("app");
const root = `/api/projects/${app.dataset.project}/images`;
const address = new URLSearchParams(location.search);
const filters = new URLSearchParams([...address].filter(([name]) => !["after", "before"].includes(name)));

let matching = null; // ids of all images that match, if they were selected together, less those taken out since
let seen = null; // tells the server which labels this page shows
let count = null; // how many match; null if they are more than `most`
let most = 0;

const grid = new ImageGrid(t("Images"));
const actions = new Actions(app.dataset, {
  targets: () => ({ ids: matching ?? grid.targets(), seen }),
  changed: show,
  home: () => (grid.images.length ? grid.list : byId("count")),
});

const percent = (share) => `${shown(Math.round(100 * share))}\u00a0%`;

function labelOf(image) {
  const words = {
    waiting: t("not labeled yet"),
    unknown: t("unknown"),
    skipped: t("skipped"),
    disputed: t("disputed"),
    removed: t("removed"),
  };
  return words[image.status] ?? (image.classes.join(", ") || t("none of the classes"));
}

function noteOf(image) {
  const named = (classes) => classes.join(", ") || t("none of the classes");
  if (image.suspected) {
    return t("suspect: {label}? {share}", {
      label: named(image.suspected),
      share: percent(image.probability),
    });
  }
  if (image.reason) return t("Sent back: {reason}", { reason: image.reason });
  if (image.predicted) {
    const values = { label: named(image.predicted), share: percent(image.confidence) };
    return t("model: {label} {share}", values);
  }
  return image.is_test ? t("test image") : "";
}

// That an image is a test image is no warning.
const isQuiet = (image) => !image.suspected && !image.reason && !image.predicted;

function link(to, places) {
  const parameters = new URLSearchParams(filters);
  for (const [name, place] of Object.entries(places)) parameters.set(name, place);
  return `${to}?${parameters}`;
}

async function show() {
  const page = await request(`${root}${location.search}`);
  if (!page.images.length && (address.has("after") || address.has("before"))) {
    location.replace(link(location.pathname, {})); // what this page showed has changed meanwhile
    return;
  }
  grid.selected.clear();
  matching = null;
  ({ seen } = page);
  grid.show(
    page.images.map((image) => {
      const lines = { text: labelOf(image), note: noteOf(image), isQuiet: isQuiet(image) };
      return { ...image, ...lines, title: image.path };
    }),
  );
  const places = { prev: ["before", page.previous], next: ["after", page.next] };
  for (const [name, [parameter, place]] of Object.entries(places)) {
    const element = document.querySelector(`#pages [rel=${name}]`);
    element.hidden = !place;
    if (place) element.href = link(location.pathname, { [parameter]: place });
  }
  byId("pages").hidden = !page.previous && !page.next;
  await showCount();
}

async function showCount() {
  ({ count, most } = await request(`${root}/count?${filters}`));
  const many = t("more than {most} images", { most });
  const some = tn("{count} image", "{count} images", count ?? 0);
  byId("count").textContent = count === 0 ? t("No image matches.") : count === null ? many : some;
  showActions();
}

function showActions() {
  const selected = matching?.length ?? grid.selected.size;
  const parts = [];
  if (selected) {
    const text = document.createElement("span");
    text.className = "selected";
    text.textContent = tn("{count} selected", "{count} selected", selected);
    parts.push(
      text,
      button(t("Send back…"), () => actions.reject()),
      button(t("Label as…"), () => actions.label()),
      button(t("Labels are right"), () => actions.confirm()),
    );
    const [only] = grid.images.filter((each) => grid.selected.has(each.id));
    if (selected === 1 && !matching) parts.push(button(t("History"), () => open(only)));
    parts.push(button(t("Select none"), () => grid.select([])));
  } else if (grid.images.length) {
    parts.push(button(t("Select page"), () => grid.selectAll()));
  }
  const isMore = count === null || count > grid.images.length;
  if (isMore && !matching && grid.images.length) {
    const text = count === null ? t("Select the first {most}", { most }) : t("Select all {count}", { count });
    parts.push(button(text, () => actions.run(selectMatching)));
  }
  const hadFocus = byId("actions").contains(document.activeElement);
  byId("actions").replaceChildren(...parts);
  if (hadFocus) actions.goHome(); // otherwise the focus would be lost
}

async function selectMatching() {
  const { ids } = await request(`${root}/ids?${filters}`);
  grid.selectAll();
  matching = ids;
  showActions();
}

function open(image) {
  sessionStorage.setItem(`results:${app.dataset.project}`, location.href); // for the way back
  location.href = link(`${location.pathname}/${image.id}`, { at: image.place });
}

grid.onOpen = open;
grid.onSelect = (isNew) => {
  if (isNew) matching = null;
  const out = new Set(grid.images.map((each) => each.id).filter((id) => !grid.selected.has(id)));
  matching = matching?.filter((id) => !out.has(id)) ?? null;
  showActions();
};
grid.onKey = (event) => {
  if (event.ctrlKey || event.metaKey) return false;
  if (event.key === "r" || event.key === "Delete") actions.reject();
  else if (event.key === "l") actions.label();
  else return false;
  return true;
};

// An address names what was chosen and nothing else.
byId("filters").addEventListener("formdata", ({ formData }) => {
  for (const [name, value] of [...formData]) if (!value.trim()) formData.delete(name);
});

const keys = document.createElement("p");
keys.id = "grid-keys";
keys.className = "hint keys";
keys.textContent = t("Arrow keys: go to an image · Space: select · Enter: history · R: send back · L: label");
grid.list.setAttribute("aria-describedby", keys.id);
byId("results").append(grid.element, keys);
await actions.run(show);
const cameFrom = /\/data\/(\d+)(\?|$)/.exec(document.referrer)?.[1];
if (cameFrom) {
  actions.goHome();
  const position = grid.images.findIndex((each) => each.id === Number(cameFrom));
  if (position >= 0) grid.moveTo(position); // it may have left the results, or this page of them
}
document.documentElement.dataset.ready = "yes";
