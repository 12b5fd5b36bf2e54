// The page: a photo or the webcam in, the most probable classes out. The model runs in worker.js.
import { CLASS_WORDS, MULTI_LABEL_WORDS, WORDS } from "./words.js";

const MAX_SIDE = 4096; // pixels; larger photos are shrunk
const WHOLE = { x: 0, y: 0, width: 1, height: 1 };
const byId = (id) => document.getElementById(id);
const [photo, heatmap, frame, stage] = ["photo", "heat", "frame", "stage"].map(byId);
const card = await (await fetch("card.json")).json();
const worker = new Worker("worker.js", { type: "module" });

const multiLabel = card.thresholds.length > 0;
let words = WORDS.en;
let image = null; // the whole image, as a canvas
let crop = null; // the part that the model gets, as fractions of the image's sides; null: the whole image
let camera = null; // the webcam's stream
let cameraStarts = 0; // detects that a request for the webcam is outdated, since permission may come late
let lastId = 0; // of requests to the worker
let prediction = null; // the worker's message for the image that is shown
let busy = false; // whether the worker has a request that is not answered

const percent = (fraction) => new Intl.NumberFormat(document.documentElement.lang, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 }).format(fraction);
// `card.none` is the class that says that the picture shows none of the others.
const displayName = (index) => index === card.none ? words.none : card.labels[index].replace(/^(cat|dog)_/, "").replaceAll("_", " ");
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const argmax = (values) => values.indexOf(Math.max(...values));

function setLanguage(language) {
  words = { ...WORDS[language], ...(card.breeds ? {} : CLASS_WORDS[language]), ...(multiLabel ? MULTI_LABEL_WORDS[language] : {}) };
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = words[element.dataset.word];
  for (const button of document.querySelectorAll("[data-language]")) button.setAttribute("aria-pressed", button.dataset.language === language);
  byId("about").textContent = (card.drawings ? words.drawings : words.about)(card.labels.filter((_, index) => index !== card.none).length);
  if (camera) byId("camera").textContent = words.stop;
  photo.setAttribute("aria-label", words.photo);
  document.title = words.title;
  if (prediction) showPrediction();
}

// Written only when it changes, because screen readers read it aloud each time.
function setStatus(text) {
  if (byId("status").textContent !== text) byId("status").textContent = text;
}

// Called when the image changes, so that no prediction is shown beside another image.
function clearPrediction() {
  prediction = null;
  byId("bars").replaceChildren();
  byId("time").textContent = "";
  byId("status").classList.remove("unsure");
  byId("look").disabled = true;
}

// The cropped image as uint8, height × width × 3.
function croppedPixels() {
  const { x, y, width, height } = crop ?? WHOLE;
  const box = [x * image.width, y * image.height, Math.max(1, width * image.width), Math.max(1, height * image.height)].map(Math.round);
  const rgba = image.getContext("2d").getImageData(...box).data;
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    rgb[to] = rgba[from];
    rgb[to + 1] = rgba[from + 1];
    rgb[to + 2] = rgba[from + 2];
  }
  return { pixels: rgb, width: box[2], height: box[3] };
}

// Asks the worker for a "prediction", or for a "heatmap" of one class.
function request(kind, classIndex) {
  if (!image) return;
  const message = { kind, id: ++lastId, classIndex, ...croppedPixels() };
  busy = true;
  worker.postMessage(message, [message.pixels.buffer]);
}

