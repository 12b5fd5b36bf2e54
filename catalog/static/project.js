// Refreshes the dashboard, and uploads images.
const REFRESH_MS = 3000;
const PER_REQUEST = 20_000_000; // bytes of one upload request; a larger image has one of its own
const FILES_PER_REQUEST = 50;

const status = document.getElementById("status");
let shown = null;
setInterval(async () => {
  if (document.hidden) return;
  const response = await fetch(status.dataset.url, { headers: { Accept: "text/html" } }).catch(() => null);
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

async function send(files) {
  let done = 0;
  let refused = 0;
  bar.hidden = false;
  bar.max = files.length;
  for (const batch of batches(files)) {
    const form = new FormData();
    for (const file of batch) form.append("files", file, file.webkitRelativePath || file.name);
    const response = await fetch(upload.dataset.url, { method: "POST", body: form }).catch(() => null);
    if (response?.status === 413) {
      refused += batch.length;
      continue;
    }
    if (!response?.ok) {
      const reason = response ? (await response.json()).detail : "the server can't be reached";
      message.textContent = `${done} of ${files.length} images are uploaded; then: ${reason}`;
      return;
    }
    const answer = await response.json();
    done += answer.received;
    refused += answer.refused;
    bar.value = done + refused;
    message.textContent = `${done.toLocaleString()} of ${files.length.toLocaleString()} images uploaded`;
  }
  if (refused) message.textContent += `; ${refused.toLocaleString()} are too large`;
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
