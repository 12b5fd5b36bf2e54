// Photo, file or webcam in; five bars out. The model answers in worker.js.
import { SEVERAL, WORDS } from "./words.js";

const MOST = 4096; // pixels of a side that are kept of a photo
const find = (id) => document.getElementById(id);
const [photo, heat, frame, stage] = ["photo", "heat", "frame", "stage"].map(find);
const card = await (await fetch("card.json")).json();
const worker = new Worker("worker.js", { type: "module" });

const several = card.thresholds.length > 0; // whether a picture has any number of classes
let words = WORDS.en;
let source = null; // what is shown: a canvas of the whole picture
let crop = null; // what of it the model sees, in shares of its sides: x, y, width, height; null is all
let camera = null; // the webcam's stream
let starting = 0; // which wish for the webcam is the newest: permission may come late
let asked = 0;
let answered = null; // the last answer, and to which picture
let waiting = false;

const percent = (share) => new Intl.NumberFormat(document.documentElement.lang, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 }).format(share);
const nice = (label) => label.replace(/^(cat|dog)_/, "").replaceAll("_", " ");

function speak(language) {
  words = several ? { ...WORDS[language], ...SEVERAL[language] } : WORDS[language];
  document.documentElement.lang = language;
  for (const place of document.querySelectorAll("[data-word]")) place.textContent = words[place.dataset.word];
  for (const button of document.querySelectorAll("[data-language]")) button.setAttribute("aria-pressed", button.dataset.language === language);
  find("about").textContent = (card.drawings ? words.drawings : words.about)(card.labels.length);
  if (camera) find("camera").textContent = words.stop;
  photo.setAttribute("aria-label", words.photo);
  document.title = words.title;
  if (answered) show();
}

// Read aloud, so written only when it changes.
function say(text) {
  if (find("said").textContent !== text) find("said").textContent = text;
}

// What was answered to a picture that is no longer shown must not stand beside another.
function forget() {
  answered = null;
  find("bars").replaceChildren();
  find("time").textContent = "";
  find("said").classList.remove("unsure");
  find("look").disabled = true;
}

// The cropped picture as bytes, height × width × 3.
function pixels() {
  const { x, y, width, height } = crop ?? { x: 0, y: 0, width: 1, height: 1 };
  const box = [x * source.width, y * source.height, Math.max(1, width * source.width), Math.max(1, height * source.height)].map(Math.round);
  const four = source.getContext("2d").getImageData(...box).data;
  const three = new Uint8Array((four.length / 4) * 3);
  for (let from = 0, to = 0; from < four.length; from += 4, to += 3) {
    three[to] = four[from];
    three[to + 1] = four[from + 1];
    three[to + 2] = four[from + 2];
  }
  return { pixels: three, width: box[2], height: box[3] };
}

function ask(kind = "answer", place = 0) {
  if (!source) return;
  const message = { kind, id: ++asked, place, ...pixels() };
  waiting = true;
  worker.postMessage(message, [message.pixels.buffer]);
}

function show() {
  const { shares, milliseconds } = answered;
  const isThere = (place) => several && shares[place] >= card.thresholds[place];
  const order = [...shares.keys()].sort((a, b) => isThere(b) - isThere(a) || shares[b] - shares[a]);
  const there = order.filter(isThere);
  const best = order.slice(0, Math.max(5, there.length));
  const [first] = best;
  const unsure = several ? !there.length : shares[first] < card.unsure_below;
  if (several) say(unsure ? words.nothing : there.map((place) => nice(card.labels[place])).join(", "));
  else say(unsure ? words.unsure(percent(card.unsure_below)) : words.sure(nice(card.labels[first]), percent(shares[first])));
  find("said").classList.toggle("unsure", unsure);
  find("bars").replaceChildren(...best.map((place) => {
    const line = document.createElement("li");
    const name = document.createElement("span");
    const share = document.createElement("span");
    const bar = document.createElement("progress");
    name.textContent = nice(card.labels[place]);
    share.textContent = percent(shares[place]);
    bar.max = 1;
    bar.value = shares[place];
    bar.setAttribute("aria-label", name.textContent);
    line.classList.toggle("named", isThere(place));
    line.append(name, share, bar);
    return line;
  }));
  find("time").textContent = words.time(Math.round(milliseconds));
}

worker.onmessage = ({ data }) => {
  if (data.kind === "ready") {
    if (!source) say(words.ready);
    document.body.dataset.ready = "yes";
  } else if (data.kind === "failed") {
    waiting = false;
    say(words.failed(data.why));
  } else if (data.kind === "broken") {
    waiting = false;
    say(words.broken(data.why));
  } else if (data.id !== asked) {
    return; // of a picture that is no longer shown
  } else if (data.kind === "answer") {
    waiting = false;
    answered = data;
    find("look").disabled = false;
    show();
    document.body.dataset.answered = data.id;
  } else if (data.kind === "mapping") {
    find("time").textContent = words.looking(data.done, data.all);
  } else if (data.kind === "map") {
    waiting = false;
    paint(data.drops, data.side);
    document.body.dataset.mapped = data.id;
  }
};
worker.onerror = (event) => say(words.failed(event.message ?? ""));

