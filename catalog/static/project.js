// Refreshes the dashboard, and uploads images.
import { t, tn } from "./texts.js";

const REFRESH_MS = 3000;
const PER_REQUEST = 20_000_000; // bytes of one upload request; a larger image has one of its own
const FILES_PER_REQUEST = 50;

const status = document.getElementById("status");
let shown = null;
setInterval(async () => {
  if (document.hidden) return;
  const response = await fetch(status.dataset.url, { headers: { Accept: "text/html" } }).catch(() => null);
  if (response?.status === 401) location.reload(); // the session has ended: to the sign-in page
  const text = response?.ok ? await response.text() : shown;
  if (text === shown) return; // what has the focus, or is being read aloud, stays
  shown = text;
  const isOpen = document.getElementById("more-classes")?.open;
  status.innerHTML = text;
  const more = document.getElementById("more-classes");
  if (more) more.open = isOpen;
}, REFRESH_MS);

const upload = document.getElementById("upload");
const bar = upload.querySelector("progress");
const message = upload.querySelector("[role=status]");

function* batches(files) {
  let batch = [];
  let size = 0;
  for (const file of files) {
    if (batch.length && (size + file.size > PER_REQUEST || batch.length >= FILES_PER_REQUEST)) {
      yield batch;
      batch = [];
      size = 0;
    }
    batch.push(file);
    size += file.size;
  }
  if (batch.length) yield batch;
}

async function detail(response) {
  const answer = await response.json().catch(() => ({}));
  return answer.detail || t("the server answers with an error ({status})", { status: response.status });
}

async function send(files) {
  let done = 0;
  let refused = 0;
  const total = files.length;
  bar.hidden = false;
  bar.max = total;
  for (const batch of batches(files)) {
    const form = new FormData();
    for (const file of batch) form.append("files", file, file.webkitRelativePath || file.name);
    const response = await fetch(upload.dataset.url, { method: "POST", body: form }).catch(() => null);
    if (response?.status === 413) {
      refused += batch.length;
      continue;
    }
    if (!response?.ok) {
      const reason = response ? await detail(response) : t("the server can't be reached");
      message.textContent = t("{done} of {total} images are uploaded; then: {reason}", { done, total, reason });
      return;
    }
    const answer = await response.json();
    done += answer.received;
    refused += answer.refused;
    bar.value = done + refused;
    message.textContent = t("{done} of {total} images uploaded", { done, total });
  }
  const tooLarge = tn("{count} is too large", "{count} are too large", refused);
  if (refused) message.textContent += `; ${tooLarge}`;
}

upload.querySelector("input").addEventListener("change", (event) => send([...event.target.files]));
upload.addEventListener("dragover", (event) => {
  event.preventDefault();
  upload.classList.add("over");
});
upload.addEventListener("dragleave", () => upload.classList.remove("over"));
upload.addEventListener("drop", (event) => {
  event.preventDefault();
  upload.classList.remove("over");
  send([...event.dataTransfer.files]);
});