function showPrediction() {
  const { probabilities, milliseconds } = prediction;
  const isPresent = (index) => multiLabel && probabilities[index] >= card.thresholds[index];
  const order = [...probabilities.keys()].sort((a, b) => isPresent(b) - isPresent(a) || probabilities[b] - probabilities[a]);
  const present = order.filter(isPresent);
  const shown = order.slice(0, Math.max(5, present.length));
  const [best] = shown;
  const unsure = multiLabel ? !present.length : best === card.none || probabilities[best] < card.unsure_below;
  if (multiLabel) setStatus(unsure ? words.nothing : present.map(displayName).join(", "));
  else setStatus(unsure && best !== card.none ? words.unsure(percent(card.unsure_below)) : words.sure(displayName(best), percent(probabilities[best])));
  byId("status").classList.toggle("unsure", unsure);
  byId("bars").replaceChildren(...shown.map((index) => {
    const line = document.createElement("li");
    const name = document.createElement("span");
    const probability = document.createElement("span");
    const bar = document.createElement("progress");
    name.textContent = displayName(index);
    probability.textContent = percent(probabilities[index]);
    bar.max = 1;
    bar.value = probabilities[index];
    bar.setAttribute("aria-label", name.textContent);
    line.classList.toggle("named", isPresent(index));
    line.append(name, probability, bar);
    return line;
  }));
  byId("time").textContent = words.time(Math.round(milliseconds));
}

worker.onmessage = ({ data }) => {
  if (data.kind === "ready") {
    if (!image) setStatus(words.ready);
    document.body.dataset.ready = "yes";
  } else if (data.kind === "load error") {
    busy = false;
    setStatus(words.failed(data.reason));
  } else if (data.kind === "error") {
    busy = false;
    setStatus(words.broken(data.reason));
  } else if (data.id !== lastId) {
    return; // for an image that is no longer shown
  } else if (data.kind === "prediction") {
    busy = false;
    prediction = data;
    byId("look").disabled = false;
    showPrediction();
    document.body.dataset.answered = data.id;
  } else if (data.kind === "progress") {
    byId("time").textContent = words.looking(data.done, data.total);
  } else if (data.kind === "heatmap") {
    busy = false;
    showHeatmap(data.drops, data.side);
    document.body.dataset.mapped = data.id;
  }
};
worker.onerror = (event) => setStatus(words.failed(event.message ?? ""));

// Overlays the crop with red where covering lowers the probability most; `drops` is side × side.
function showHeatmap(drops, side) {
  const small = new OffscreenCanvas(side, side);
  const colours = new ImageData(side, side);
  const largest = Math.max(...drops, 1e-6);
  drops.forEach((drop, index) => colours.data.set([220, 30, 30, 190 * Math.max(0, drop / largest)], index * 4));
  small.getContext("2d").putImageData(colours, 0, 0);
  const { x, y, width, height } = crop ?? WHOLE;
  const context = heatmap.getContext("2d");
  context.clearRect(0, 0, heatmap.width, heatmap.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, x * heatmap.width, y * heatmap.height, width * heatmap.width, height * heatmap.height);
  byId("time").textContent = words.looked(displayName(argmax(prediction.probabilities)));
}

function showCropFrame() {
  frame.hidden = !crop;
  if (!crop) return;
  for (const [side, fraction] of Object.entries({ left: crop.x, top: crop.y, width: crop.width, height: crop.height })) {
    frame.style.setProperty(side, `${fraction * 100}%`);
  }
}

function setCrop(newCrop) {
  crop = newCrop;
  clearPrediction();
  heatmap.getContext("2d").clearRect(0, 0, heatmap.width, heatmap.height);
  showCropFrame();
  request("prediction");
}

// Shows an image, on white where it is transparent.
function setImage(source, width, height) {
  const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
  image = document.createElement("canvas");
  for (const canvas of [image, photo, heatmap]) {
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
  }
  const context = image.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, image.width, image.height);
  context.drawImage(source, 0, 0, image.width, image.height);
  photo.getContext("2d").drawImage(image, 0, 0);
  stage.style.setProperty("--aspect", photo.width / photo.height);
  for (const part of [stage, byId("tools"), byId("cropping")]) part.hidden = false;
}

async function openFile(file) {
  if (!file) return;
  stopCamera();
  try {
    const bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
    setImage(bitmap, bitmap.width, bitmap.height);
    bitmap.close();
  } catch {
    setStatus(words.unreadable(file.name));
    byId("status").classList.remove("unsure");
    return;
  }
  if (document.body.dataset.ready !== "yes") setStatus(words.loading);
  setCrop(null);
}

