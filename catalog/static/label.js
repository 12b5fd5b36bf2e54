// The label page: shows a page of images, takes labels by keyboard, mouse or touch, and submits them.
import { findClasses, normalized } from "./search.js";
import { shown, t, tn } from "./texts.js";

const UNSEEN_MS = 300; // after a page appears, in which Enter can't have been meant for it
const RETRY_SECONDS = 10; // between looks for images that others may give back
const KEEP_SECONDS = 60; // between renewals of the page's lease, which lasts three minutes
const KEPT_STEPS = 50; // that can be undone after a reload
const PAUSES = [1, 2, 4, 8]; // seconds before a request is repeated that the server could not answer
const SWALLOW_MS = 1000; // letters typed on after a class was found do not begin another search

const byId = (id) => document.getElementById(id);
const { project, queue } = byId("app").dataset;
const pagesAddress = `/api/projects/${project}/${queue}`; // of new images, or of those to review
const place = queue === "review" ? `review:${project}` : project; // of what this tab stores
const grid = byId("grid");
const search = byId("search");

let info; // the project: task and classes
let names = new Map(); // class names by id
let page = null;
let answers = new Map(); // image id -> {status, classes}
let selected = new Set(); // positions
let cursor = 0;
let confirmed = false; // whether the next Enter submits a page with unlabeled images
let busy = false; // a request is under way: the page that is shown can't change
let shownAt = 0;
let steps = []; // the answers before each change, for undo
let found = { rest: "", at: 0 }; // the last class found by letters

const stored = (key) => JSON.parse(sessionStorage.getItem(`${key}:${place}`) || "null");
const store = (key, value) => sessionStorage.setItem(`${key}:${place}`, JSON.stringify(value));

class Refused extends Error {
  constructor(status, body) {
    const busy = status === 503 ? t("The server is busy; try again.") : "";
    super(busy || body.detail || t("The server answers with an error ({status}); try again.", { status }));
    Object.assign(this, { status, body });
  }
}

// Each request may be sent twice: the server notices, so an answer that was lost does no harm.
async function request(path, body, pauses = PAUSES) {
  for (const pause of [...pauses, null]) {
    try {
      return await requestOnce(path, body);
    } catch (error) {
      const mayPass = error.status === undefined || error.status === 503;
      if (pause === null || !mayPass) throw error;
      notice(t("The server can't answer right now. Your labels are kept on this page; trying again …"));
      await new Promise((resolve) => setTimeout(resolve, 1000 * pause));
    }
  }
}

async function requestOnce(path, body) {
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Error(t("The server can't be reached. Your labels are kept on this page; try again."));
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, answer);
  return answer;
}

function notice(text, ...buttons) {
  const element = byId("notice");
  element.replaceChildren(text, ...buttons);
  element.hidden = !text;
}

function button(text, action) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = text;
  element.addEventListener("click", action);
  return element;
}

// What is typed stays in this tab, so that it is there again after signing in.
function failed(error) {
  if (error.status !== 401) {
    notice(error.message);
    return;
  }
  const link = document.createElement("a");
  link.href = `/sign-in?next=${encodeURIComponent(location.pathname)}`;
  link.textContent = t("Sign in");
  const text = t("Your session has ended. Your labels are kept in this tab.");
  notice(`${text} `, link);
}

// One request at a time: a second Enter must not submit the next page unseen.
async function exclusively(action) {
  if (busy) return;
  busy = true;
  grid.setAttribute("aria-busy", "true");
  try {
    await action();
  } catch (error) {
    failed(error);
  } finally {
    busy = false;
    grid.removeAttribute("aria-busy");
  }
}

// A tab that was duplicated has the same stored page; whoever holds the page's lock keeps it.
async function isOurs(token) {
  if (!navigator.locks) return true;
  return new Promise((resolve) => {
    navigator.locks.request(`page:${token}`, { ifAvailable: true }, (lock) => {
      resolve(lock !== null);
      return lock ? new Promise((release) => (releaseLock = release)) : undefined;
    });
  });
}
let releaseLock = () => {};

