// The teach page: cards of classes, training, and the live test. The server holds all state.
import { Api, RequestError } from "./teach_api.js";
import { button, ClassCard } from "./teach_card.js";
import { SampleGrid } from "./teach_samples.js";
import { LiveTest } from "./teach_try.js";
import { t, tn } from "./texts.js";

const [BUSY_MS, LAST_BUSY_MS] = [250, 2000]; // between looks at the state while the server works, the longer the rarer
const IDLE_MS = 4000;
const NOTICE_MS = 12_000;
const FILES_PER_REQUEST = 20;
const BYTES_PER_REQUEST = 20_000_000;
const PER_VIEW = 120; // samples in the view of all
const byId = (id) => document.getElementById(id);
const { lang } = document.documentElement;
const percent = (share) => new Intl.NumberFormat(lang, { style: "percent", maximumFractionDigits: 0 }).format(share);

const api = new Api(byId("app").dataset.project);
const cards = new Map();
let state = null;
let timer = 0;
let lastCard = null; // id of its class: pasted images go there
let openAll = null; // the open view of all samples of a class

// Says something; with an action it stays until it is closed.
function say(text, ...actions) {
  const notice = byId("notice");
  placeNotice();
  clearTimeout(say.timer);
  leaveNotice();
  notice.hidden = !text;
  notice.replaceChildren(text);
  if (actions.length) {
    const close = button("×", () => say(""));
    close.setAttribute("aria-label", t("Close"));
    notice.append(...actions, close);
  } else if (text) {
    say.timer = setTimeout(() => say(""), NOTICE_MS);
  }
}

// What is outside an open dialog can't be reached.
function placeNotice() {
  const [dialog] = document.querySelectorAll("dialog:modal");
  const place = dialog ?? byId("main");
  if (byId("notice").parentElement !== place) place.append(byId("notice"));
}

// Back to where the focus was before it came into the notice.
let cameFrom = null;
byId("notice").addEventListener("focusin", (event) => {
  if (event.relatedTarget && !byId("notice").contains(event.relatedTarget)) cameFrom = event.relatedTarget;
});
function leaveNotice() {
  if (byId("notice").contains(document.activeElement)) cameFrom?.focus({ preventScroll: true });
  cameFrom = null;
}

// Runs a request and resolves to its answer; to null after saying what went wrong.
async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    say(error.message);
    return null;
  } finally {
    refresh();
  }
}

const page = {
  classes: () => state?.classes ?? [],
  model: () => state?.model ?? null,
  say,
  samples: (id, limit, offset = 0) => api.get(`/classes/${id}/samples?limit=${limit}&offset=${offset}`),
  move: (ids, classId) => attempt(() => api.post("/samples/move", { ids, class_id: classId })),
  async remove(ids) {
    const found = await attempt(() => api.post("/samples/remove", { ids }));
    if (!found) return null;
    const undo = button(t("Undo"), () => {
      say("");
      restore(ids);
    });
    say(tn("{count} image deleted.", "{count} images deleted.", ids.length), undo);
    return found;
  },
  rename: (id, name) => attempt(() => api.post(`/classes/${id}`, { name })),
  enable: (id, isEnabled) => attempt(() => api.post(`/classes/${id}`, { is_enabled: isEnabled })),
  async erase(info) {
    const question = tn(
      "Delete “{name}” with its {count} image? This can't be undone.",
      "Delete “{name}” with its {count} images? This can't be undone.",
      info.count,
      { name: info.name },
    );
    if (info.count && !(await confirmed(question))) return;
    if (!(await attempt(() => api.post(`/classes/${info.id}/erase`)))) return;
    await refresh();
    if (document.activeElement === document.body) byId("add-class").focus();
  },
  addFrames: async (id, frames, burst) => {
    const found = await api.addSamples(id, frames, burst);
    refresh();
    return found;
  },
  // Whether images can never be put into a class, since it or the project is gone.
  async isHopeless(id, error) {
    if (error.status !== 422) return error.status === 404;
    try {
      const { classes } = await api.get();
      return !classes.some((each) => each.id === id);
    } catch (problem) {
      return problem.status === 404;
    }
  },
  addFiles,
  async addCorrection(id, blob) {
    const file = blob instanceof File ? blob : new File([blob], "webcam.jpg", { type: blob.type });
    const found = await attempt(() => api.addSamples(id, [file]));
    if (!found) return;
    const { name } = page.classes().find((each) => each.id === id) ?? { name: "" };
    if (found.new + found.known) say(t("Added to {name}; the model learns it now.", { name }));
    else say(`${describeRefused(found.refused).join("; ")}.`);
  },
  showAll,
};
const live = new LiveTest(api, page);

