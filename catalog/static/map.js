// The map page: loads the map and what is known of its images, and labels groups of them.
import { MapApi } from "./map_api.js";
import { entriesOf, nameOfLabel } from "./map_colors.js";
import { Group } from "./map_group.js";
import { Legend } from "./map_legend.js";
import { ClassNames } from "./map_names.js";
import { DIMMED, HIDDEN, PLAIN, drawnOrder } from "./map_points.js";
import { MapView } from "./map_view.js";
import { button, failure, leftAlone, notice } from "./notices.js";
import { t, tn } from "./texts.js";

const LOOK_MS = 1500; // between looks for a new map while one is computed
const SPEAK_MS = 500; // after the last key, before the frame's content is told

const byId = (id) => document.getElementById(id);
const app = byId("app");
const api = new MapApi(app.dataset.project);
const dark = matchMedia("(prefers-color-scheme: dark)");

let info; // the project: task and classes
let names = new Map();
let version = "";
let ids = new Float64Array(0);
let known = {}; // "labels", "predictions" and "people": {values, codes}
let shownKind = "labels";
let looks = new Uint8Array(0); // of each code of the present colouring
let codes = new Uint16Array(0);
let selected = new Set(); // indices
let group = null;

const isShown = (index) => looks[codes[index]] === PLAIN;
const label = (index) => known.labels.values[known.labels.codes[index]];
const prediction = (index) => known.predictions.values[known.predictions.codes[index]];

function describe(index) {
  const value = label(index);
  const suggested = prediction(index);
  const isOpen = !value || value.status === "waiting" || value.status === "skipped";
  const classes = value?.status === "labeled" ? value.classes : isOpen && suggested ? suggested.classes : [];
  return {
    label: isOpen ? "" : nameOfLabel(value, names),
    prediction: suggested ? suggested.classes.map((id) => names.get(id) ?? "?").join(", ") : "",
    isLabeled: !isOpen,
    isTest: Boolean(value?.is_test),
    classes,
  };
}

async function reporting(action) {
  const hadFocus = document.activeElement !== document.body;
  try {
    await action();
  } catch (error) {
    failure(error.message);
  }
  const isLost = document.activeElement === document.body || document.activeElement.disabled;
  if (hadFocus && isLost) byId("overlay").focus({ preventScroll: true }); // its button is gone
}

// The image under the pointer or next to the frame's middle.
function hover(index, x, y) {
  const card = byId("card");
  card.hidden = index < 0;
  if (index < 0) return;
  const found = describe(index);
  const image = card.querySelector("img");
  const source = api.thumbnail(ids[index], version);
  if (image.getAttribute("src") !== source) image.src = source;
  image.hidden = false;
  byId("card-label").textContent = found.label || (found.isTest ? t("test image, no label") : t("no label"));
  byId("card-prediction").textContent = found.prediction ? t("predicted: {name}", { name: found.prediction }) : "";
  const sheet = byId("sheet");
  const [width, height] = [card.offsetWidth, card.offsetHeight];
  const left = x + 16 + width < sheet.clientWidth ? x + 16 : x - 16 - width;
  const top = Math.max(4, Math.min(y - height / 2, sheet.clientHeight - height - 4));
  card.style.transform = `translate(${Math.max(4, left)}px, ${top}px)`;
}

let speaking = 0;
function framed(index, count) {
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    const inFrame = tn("{count} image in the frame", "{count} images in the frame", count());
    const nearest = index >= 0 ? describe(index) : null;
    const name = nearest && (nearest.label || nearest.prediction || t("no label"));
    byId("spoken").textContent = name ? t("{name}; {count}", { name, count: inFrame }) : inFrame;
  }, SPEAK_MS);
}

// The images of a line or the frame; null takes the selection back.
function select(indices) {
  selected = new Set(indices ?? []);
  restyle();
  if (indices === null) return;
  if (indices.length) group.open(indices);
  else failure(t("No image was inside; draw the line around some."));
}

function showSelection() {
  const show = byId("show-selection");
  show.hidden = !selected.size;
  show.textContent = tn("Show {count} selected image", "Show {count} selected images", selected.size);
}