async function openPage() {
  let token = stored("page");
  releaseLock();
  if (token && !(await isOurs(token))) token = null;
  await showNext(await request(pagesAddress, { token }));
  if (page && page.token !== token) {
    releaseLock();
    await isOurs(page.token);
  }
}

async function loadClasses() {
  info = await request(`/api/projects/${project}`);
  names = new Map(info.classes.map((each) => [each.id, each.name]));
}

// Somebody may have added, renamed or merged classes since they were loaded.
async function showNext(next) {
  const isChanged = next.classes_version !== info.classes_version;
  if (isChanged) await loadClasses();
  show(next);
  if (isChanged) notice(t("The classes of this project have changed."));
}

// The same on an open page, on which answers may name a class that was merged into another one.
async function refreshClasses() {
  await loadClasses();
  if (!page) return;
  answers = present(answers);
  steps = steps.map(present);
  page.keys = [...new Set(page.keys.map((id) => info.merged[id] ?? id))];
  for (const image of page.images) image.suggested &&= merged(image.suggested);
  showClasses();
  update();
  notice(t("The classes of this project have changed."));
}

const merged = (classes) => [...new Set(classes.map((id) => info.merged[id] ?? id))];

function present(given) {
  return new Map([...given].map(([id, answer]) => [id, { ...answer, classes: merged(answer.classes ?? []) }]));
}

function show(next) {
  page = next.page;
  shownAt = performance.now();
  steps = [];
  selected.clear();
  cursor = 0;
  confirmed = false;
  byId("done").textContent = t("{done} of {total} done", next);
  notice("");
  store("page", page ? page.token : null);
  grid.replaceChildren();
  if (!page) {
    byId("kind").textContent = next.message;
    grid.append(emptyMessage());
    byId("classes").replaceChildren();
    if (next.may_come) setTimeout(() => page || exclusively(openPage), RETRY_SECONDS * 1000);
    return;
  }
  const typed = stored("answers");
  if (typed?.token === page.token) {
    answers = present(typed.answers);
    steps = typed.steps.map((step) => present(step));
  } else {
    answers = new Map();
    for (const image of page.images) {
      if (image.answer) answers.set(image.id, image.answer);
      else if (image.suggested) answers.set(image.id, { status: "labeled", classes: image.suggested });
    }
  }
  if (page.kind === "cluster") page.images.forEach((_, position) => selected.add(position));
  byId("kind").textContent = {
    manual: t("Images in random order."),
    test: t("These images test the model, so there are no suggestions."),
    cluster: t("Similar images, all selected: one key labels them all."),
    recheck: t("Images that were labeled before, with their earlier labels: correct what is wrong, then submit."),
    prelabeled: t("Suggested labels, the least certain first: correct what is wrong, then submit."),
    second: t("Somebody else has labeled these images, too. You don't see how, so that both judge independently."),
    review: t("Two people disagree about these images: your label decides."),
  }[page.kind];
  grid.style.setProperty("--columns", Math.ceil(Math.sqrt(page.images.length)));
  page.images.forEach((image, position) => grid.append(cell(image, position)));
  showClasses();
  update();
  grid.focus({ preventScroll: true });
}

function emptyMessage() {
  const paragraph = document.createElement("p");
  const link = document.createElement("a");
  const isAdmin = byId("app").dataset.isAdmin === "yes";
  link.href = isAdmin ? `/projects/${project}` : "/";
  link.textContent = isAdmin ? t("To the project's page") : t("To the projects");
  paragraph.append(link);
  return paragraph;
}

function cell(image, position) {
  const figure = document.createElement("div");
  figure.id = `image-${position}`;
  figure.className = "cell";
  figure.setAttribute("role", "option");
  const picture = document.createElement("img");
  picture.src = `/images/${image.id}/thumbnail?${image.sha256}`;
  picture.alt = t("Image {number}", { number: position + 1 });
  picture.draggable = false;
  const label = document.createElement("span");
  label.className = "label";
  figure.append(picture);
  if (image.reason) {
    const reason = document.createElement("span");
    reason.className = "reason";
    reason.textContent = reason.title = t("Sent back: {reason}", { reason: image.reason });
    figure.append(reason);
  }
  if (image.opinions.length) {
    const opinions = document.createElement("span");
    opinions.className = "opinions";
    opinions.textContent = opinionsOf(image);
    figure.append(opinions);
  }
  figure.append(label);
  figure.addEventListener("click", () => {
    cursor = position;
    toggle(position);
  });
  figure.addEventListener("dblclick", () => zoom(position));
  return figure;
}

