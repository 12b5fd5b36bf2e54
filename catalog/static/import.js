// Choosing a file of labels, importing it, and taking that back.
import { t, tn } from "./texts.js";

const upload = document.querySelector("form.upload");
const input = upload?.querySelector("input");
const apply = document.getElementById("apply");

function choose() {
  const [file] = input.files;
  const isTooLarge = file && file.size > Number(upload.dataset.most);
  const bytes = Number(upload.dataset.most);
  const message = isTooLarge ? t("{name} has more than {bytes} bytes; split it", { name: file.name, bytes }) : "";
  input.setCustomValidity(message);
  upload.querySelector("[role=status]").textContent = message || (file ? file.name : "");
}

// Says what takes a while, and keeps a second press from sending the form again.
function wait(form, message) {
  form.querySelector("[role=status]").textContent = message;
  if (form.dataset.sent) return false;
  form.dataset.sent = "yes";
  return true;
}

if (upload) {
  input.addEventListener("change", choose);
  upload.addEventListener("submit", (event) => wait(upload, t("Reading the file…")) || event.preventDefault());
  upload.addEventListener("dragover", (event) => {
    event.preventDefault();
    upload.classList.add("over");
  });
  upload.addEventListener("dragleave", () => upload.classList.remove("over"));
  upload.addEventListener("drop", (event) => {
    event.preventDefault();
    upload.classList.remove("over");
    input.files = event.dataTransfer.files;
    choose();
  });
}

apply?.addEventListener("submit", (event) => {
  const isImport = !event.submitter?.hasAttribute("formaction");
  if (!wait(apply, isImport ? t("Importing…") : "")) event.preventDefault();
});

// Says on the button how many labels the choices take over; those of new classes aren't known before.
function count() {
  const chosen = new FormData(apply);
  const replaced = { none: [], imported: ["imported"], all: ["imported", "all"] }[chosen.get("replace") ?? "none"];
  let labels = 0;
  for (const [key, images] of Object.entries(JSON.parse(apply.dataset.labels))) {
    const [kind, ...marks] = key.split(" ");
    const isLeftOut = (marks.includes("test") && !chosen.has("with_tests")) || (marks.includes("name") && !chosen.has("with_names"));
    if (!isLeftOut && (kind === "new" || replaced.includes(kind))) labels += images;
  }
  const isKnown = labels && !chosen.has("new_class");
  document.getElementById("import").textContent = isKnown ? tn("Import {count} label", "Import {count} labels", labels) : t("Import");
}

if (apply?.dataset.labels) {
  apply.addEventListener("change", count);
  count(); // the browser may have kept choices
}

async function takeBack(button) {
  const message = document.getElementById("undone");
  button.disabled = true;
  message.textContent = t("Taking the import back…");
  const response = await fetch(button.dataset.url, { method: "POST" }).catch(() => null);
  const answer = await response?.json().catch(() => ({}));
  if (!response?.ok) {
    button.disabled = false;
    message.textContent = answer?.detail || t("the server can't be reached");
    return;
  }
  button.hidden = true;
  for (const rest of document.querySelectorAll("#apply button")) rest.hidden = true; // it is over
  message.tabIndex = -1;
  message.focus(); // the button that had the focus is gone
  message.textContent = tn("{count} image has its label from before again.", "{count} images have their labels from before again.", answer.undone);
  const kept = tn("{count} was labeled again or is open elsewhere.", "{count} were labeled again or are open elsewhere.", answer.kept);
  if (answer.kept) message.textContent += ` ${kept}`;
}

for (const button of document.querySelectorAll("button.undo")) button.addEventListener("click", () => takeBack(button));

// The page may come back from the browser's memory with its form sent.
window.addEventListener("pageshow", () => {
  for (const form of [upload, apply]) delete form?.dataset.sent;
});
