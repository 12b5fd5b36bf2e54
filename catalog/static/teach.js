// The teach page: cards of classes, training, and the live test. The server holds all state.
import { Api } from "./teach_api.js";
import { button, ClassCard } from "./teach_card.js";
import { SampleGrid } from "./teach_samples.js";
import { LiveTest } from "./teach_try.js";
import { t, tn } from "./texts.js";

const BUSY_MS = 250; // between looks at the state while the server works
const IDLE_MS = 4000;
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
let wantsTraining = false;
let lastCard = null; // pasted images go there

function say(text, ...actions) {
  const notice = byId("notice");
  notice.hidden = !text;
  notice.replaceChildren(text, ...actions);
  clearTimeout(say.timer);
  if (text) say.timer = setTimeout(() => say(""), 12_000);
}

// Runs a request; what goes wrong is said on the page.
async function attempt(action) {
  try {
    return await action();
  } catch (error) {
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
    await attempt(() => api.post("/samples/remove", { ids }));
    const undo = button(t("Undo"), () => {
      say("");
      attempt(() => api.post("/samples/restore", { ids }));
    });
    say(tn("{count} image deleted.", "{count} images deleted.", ids.length), undo);
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
    if (!info.count || (await confirmed(question))) await attempt(() => api.post(`/classes/${info.id}/erase`));
  },
  addFrames: async (id, frames, burst) => {
    const found = await api.addSamples(id, frames, burst);
    refresh();
    return found;
  },
  addFiles: (id, files) => attempt(() => addFiles(id, files)),
  async addCorrection(id, blob) {
    const file = blob instanceof File ? blob : new File([blob], "webcam.jpg", { type: blob.type });
    await attempt(() => api.addSamples(id, [file]));
    const { name } = page.classes().find((each) => each.id === id);
    say(t("Added to {name}; the model learns it now.", { name }));
  },
  showAll,
};
const live = new LiveTest(api, page);

async function addFiles(id, files) {
  let [added, known] = [0, 0];
  const refused = [];
  let batch = [];
  const send = async () => {
    const found = await api.addSamples(id, batch);
    added += found.new;
    known += found.known;
    refused.push(...found.refused);
    say(t("{done} of {total} images added", { done: added + known, total: files.length }));
    batch = [];
    refresh();
  };
  for (const file of files) {
    const size = batch.reduce((sum, each) => sum + each.size, file.size);
    if (batch.length && (batch.length >= FILES_PER_REQUEST || size > BYTES_PER_REQUEST)) await send();
    batch.push(file);
  }
  if (batch.length) await send();
  const parts = [tn("{count} image added", "{count} images added", added)];
  if (known) parts.push(tn("{count} was here already", "{count} were here already", known));
  for (const [name, reason] of refused.slice(0, 3)) parts.push(t("{name} can't be used: {reason}", { name, reason }));
  if (refused.length > 3) parts.push(t("and {count} more", { count: refused.length - 3 }));
  if (files.length) say(`${parts.join("; ")}.`);
}

function confirmed(question) {
  const dialog = byId("confirm");
  byId("question").textContent = question;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

// All samples of a class, page by page.
async function showAll(info) {
  const dialog = byId("all");
  const grid = new SampleGrid(info.id, info.name, page.classes, {
    move: async (ids, classId) => {
      await page.move(ids, classId);
      await load();
    },
    remove: async (ids) => {
      await page.remove(ids);
      await load();
    },
  });
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
  };
  byId("more").onclick = () => {
    views += 1;
    load();
  };
  await load();
  dialog.showModal();
}

function schedule(milliseconds) {
  clearTimeout(timer);
  timer = setTimeout(refresh, milliseconds);
}

let refreshing = null;
function refresh() {
  refreshing ??= load().finally(() => {
    refreshing = null;
  });
  return refreshing;
}

async function load() {
  let next;
  try {
    next = await api.get();
  } catch (error) {
    say(error.message);
    schedule(IDLE_MS);
    return;
  }
  const previous = state;
  state = next;
  await showCards();
  showTraining();
  showRemoved();
  if (state.model?.version !== previous?.model?.version && state.model) live.refresh();
  const isBusy = state.progress.phase !== "idle" || (state.model && !state.model.validation);
  schedule(isBusy ? BUSY_MS : IDLE_MS);
}

async function showCards() {
  const present = new Set(state.classes.map((each) => each.id));
  for (const [id, card] of cards) {
    if (present.has(id)) continue;
    card.dispose();
    cards.delete(id);
  }
  const changed = [];
  for (const info of state.classes) {
    let card = cards.get(info.id);
    if (!card) {
      card = new ClassCard(page, info);
      cards.set(info.id, card);
      byId("cards").append(card.element);
      card.element.addEventListener("focusin", () => (lastCard = info.id));
      card.element.addEventListener("pointerdown", () => (lastCard = info.id));
    }
    card.update(info);
    const version = `${info.count} ${info.newest}`;
    if (card.version !== version) {
      card.version = version;
      changed.push(card.showSamples());
    }
  }
  await Promise.all(changed);
}

const PHASES = {
  preparing: () => t("The model is being prepared. This takes half a minute, once."),
  waiting: () => t("Waiting…"),
  features: ({ done, total }) => t("Looking at the images: {done} of {total}", { done, total }),
  training: () => t("Training…"),
  validating: () => t("Testing on images that were left out…"),
};

function showTraining() {
  const { progress, model } = state;
  const bar = byId("progress");
  bar.hidden = progress.phase !== "features";
  bar.max = progress.total || 1;
  bar.value = progress.done;
  byId("train").textContent = model ? t("Train again") : t("Train");
  let text = PHASES[progress.phase]?.(progress) ?? "";
  if (!text && progress.message) text = progress.message;
  if (!text && model) {
    text = t("Trained on {images} in {seconds} seconds.", {
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

function showRemoved() {
  const area = byId("removed");
  area.hidden = !state.removed;
  if (!state.removed) return;
  const restore = button(t("Restore"), () => attempt(() => api.post("/samples/restore", {})), "quiet");
  const erase = button(t("Delete for good"), () => attempt(() => api.post("/samples/erase", {})), "quiet");
  area.replaceChildren(tn("{count} deleted image", "{count} deleted images", state.removed), restore, erase);
}

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
byId("name").addEventListener("change", (event) => attempt(() => api.post("/name", { name: event.target.value })));
byId("name").addEventListener("keydown", (event) => event.key === "Enter" && event.target.blur());
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
  if (!files.length) return;
  event.preventDefault();
  if (byId("try").contains(document.activeElement)) live.openPhoto(files[0]);
  else page.addFiles(lastCard ?? state.classes[0]?.id, files);
});
// Frames that were not saved yet would be lost.
window.addEventListener("beforeunload", (event) => {
  if ([...cards.values()].some((card) => card.recorder.isBusy)) event.preventDefault();
});

await refresh();
document.documentElement.dataset.ready = "yes";