// What two people have said of an image that is reviewed, a line each.
function opinionsOf(image) {
  return image.opinions.map((each) => `${each.person}: ${inWords(each)}`).join("\n");
}

function describe(image) {
  return inWords(answers.get(image.id));
}

function inWords(answer) {
  if (!answer) return "";
  if (answer.status !== "labeled") return answer.status === "skipped" ? t("skip") : t("unknown");
  return answer.classes.map((id) => names.get(id)).join(", ") || t("none of the classes");
}

function isSuggestion(image) {
  const answer = answers.get(image.id);
  return Boolean(image.suggested && answer && String(answer.classes) === String(image.suggested));
}

function update() {
  page.images.forEach((image, position) => {
    const element = byId(`image-${position}`);
    const text = describe(image);
    const label = element.querySelector(".label");
    label.textContent = isSuggestion(image) ? `${text} ${shown(Math.floor(100 * image.confidence))}\u00a0%` : text;
    element.classList.toggle("suggested", isSuggestion(image));
    element.classList.toggle("labeled", Boolean(text));
    element.classList.toggle("cursor", position === cursor);
    element.setAttribute("aria-selected", String(selected.has(position)));
    const values = { number: position + 1, label: text || t("no label") };
    const plain = t("Image {number}: {label}", values);
    const spoken = isSuggestion(image) ? t("Image {number}: {label}, suggested", values) : plain;
    const sentBack = image.reason ? `. ${t("Sent back: {reason}", { reason: image.reason })}` : "";
    const said = image.opinions.length ? `. ${opinionsOf(image)}` : "";
    element.setAttribute("aria-label", spoken + sentBack + said);
  });
  grid.setAttribute("aria-activedescendant", `image-${cursor}`);
  byId(`image-${cursor}`).scrollIntoView({ block: "nearest" });
  const kept = steps.slice(-KEPT_STEPS).map((step) => [...step]);
  store("answers", { token: page.token, answers: [...answers], steps: kept });
}

function showClasses() {
  const matches = findClasses(info.classes, search.value);
  const keyed = search.value ? [] : page.keys;
  const ids = search.value ? matches.map((each) => each.id) : [...keyed, ...names.keys()];
  byId("classes").replaceChildren(
    ...[...new Set(ids)].map((id) => {
      const item = document.createElement("li");
      const choice = button(names.get(id), () => {
        give(id);
        clearSearch();
      });
      const key = keyed.indexOf(id);
      if (key >= 0) {
        const mark = document.createElement("kbd");
        mark.textContent = key + 1;
        choice.prepend(mark, " ");
      }
      item.append(choice);
      return item;
    }),
  );
}

function targets() {
  return selected.size ? [...selected] : [cursor];
}

function remember() {
  steps.push(new Map(answers));
  confirmed = false;
}

function give(id) {
  if (!page || busy) return;
  const images = targets().map((position) => page.images[position]);
  if (info.task === "multi_label") {
    const has = (image) => (answers.get(image.id)?.classes ?? []).includes(id);
    const remove = images.every(has);
    remember();
    for (const image of images) {
      const others = (answers.get(image.id)?.classes ?? []).filter((each) => each !== id);
      answers.set(image.id, { status: "labeled", classes: remove ? others : [...others, id] });
    }
    update();
    return;
  }
  set({ status: "labeled", classes: [id] });
}