function stopCamera() {
  cameraStarts++;
  camera?.getTracks().forEach((track) => track.stop());
  camera = null;
  byId("camera").textContent = words.camera;
  byId("camera").setAttribute("aria-pressed", "false");
}

async function startCamera() {
  const start = ++cameraStarts;
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    if (start === cameraStarts) setStatus(words.refused);
    return;
  }
  const video = document.createElement("video");
  video.srcObject = stream;
  video.muted = true;
  if (start === cameraStarts) await video.play();
  if (start !== cameraStarts) { // a photo was opened, or the button pressed, in the meantime
    stream.getTracks().forEach((track) => track.stop());
    return;
  }
  camera = stream;
  byId("camera").textContent = words.stop;
  byId("camera").setAttribute("aria-pressed", "true");
  crop = null;
  showCropFrame();
  clearPrediction();
  const nextFrame = () => {
    if (camera !== stream) return;
    // The central square, because a head is about as wide as it is high.
    const side = Math.min(video.videoWidth, video.videoHeight);
    if (side && !busy) {
      const square = new OffscreenCanvas(side, side);
      square.getContext("2d").drawImage(video, (side - video.videoWidth) / 2, (side - video.videoHeight) / 2);
      setImage(square, side, side);
      request("prediction");
    }
    setTimeout(nextFrame, 100);
  };
  nextFrame();
}

byId("file").addEventListener("change", (event) => {
  openFile(event.target.files[0]);
  event.target.value = ""; // otherwise selecting the same file again is no change
});
byId("camera").addEventListener("click", () => (camera ? stopCamera() : startCamera()));
byId("whole").addEventListener("click", () => setCrop(null));
byId("look").addEventListener("click", () => {
  if (!prediction) return;
  stopCamera();
  request("heatmap", argmax(prediction.probabilities));
});
for (const button of document.querySelectorAll("[data-language]")) button.addEventListener("click", () => setLanguage(button.dataset.language));

const dropZone = byId("drop");
for (const kind of ["dragover", "dragleave", "drop"]) {
  dropZone.addEventListener(kind, (event) => {
    event.preventDefault();
    dropZone.classList.toggle("over", kind === "dragover");
    if (kind === "drop") openFile(event.dataTransfer.files[0]);
  });
}

let dragStart = null;
// The pointer's position in the photo, as fractions of its sides.
const position = (event) => {
  const box = photo.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((fraction) => clamp(fraction, 0, 1));
};
photo.addEventListener("pointerdown", (event) => {
  if (camera) return;
  dragStart = position(event);
  photo.setPointerCapture(event.pointerId);
});
photo.addEventListener("pointermove", (event) => {
  if (!dragStart) return;
  const [x, y] = position(event);
  crop = { x: Math.min(dragStart[0], x), y: Math.min(dragStart[1], y), width: Math.abs(dragStart[0] - x), height: Math.abs(dragStart[1] - y) };
  showCropFrame();
});
photo.addEventListener("pointerup", () => {
  if (!dragStart) return;
  dragStart = null;
  setCrop(crop && crop.width > 0.03 && crop.height > 0.03 ? crop : null); // a tap removes the crop
});
photo.addEventListener("pointercancel", () => {
  dragStart = null;
  showCropFrame();
});
photo.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const scales = { "+": 1.1, "=": 1.1, "-": 1 / 1.1 };
  if (camera || !(event.key in moves || event.key in scales)) return;
  event.preventDefault();
  const old = crop ?? { x: 0.15, y: 0.15, width: 0.7, height: 0.7 };
  const [right, down] = moves[event.key] ?? [0, 0];
  const [width, height] = [old.width, old.height].map((size) => clamp(size * (scales[event.key] ?? 1), 0.05, 1));
  const x = clamp(old.x + 0.04 * right - (width - old.width) / 2, 0, 1 - width);
  const y = clamp(old.y + 0.04 * down - (height - old.height) / 2, 0, 1 - height);
  setCrop({ x, y, width, height });
});

setLanguage(navigator.language.startsWith("nl") ? "nl" : "en");
if (document.body.dataset.ready !== "yes") setStatus(words.loading);