// Puts deleted images back: those with these ids, or all.
async function restore(ids) {
  const total = ids?.length ?? state.removed;
  const found = await attempt(() => api.post("/samples/restore", ids ? { ids } : {}));
  if (!found || found.restored >= total) return;
  say(t("{restored} of {total} images are back; the others, or their class, were deleted for good.", { restored: found.restored, total }));
}

async function addFiles(id, files) {
  const sum = { new: 0, known: 0, refused: [] };
  const send = async (batch) => {
    try {
      const found = await api.addSamples(id, batch);
      sum.new += found.new;
      sum.known += found.known;
      sum.refused.push(...found.refused);
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      if (error.status === 413 && batch.length > 1) {
        for (const file of batch) await send([file]); // one of them may be too large, or all together
        return;
      }
      sum.refused.push(...batch.map((file) => [file.name, error.message]));
    }
    say(t("{done} of {total} images added", { done: sum.new + sum.known, total: files.length }));
    refresh();
  };
  for (const batch of batches(files)) await send(batch);
  const parts = [tn("{count} image added", "{count} images added", sum.new)];
  if (sum.known) parts.push(tn("{count} was here already", "{count} were here already", sum.known));
  parts.push(...describeRefused(sum.refused));
  if (files.length) say(`${parts.join("; ")}.`);
}

function batches(files) {
  const found = [];
  let bytes = 0;
  for (const file of files) {
    const isFull = found.at(-1)?.length === FILES_PER_REQUEST || bytes + file.size > BYTES_PER_REQUEST;
    if (!found.length || isFull) {
      found.push([]);
      bytes = 0;
    }
    found.at(-1).push(file);
    bytes += file.size;
  }
  return found;
}

function describeRefused(refused) {
  const sentence = ([name, reason]) => t("{name} can't be used: {reason}", { name, reason: reason.replace(/\.$/, "") });
  const parts = refused.slice(0, 3).map(sentence);
  if (refused.length > 3) parts.push(t("and {count} more", { count: refused.length - 3 }));
  return parts;
}