// Gives an answer to the selected images, or to the highlighted one, and highlights the next one to look at.
function set(answer) {
  if (!page || busy) return;
  remember();
  const positions = targets();
  for (const position of positions) {
    const { id } = page.images[position];
    if (answer) answers.set(id, answer);
    else answers.delete(id);
  }
  const last = page.images.length - 1;
  const unlabeled = page.images.findIndex((image) => !answers.has(image.id));
  if (selected.size > last) cursor = 0;
  else if (selected.size && unlabeled >= 0) cursor = unlabeled;
  else if (answer) cursor = Math.min(Math.max(...positions) + 1, last);
  selected.clear();
  update();
}

function toggle(position) {
  if (selected.has(position)) selected.delete(position);
  else selected.add(position);
  update();
}

function selectAll(on) {
  selected = new Set(on ? page.images.keys() : []);
  update();
}

function move(step) {
  cursor = Math.max(0, Math.min(page.images.length - 1, cursor + step));
  update();
}

async function submit() {
  if (!page || performance.now() - shownAt < UNSEEN_MS) return;
  const several = info.task === "multi_label";
  const missing = page.images.filter((image) => !answers.has(image.id));
  if (missing.length && !confirmed && !(several && steps.length)) {
    confirmed = true;
    const text = tn("{count} image has no label.", "{count} images have no label.", missing.length);
    const again = several
      ? t("Submit again to record that none of the classes applies.")
      : t("Submit again to leave the rest for later.");
    notice(`${text} ${again}`);
    return;
  }
  if (several) missing.forEach((image) => answers.set(image.id, { status: "labeled", classes: [] }));
  await send(Object.fromEntries(answers));
}

async function send(given) {
  const { token } = page;
  try {
    await request(`/api/pages/${token}/submit`, { answers: given });
  } catch (error) {
    if (error.status !== 409) throw error;
    if (!error.body.is_saved) {
      stale(error.body.taken, given);
      return;
    }
    addToHistory(token); // the answer to an earlier request was lost
    store("page", null);
    notice(`${error.message}. `, button(t("Undo it"), () => exclusively(undo)));
    return;
  }
  addToHistory(token);
  await openPage();
}

function addToHistory(token) {
  const history = stored("history") || [];
  if (history.at(-1) !== token) store("history", [...history, token].slice(-50));
}

// Images of this page were labeled elsewhere: the others can still be saved.
function stale(taken, given) {
  const rest = Object.fromEntries(Object.entries(given).filter(([id]) => !taken.includes(Number(id))));
  const count = Object.keys(rest).length;
  const fresh = button(t("Take a new page"), () => exclusively(newPage));
  const save = button(t("Save the other {count}", { count }), () => exclusively(() => send(rest)));
  const text = tn(
    "{count} image was labeled elsewhere meanwhile.",
    "{count} images were labeled elsewhere meanwhile.",
    taken.length,
  );
  notice(`${text} `, ...(count ? [save] : []), fresh);
}

async function newPage() {
  await request(`/api/pages/${page.token}/release`, {});
  store("page", null);
  await openPage();
}

async function undo() {
  if (steps.length) {
    answers = steps.pop();
    update();
    return;
  }
  const history = stored("history") || [];
  const token = history.at(-1);
  if (!token) {
    notice(t("Nothing to undo in this tab."));
    return;
  }
  const current = page;
  const next = await request(`/api/pages/${token}/undo`, {}).catch((error) => {
    if ([404, 409].includes(error.status)) store("history", history.slice(0, -1));
    throw error;
  });
  store("history", history.slice(0, -1));
  await showNext(next);
  releaseLock();
  await isOurs(page.token);
  if (current && current.token !== token) await request(`/api/pages/${current.token}/release`, {});
}

function zoom(position = cursor) {
  if (!page) return;
  cursor = position;
  update();
  const dialog = byId("large");
  const image = dialog.querySelector("img");
  image.src = `/images/${page.images[position].id}/large?${page.images[position].sha256}`;
  image.alt = t("Image {number}, large", { number: position + 1 });
  if (!dialog.open) dialog.showModal();
}

function clearSearch() {
  search.value = "";
  showClasses();
  grid.focus({ preventScroll: true });
}