const classNames = new ClassNames(byId("names"));
const view = new MapView(byId("points"), byId("overlay"), isShown, {
  hover,
  framed,
  select,
  moved: () => classNames.place(view),
});
const legend = new Legend(byId("legend"), () => restyle());
let coloring = { entries: [], of: [] };

// Takes what is known of the images over into colours and the legend.
function recolor() {
  const source = known[{ progress: "labels" }[shownKind] ?? shownKind];
  if (!source) return;
  codes = source.codes;
  coloring = entriesOf(shownKind, source, info.classes, dark.matches);
  const table = new Uint8Array(4 * source.values.length);
  coloring.of.forEach((entries, code) => entries.length && table.set(coloring.entries[entries[0]].color, 4 * code));
  const words = new Uint32Array(table.buffer);
  const colors = new Uint32Array(codes.length);
  for (let i = 0; i < codes.length; i++) colors[i] = words[codes[i]];
  view.drawing.setColors(new Uint8Array(colors.buffer));
  const paper = dark.matches ? [0.125, 0.14, 0.165] : [1, 1, 1]; // --panel of the style sheet
  view.theme = { ink: dark.matches ? [1, 1, 1] : [0, 0, 0], paper };
  legend.show(coloring.entries);
  classNames.find(view.index.positions, codes, coloring);
  restyle();
}

// Applies the legend's filter, and the selection.
function restyle() {
  looks = Uint8Array.from(coloring.of, (entries) => {
    const keys = entries.map((entry) => coloring.entries[entry].key);
    if (keys.every((key) => legend.hidden.has(key))) return HIDDEN;
    return legend.highlighted === null || keys.includes(legend.highlighted) ? PLAIN : DIMMED;
  });
  const { order, parts } = drawnOrder(codes, looks, selected);
  view.drawing.setOrder(order, parts);
  classNames.show(legend);
  showSelection();
  view.redraw();
}

async function loadColors() {
  const wanted = known.people || shownKind === "people" ? ["labels", "predictions", "people"] : ["labels", "predictions"];
  const found = await Promise.all(wanted.map((name) => api.coloring(version, name)));
  known = Object.fromEntries(wanted.map((name, position) => [name, found[position]]));
  recolor();
}

async function loadMap(next) {
  const points = await api.points(next);
  const chosen = new Set([...selected].map((index) => ids[index]));
  version = next;
  ids = points.ids;
  selected = new Set();
  if (chosen.size) ids.forEach((id, index) => chosen.has(id) && selected.add(index));
  hover(-1);
  view.setPositions(points.positions);
  if (!group?.dialog.open) view.fit();
  await loadColors();
  document.documentElement.dataset.map = version;
}

function showState(state) {
  const { work } = state;
  const isOpen = work !== null && ["waiting", "running"].includes(work.state);
  byId("progress").hidden = !isOpen;
  if (isOpen) {
    const bar = byId("progress").querySelector("progress");
    if (work.total) [bar.max, bar.value] = [work.total, work.done];
    else bar.removeAttribute("value");
    const soon = t("begins soon");
    const step = (work.state === "running" && work.message) || soon;
    byId("progress-text").textContent = state.version && !state.is_arranged
      ? t("First view by principal components. The map is being arranged: {step}", { step })
      : t("The map is being computed: {step}", { step });
  }
  const failed = work?.state === "failed" ? t("The map can't be computed: {reason}", { reason: work.message }) : "";
  byId("empty").hidden = Boolean(state.version);
  byId("empty").textContent = state.message || failed || (isOpen ? t("The map appears here.") : work?.message || "");
  if (state.version && failed) failure(failed, button(t("Try again"), () => reporting(() => follow(true))));
  byId("growth").hidden = isOpen || !state.placed;
  byId("growth").querySelector("p").textContent = tn(
    "{count} image has joined since the map was arranged.",
    "{count} images have joined since the map was arranged.",
    state.placed,
  );
  document.documentElement.dataset.work = isOpen ? "open" : "done";
  return isOpen;
}

