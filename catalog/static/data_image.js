// The page of one image: its actions, and the arrow keys to the images before and behind it.
import { Actions } from "./data_actions.js";
import { button } from "./notices.js";
import { t } from "./texts.js";

const byId = (id) => document.getElementById(id);
const app = byId("app");
const actions = new Actions(app.dataset, {
  targets: () => ({ ids: [Number(app.dataset.image)], seen: Number(byId("actions").dataset.seen) }),
  changed: reload,
  home: () => document.querySelector("#app h1"),
});

// Shows the image's label and history as they are now; the notice with its button stays.
async function reload() {
  const response = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!response.ok) throw new Error(t("the server answers with an error ({status})", response));
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const part of ["h1", "section[aria-label]", ".history"]) {
    document.querySelector(`#app ${part}`).replaceWith(page.querySelector(`#app ${part}`));
  }
  showActions();
}

function showActions() {
  const { status, test } = byId("actions").dataset;
  const isWaiting = status === "waiting";
  const parts = [];
  if (!isWaiting) parts.push(button(t("Send back…"), () => actions.reject()));
  if (test === undefined) parts.push(button(t("Label as…"), () => actions.label()));
  if (status === "labeled") parts.push(button(t("Label is right"), () => actions.confirm()));
  byId("actions").replaceChildren(...parts);
}

// Back to the page of results that led here, not to their first one.
const results = sessionStorage.getItem(`results:${app.dataset.project}`);
if (results && sameSearch(new URL(results), new URL(byId("back").href))) byId("back").href = results;

function sameSearch(one, other) {
  const [first, second] = [one, other].map(({ searchParams }) => {
    for (const place of ["after", "before"]) searchParams.delete(place);
    searchParams.sort();
    return searchParams.toString();
  });
  return first === second;
}

const KEYS = {
  ArrowLeft: () => document.querySelector("[rel=prev]")?.click(),
  ArrowRight: () => document.querySelector("[rel=next]")?.click(),
  Escape: () => byId("back").click(),
};

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input, textarea, select");
  if (event.altKey || event.ctrlKey || event.metaKey || isTyping || document.querySelector("dialog[open]")) return;
  if (!KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});

showActions();
document.documentElement.dataset.ready = "yes";