// Red where covering costs most, over the crop.
function paint(drops, side) {
  const small = new OffscreenCanvas(side, side);
  const colours = new ImageData(side, side);
  const most = Math.max(...drops, 1e-6);
  drops.forEach((drop, place) => colours.data.set([220, 30, 30, 190 * Math.max(0, drop / most)], place * 4));
  small.getContext("2d").putImageData(colours, 0, 0);
  const { x, y, width, height } = crop ?? { x: 0, y: 0, width: 1, height: 1 };
  const context = heat.getContext("2d");
  context.clearRect(0, 0, heat.width, heat.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, x * heat.width, y * heat.height, width * heat.width, height * heat.height);
  const label = answered.shares.indexOf(Math.max(...answered.shares));
  find("time").textContent = words.looked(nice(card.labels[label]));
}

function frameCrop() {
  frame.hidden = !crop;
  if (!crop) return;
  for (const [side, share] of Object.entries({ left: crop.x, top: crop.y, width: crop.width, height: crop.height })) {
    frame.style.setProperty(side, `${share * 100}%`);
  }
}

function changed(cropped) {
  crop = cropped;
  forget();
  heat.getContext("2d").clearRect(0, 0, heat.width, heat.height);
  frameCrop();
  ask();
}

// Puts a picture on the stage, on white where it is transparent.
function put(image, width, height) {
  const scale = Math.min(1, MOST / Math.max(width, height));
  source = document.createElement("canvas");
  for (const canvas of [source, photo, heat]) {
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
  }
  const context = source.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, source.width, source.height);
  context.drawImage(image, 0, 0, source.width, source.height);
  photo.getContext("2d").drawImage(source, 0, 0);
  stage.style.setProperty("--aspect", photo.width / photo.height);
  for (const part of [stage, find("tools"), find("cropping")]) part.hidden = false;
}

async function open(file) {
  if (!file) return;
  stopCamera();
  try {
    const image = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
    put(image, image.width, image.height);
    image.close();
  } catch {
    say(words.unreadable(file.name));
    find("said").classList.remove("unsure");
    return;
  }
  if (document.body.dataset.ready !== "yes") say(words.loading);
  changed(null);
}

function stopCamera() {
  starting++;
  camera?.getTracks().forEach((track) => track.stop());
  camera = null;
  find("camera").textContent = words.camera;
  find("camera").setAttribute("aria-pressed", "false");
}

async function startCamera() {
  const mine = ++starting;
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    if (mine === starting) say(words.refused);
    return;
  }
  const video = document.createElement("video");
  video.srcObject = stream;
  video.muted = true;
  if (mine === starting) await video.play();
  if (mine !== starting) {
    stream.getTracks().forEach((track) => track.stop());
    return; // a photo was chosen, or the button pressed, in the meantime
  }
  camera = stream;
  find("camera").textContent = words.stop;
  find("camera").setAttribute("aria-pressed", "true");
  crop = null;
  frameCrop();
  forget();
  const next = () => {
    if (camera !== stream) return;
    // The square in the middle: a head is about as wide as it is high.
    const side = Math.min(video.videoWidth, video.videoHeight);
    if (side && !waiting) {
      const square = new OffscreenCanvas(side, side);
      square.getContext("2d").drawImage(video, (side - video.videoWidth) / 2, (side - video.videoHeight) / 2);
      put(square, side, side);
      ask();
    }
    setTimeout(next, 100);
  };
  next();
}

find("file").addEventListener("change", (event) => {
  open(event.target.files[0]);
  event.target.value = ""; // the same file again is a change, too
});
find("camera").addEventListener("click", () => (camera ? stopCamera() : startCamera()));
find("whole").addEventListener("click", () => changed(null));
find("look").addEventListener("click", () => {
  if (!answered) return;
  stopCamera();
  ask("map", answered.shares.indexOf(Math.max(...answered.shares)));
});
for (const button of document.querySelectorAll("[data-language]")) button.addEventListener("click", () => speak(button.dataset.language));

const drop = find("drop");
for (const kind of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") open(event.dataTransfer.files[0]);
  });
}

let from = null;
const place = (event) => {
  const box = photo.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((share) => Math.min(Math.max(share, 0), 1));
};
photo.addEventListener("pointerdown", (event) => {
  if (camera) return;
  from = place(event);
  photo.setPointerCapture(event.pointerId);
});
photo.addEventListener("pointermove", (event) => {
  if (!from) return;
  const to = place(event);
  crop = { x: Math.min(from[0], to[0]), y: Math.min(from[1], to[1]), width: Math.abs(from[0] - to[0]), height: Math.abs(from[1] - to[1]) };
  frameCrop();
});
photo.addEventListener("pointerup", () => {
  if (!from) return;
  from = null;
  // A tap is no drag.
  changed(crop && crop.width > 0.03 && crop.height > 0.03 ? crop : null);
});
photo.addEventListener("pointercancel", () => {
  from = null;
  frameCrop();
});
photo.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const grows = { "+": 1.1, "=": 1.1, "-": 1 / 1.1 };
  if (camera || !(event.key in moves || event.key in grows)) return;
  event.preventDefault();
  const now = crop ?? { x: 0.15, y: 0.15, width: 0.7, height: 0.7 };
  const [right, down] = moves[event.key] ?? [0, 0];
  const width = Math.min(1, Math.max(0.05, now.width * (grows[event.key] ?? 1)));
  const height = Math.min(1, Math.max(0.05, now.height * (grows[event.key] ?? 1)));
  const within = (share, size) => Math.min(Math.max(share, 0), 1 - size);
  changed({ x: within(now.x + 0.04 * right - (width - now.width) / 2, width), y: within(now.y + 0.04 * down - (height - now.height) / 2, height), width, height });
});

speak(navigator.language.startsWith("nl") ? "nl" : "en");
if (document.body.dataset.ready !== "yes") say(words.loading);