function confirmed(question) {
  const dialog = byId("confirm");
  byId("question").textContent = question;
  dialog.returnValue = "no";
  dialog.showModal();
  placeNotice();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

// All samples of a class, page by page. It is shown anew whenever the class changes.
async function showAll(info) {
  const dialog = byId("view-all");
  const leave = () => dialog.querySelector("form button").focus();
  const grid = new SampleGrid(info.id, info.name, page.classes, { move: page.move, remove: page.remove, leave });
  grid.element.id = "all-samples";
  dialog.querySelector(".grid-here").replaceChildren(grid.element);
  byId("all-title").textContent = info.name;
  let views = 1;
  const load = async () => {
    const parts = await Promise.all(
      [...Array(views).keys()].map((view) => page.samples(info.id, PER_VIEW, view * PER_VIEW)),
    );
    grid.show(parts.flat());
    byId("more").hidden = parts.at(-1).length < PER_VIEW;
    return parts;
  };
  byId("more").onclick = async () => {
    views += 1;
    if (!(await attempt(load))) views -= 1;
  };
  if (!(await attempt(load))) return;
  openAll = { id: info.id, version: versionOf(info), load };
  if (!dialog.open) dialog.showModal(); // after a double click it is
  placeNotice();
}

const versionOf = ({ count, newest }) => `${count} ${newest}`;

function schedule(milliseconds) {
  clearTimeout(timer);
  timer = setTimeout(refresh, milliseconds);
}

// Loads the state; once more if that is wanted while it is on its way, since it may be from before a change.
let refreshing = null;
let isStale = false;
let isDeleted = false; // the project
function refresh() {
  if (isDeleted) return Promise.resolve();
  isStale = true;
  refreshing ??= loadWhileStale().finally(() => {
    refreshing = null;
  });
  return refreshing;
}

async function loadWhileStale() {
  while (isStale) {
    isStale = false;
    await load();
  }
}

async function load() {
  let milliseconds = IDLE_MS;
  try {
    const previous = state;
    state = await api.get();
    milliseconds = nextLook(previous);
    const changed = showCards();
    showTraining();
    showRemoved();
    if (state.model && state.model.version !== previous?.model?.version) live.refresh();
    await Promise.all(changed);
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    if (error.status === 404) return showDeleted();
    if (!byId("notice").querySelector("button")) say(error.message); // not instead of "Undo"
    milliseconds = IDLE_MS;
  } finally {
    if (!isDeleted) schedule(milliseconds);
  }
}

// The project is gone: it was deleted in another tab, or before the browser went back to this page.
function showDeleted() {
  isDeleted = true;
  clearTimeout(timer);
  const message = document.createElement("p");
  message.className = "welcome";
  const link = document.createElement("a");
  link.href = "/teach";
  link.textContent = t("To the projects");
  message.append(t("This project was deleted."), " ", link);
  byId("app").replaceChildren(message);
}

let busyMilliseconds = BUSY_MS;
function nextLook(previous) {
  const { progress, model } = state;
  if (progress.phase === "idle" && (!model || model.validation)) return IDLE_MS;
  const isSame = JSON.stringify([progress, model]) === JSON.stringify([previous?.progress, previous?.model]);
  busyMilliseconds = isSame ? Math.min(1.5 * busyMilliseconds, LAST_BUSY_MS) : BUSY_MS;
  return busyMilliseconds;
}

// Shows the cards; returns promises of those whose samples have changed.
function showCards() {
  const present = new Set(state.classes.map((each) => each.id));
  for (const [id, card] of cards) {
    if (present.has(id)) continue;
    card.dispose();
    cards.delete(id);
  }
  if (!present.has(lastCard)) lastCard = null;
  return [...state.classes.map(showCard), showOpenAll()];
}

async function showCard(info) {
  let card = cards.get(info.id);
  if (!card) {
    card = new ClassCard(page, info);
    cards.set(info.id, card);
    byId("cards").append(card.element);
    card.element.addEventListener("focusin", () => (lastCard = info.id));
    card.element.addEventListener("pointerdown", () => (lastCard = info.id));
  }
  const version = versionOf(info);
  if (card.version !== version) {
    await card.showSamples(); // before the number: "select all" would miss images that are counted and not yet shown
    card.version = version;
  }
  card.update(info);
}

async function showOpenAll() {
  if (!openAll) return;
  const info = state.classes.find((each) => each.id === openAll.id);
  if (!info) {
    byId("view-all").close();
    return;
  }
  const version = versionOf(info);
  if (openAll.version === version) return;
  const view = openAll;
  await view.load();
  view.version = version;
}

const PHASES = {
  preparing: () => t("The model is being prepared. This takes half a minute, once."),
  waiting: () => t("Just a moment…"),
  features: () => t("Looking at the images…"),
  training: () => t("Training…"),
  validating: () => t("Testing on images that were left out…"),
};

function showTraining() {
  const { progress, model } = state;
  const bar = byId("progress");
  bar.hidden = progress.phase !== "features";
  bar.max = progress.total || 1;
  bar.value = progress.done;
  const { done, total } = progress;
  byId("done").textContent = bar.hidden ? "" : t("{done} of {total}", { done, total }); // not spoken at each step
  byId("train").textContent = model ? t("Train again") : t("Train");
  let text = PHASES[progress.phase]?.() ?? "";
  if (!text && progress.message) text = progress.message;
  if (!text && model) {
    text = t("Trained on {images} in {seconds} seconds. After a change it trains again by itself.", {
      images: tn("{count} image", "{count} images", model.images),
      seconds: Math.max(0.01, Math.round(model.seconds * 100) / 100),
    });
  }
  if (!text) text = t("Two classes with a few images each are enough to start.");
  if (byId("training").textContent !== text) byId("training").textContent = text;
  const accuracy = model ? [describeAccuracy(model.validation), describeHint(model.validation, model.classes)] : [];
  byId("accuracy").textContent = accuracy.filter(Boolean).join(" ");
  document.body.dataset.trained = model?.version ?? "";
  document.body.dataset.validated = String(Boolean(model?.validation));
}

function describeAccuracy(validation) {
  if (!validation) return "";
  if (validation.accuracy === null) return t("There are too few different images to say how good it is.");
  return t("Right on {share} of images that it had not seen, probably between {low} and {high}.", {
    share: percent(validation.accuracy),
    low: percent(validation.low),
    high: percent(validation.high),
  });
}

function describeHint(validation, ids) {
  const hint = validation?.hint;
  if (!hint) return "";
  const nameOf = (index) => state.classes.find((each) => each.id === ids[index])?.name ?? "";
  const name = nameOf(hint.class_index);
  if (hint.kind === "more_images") return t("More images of {name} would help.", { name });
  if (hint.kind === "other_light") {
    return t("Record {name} again, in other light and in front of another background.", { name });
  }
  const other = hint.other === null ? "" : nameOf(hint.other);
  return t("{name} is taken for {other}: show what sets them apart.", { name, other });
}

let shownRemoved = null;
function showRemoved() {
  if (state.removed === shownRemoved) return; // otherwise its buttons would lose the focus at each look
  shownRemoved = state.removed;
  const area = byId("removed");
  const hadFocus = area.contains(document.activeElement);
  area.hidden = !state.removed;
  const restoreAll = button(t("Restore"), () => restore(null), "quiet");
  const erase = button(t("Delete for good"), () => attempt(() => api.post("/samples/erase", {})), "quiet");
  area.replaceChildren(tn("{count} deleted image", "{count} deleted images", state.removed), restoreAll, erase);
  if (hadFocus) (state.removed ? restoreAll : byId("add-class")).focus();
}

byId("view-all").addEventListener("close", () => (openAll = null));
for (const dialog of [byId("view-all"), byId("confirm")]) dialog.addEventListener("close", placeNotice);
byId("train").addEventListener("click", () => attempt(() => api.post("/train")));
byId("add-class").addEventListener("click", async () => {
  const taken = new Set(page.classes().map((each) => each.name));
  let number = taken.size + 1;
  while (taken.has(t("Class {number}", { number }))) number += 1;
  const added = await attempt(() => api.post("/classes", { name: t("Class {number}", { number }) }));
  if (!added) return;
  await refresh();
  cards.get(added.id)?.name.focus();
});
byId("name").addEventListener("change", async ({ target }) => {
  const found = await attempt(() => api.post("/name", { name: target.value }));
  const name = found?.name ?? state?.name;
  if (name) target.value = name;
});
byId("name").addEventListener("keydown", (event) => event.key === "Enter" && event.target.blur());
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
  if (!files.length) return;
  event.preventDefault();
  const target = lastCard ?? page.classes()[0]?.id;
  if (byId("try").contains(document.activeElement)) live.openPhoto(files[0]);
  else if (target) addFiles(target, files);
  else say(t("Add a class first: pasted images become examples of it."));
});
// A file dropped beside a card would make the browser leave the page.
for (const kind of ["dragover", "drop"]) {
  document.addEventListener(kind, (event) => {
    if (event.defaultPrevented || !event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "none";
  });
}
// Frames that were not saved yet would be lost.
window.addEventListener("beforeunload", (event) => {
  if ([...cards.values()].some((card) => card.recorder.isBusy)) event.preventDefault();
});

await refresh();
document.documentElement.dataset.ready = "yes";