search.addEventListener("input", () => {
  if (!page) return;
  const typed = normalized(search.value);
  const matches = findClasses(info.classes, search.value);
  if (typed && matches.length === 1 && matches[0].isPrefix) {
    found = { rest: matches[0].rest, at: Date.now() };
    give(matches[0].id);
    clearSearch();
  } else {
    showClasses();
  }
});

search.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && search.value) {
    const [first] = findClasses(info.classes, search.value);
    if (first) give(first.id);
    clearSearch();
  } else if (event.key === "Enter") {
    clearSearch();
    exclusively(submit);
  } else if (event.key === "Escape") {
    clearSearch();
  } else {
    return;
  }
  event.preventDefault();
  event.stopPropagation();
});

const KEYS = {
  Enter: () => exclusively(submit),
  " ": () => toggle(cursor),
  ArrowRight: () => move(1),
  ArrowLeft: () => move(-1),
  ArrowDown: () => move(columns()),
  ArrowUp: () => move(-columns()),
  Escape: () => selectAll(false),
  Backspace: () => set(null),
  Delete: () => set(null),
  0: () => set({ status: "unknown", classes: [] }),
  "-": () => set({ status: "skipped", classes: [] }),
  "+": () => zoom(),
};

function columns() {
  return getComputedStyle(grid).gridTemplateColumns.split(" ").length;
}

document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (event.repeat && (key === "Enter" || key === "z")) return event.preventDefault();
  if (event.altKey || document.querySelector("dialog[open]") || target === search) return;
  if (key === "?") {
    byId("help").showModal();
    event.preventDefault();
    return;
  }
  if (!page && !(event.ctrlKey || event.metaKey)) return;
  if (target instanceof HTMLButtonElement && (key === "Enter" || key === " ")) return;
  if (target instanceof HTMLAnchorElement && key === "Enter") return;
  if (event.ctrlKey || event.metaKey) {
    if (key === "a" && page) selectAll(true);
    else if (key === "z") exclusively(undo);
    else return;
  } else if (/^[1-9]$/.test(key)) {
    if (page.keys[key - 1] !== undefined) give(page.keys[key - 1]);
  } else if (KEYS[key]) {
    KEYS[key]();
  } else if (/^\p{L}$/u.test(key)) {
    if (Date.now() - found.at < SWALLOW_MS && found.rest.startsWith(normalized(key))) {
      found = { rest: found.rest.slice(1), at: Date.now() };
    } else {
      found.rest = "";
      search.focus(); // the letter itself goes there
      return;
    }
  } else {
    return;
  }
  event.preventDefault();
});

byId("large").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step) zoom(Math.max(0, Math.min(page.images.length - 1, cursor + step)));
});
const BUTTONS = {
  submit: () => exclusively(submit),
  undo: () => exclusively(undo),
  all: () => page && selectAll(true),
  none: () => page && selectAll(false),
  unknown: () => set({ status: "unknown", classes: [] }),
  skip: () => set({ status: "skipped", classes: [] }),
  zoom: () => zoom(),
};
// The keys work on the images again after a click: Enter must not press the same button.
const focusGrid = () => grid.focus({ preventScroll: true });
for (const [id, action] of Object.entries(BUTTONS)) {
  byId(id).addEventListener("click", () => {
    action();
    focusGrid();
  });
}
byId("help-button").addEventListener("click", () => byId("help").showModal());
for (const dialog of document.querySelectorAll("dialog")) dialog.addEventListener("close", focusGrid);

setInterval(async () => {
  if (!page) return;
  const kept = await request(`/api/pages/${page.token}/keep`, {}, []).catch((error) => {
    if (error.status === 401) failed(error);
    return { held: true, classes_version: info.classes_version };
  });
  if (kept.classes_version !== info.classes_version && !busy) await exclusively(refreshClasses);
  if (!kept.held) notice(t("Some of these images were given to another page meanwhile; submit to save the rest."));
}, KEEP_SECONDS * 1000);

await exclusively(async () => {
  await loadClasses();
  if (!localStorage.getItem(`seen-help:${project}`)) {
    localStorage.setItem(`seen-help:${project}`, "yes");
    byId("help").showModal();
  }
  await openPage();
});
document.documentElement.dataset.ready = "yes";