// Shows the map, and newer ones as long as the helper works on it.
async function follow(asks, anew = false) {
  let state = asks ? await api.request(anew) : await api.state();
  try {
    for (;;) {
      const isOpen = showState(state);
      if (state.version && state.version !== version && !group?.dialog.open) {
        await loadMap(state.version).catch((error) => {
          // Replaced meanwhile, or out of reach: the next look finds it.
          if (error.status !== 404 && !isPassing(error)) throw error;
        });
      }
      if (!isOpen && (!state.version || state.version === version)) return;
      state = await nextState();
    }
  } catch (error) {
    byId("progress").hidden = true; // nobody looks any more
    throw error;
  }
}

const isPassing = (error) => !error.status || error.status >= 500;

// The state after a while; while the server can't be reached, that is said, and it is asked again.
async function nextState() {
  for (let isLost = false; ; ) {
    do await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    while (document.hidden);
    try {
      const state = await api.state();
      if (isLost) notice("");
      return state;
    } catch (error) {
      if (!isPassing(error)) throw error;
      isLost = true;
      failure(error.message);
    }
  }
}

async function give(indices, classes) {
  const done = await api.label([...indices].map((index) => ids[index]), known.labels.seen, classes);
  const values = { names: classes.map((id) => names.get(id)).join(", ") };
  const parts = [tn("{count} image labeled as {names}.", "{count} images labeled as {names}.", done.changed, values)];
  parts.push(...leftAlone(done));
  if (done.tests) {
    parts.push(tn("{count} test image was left alone.", "{count} test images were left alone.", done.tests));
  }
  selected = new Set();
  const back = button(t("Undo"), () => reporting(() => undo(done.batch, back)));
  notice(`${parts.join(" ")} `, ...(done.changed ? [back] : []));
  reporting(refreshColors); // the group closes meanwhile
}

async function undo(batch, back) {
  back.disabled = true;
  const { undone, kept } = await api.undo(batch);
  const parts = [tn("{count} label taken back.", "{count} labels taken back.", undone)];
  if (kept) parts.push(tn("{count} was labeled again or is open elsewhere.", "{count} were labeled again or are open elsewhere.", kept));
  notice(parts.join(" "));
  await refreshColors();
}

// A map that was replaced meanwhile is loaded anew.
async function refreshColors() {
  await loadColors().catch((error) => {
    if (error.status !== 404) throw error;
    return follow(false);
  });
}

function setMode(isSelecting) {
  view.isSelecting = isSelecting;
  byId("overlay").classList.toggle("selecting", isSelecting);
  byId("mode-move").setAttribute("aria-pressed", String(!isSelecting));
  byId("mode-select").setAttribute("aria-pressed", String(isSelecting));
}

byId("coloring").addEventListener("change", (event) =>
  reporting(async () => {
    shownKind = event.target.value;
    legend.hidden.clear();
    if (shownKind === "people" && !known.people) await loadColors();
    else recolor();
  }),
);
byId("mode-move").addEventListener("click", () => setMode(false));
byId("mode-select").addEventListener("click", () => setMode(true));
byId("zoom-in").addEventListener("click", () => view.zoomBy(1.5));
byId("zoom-out").addEventListener("click", () => view.zoomBy(1 / 1.5));
byId("fit").addEventListener("click", () => view.fit());
byId("legend-all").addEventListener("click", () => legend.setAll(true));
byId("legend-none").addEventListener("click", () => legend.setAll(false));
byId("show-selection").addEventListener("click", () => group.open([...selected]));
byId("anew").addEventListener("click", () => reporting(() => follow(true, true)));
byId("help-button").addEventListener("click", () => byId("help").showModal());
document.addEventListener("keydown", (event) => {
  if (event.key === "?" && !document.querySelector("dialog[open]")) byId("help").showModal();
});
dark.addEventListener("change", () => recolor());
await reporting(async () => {
  info = await api.describe();
  names = new Map(info.classes.map((each) => [each.id, each.name]));
  group = new Group({
    classes: info.classes,
    isMulti: info.task === "multi_label",
    most: Number(app.dataset.most),
    describe,
    idOf: (index) => ids[index],
    version: () => version,
    give,
  });
  group.dialog.addEventListener("close", () => byId("overlay").focus({ preventScroll: true }));
  document.documentElement.dataset.ready = "yes";
  await follow(true);
});
