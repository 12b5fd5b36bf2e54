// Exports the model and deletes the project.
import { Api } from "./teach_api.js";
import { askFirst } from "./teach_confirm.js";
import { t } from "./texts.js";

const PAUSE_MS = 700; // between looks at an export that runs
const RETRY_MS = 3000; // after an error
const byId = (id) => document.getElementById(id);
const { project } = byId("app-take").dataset;
const api = new Api(project);
let timer = 0;

const say = (text) => {
  byId("state").textContent = text;
};

const SENTENCES = {
  none: () => "",
  waiting: () => t("Just a moment…"),
  running: () => t("Exporting; this takes some seconds."),
  done: ({ message }) => t("Exported: {message}.", { message }),
  failed: ({ message }) => t("It failed: {message}", { message }),
  outdated: () => t("The model has changed since the last export."),
};

function schedule(milliseconds) {
  clearTimeout(timer);
  timer = setTimeout(refresh, milliseconds);
}

async function refresh() {
  let found;
  try {
    found = await api.get("/export");
  } catch (error) {
    say(error.message);
    if (error.status !== 404) schedule(RETRY_MS); // 404: the project is gone
    return;
  }
  const isOpen = found.state === "waiting" || found.state === "running";
  const isDone = found.state === "done";
  say(found.has_model ? SENTENCES[found.state](found) : t("First train it on the teach page."));
  byId("export").hidden = isDone;
  byId("export").disabled = isOpen || !found.has_model;
  byId("download").hidden = !isDone;
  byId("try").hidden = !isDone || !found.has_page;
  document.body.dataset.exported = found.state;
  if (isOpen) schedule(PAUSE_MS);
}

byId("export").addEventListener("click", async () => {
  try {
    await api.post("/export");
    await refresh();
  } catch (error) {
    say(error.message);
  }
});

askFirst(byId("erase"), () => api.post("/erase"));
await refresh();
document.documentElement.dataset.ready = "yes";
