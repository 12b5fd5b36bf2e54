// The way of an image through the model, up to the probabilities.
import * as camera from "./teach_camera.js";
import { bytes, inColours, paintGrey, paintSigned, tile } from "./teach_model_pictures.js";
import { t } from "./texts.js";

const PAUSE_MS = 150; // between an answer and the next frame of the webcam
const PER_CLASS = 3; // thumbnails
const THUMBNAILS = 12;
const ROOT = 2; // of the features' brightness
const byId = (id) => document.getElementById(id);
const { lang } = document.documentElement;
const [percents, decimals, digits] = [
  { style: "percent", maximumFractionDigits: 1 },
  { minimumFractionDigits: 2, maximumFractionDigits: 2 },
  { maximumSignificantDigits: 4 },
].map((options) => new Intl.NumberFormat(lang, options));

function percent(share) {
  return share > 0 && share < 0.0005 ? `< ${percents.format(0.001)}` : percents.format(share);
}

function decimal(value) {
  return decimals.format(value).replace("-", "−");
}

// A number of any size, since e to a score can be tiny or huge: 4.9 × 10⁻⁹.
function power(value) {
  if (value === 0 || (value >= 1e-4 && value < 1e5)) return digits.format(value);
  const [mantissa, exponent] = value.toExponential(2).split("e");
  const raised = [...exponent.replace("+", "")].map((sign) => (sign === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign])).join("");
  return `${digits.format(mantissa)} × 10${raised}`;
}

function plus(value) {
  return `${value < 0 ? "−" : "+"} ${decimal(Math.abs(value))}`;
}

// "e" with an exponent.
function exponential(score) {
  const exponent = document.createElement("sup");
  exponent.textContent = decimal(score);
  return ["e", exponent];
}

export class Prediction {
  // `onModel` gets the version of the model that has answered.
  constructor(api, nameOf, onModel) {
    Object.assign(this, { api, nameOf, onModel });
    this.isLive = false;
    this.run = null; // of the webcam, from the press of the button on; a loop ends when it is another one
    this.chosen = 0; // counts images, so that a late answer is dropped
    this.found = null;
    byId("camera").addEventListener("click", () => this.toggleCamera());
    byId("photo").addEventListener("change", (event) => {
      const [file] = event.target.files;
      if (file) this.choose(file, null);
      event.target.value = "";
    });
    inColours(() => this.found && this.show(this.found));
  }

  // Offers samples of each class.
  async offer(classes) {
    const count = Math.max(1, Math.min(PER_CLASS, Math.floor(THUMBNAILS / classes.length)));
    const lists = await Promise.all(
      classes.slice(0, THUMBNAILS).map((each) => this.api.get(`/classes/${each.id}/samples?limit=${count}`)),
    );
    const buttons = lists.flatMap((samples, number) => samples.map((sample) => this.thumbnail(sample, classes[number])));
    byId("samples").replaceChildren(...buttons);
  }

  thumbnail(sample, { name }) {
    const button = document.createElement("button");
    const image = document.createElement("img");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    image.src = `/images/${sample.id}/thumbnail?${sample.sha256}`;
    image.alt = t("An image of {name}", { name });
    button.append(image);
    button.addEventListener("click", async () => {
      const response = await fetch(`/images/${sample.id}/large?${sample.sha256}`).catch(() => null);
      if (response?.ok) this.choose(await response.blob(), button);
      else this.explain(t("The image is missing."));
    });
    return button;
  }

  toggleCamera() {
    if (!this.run) this.startCamera();
    else if (this.isLive) this.stop(); // a double click starts it once
  }

  async startCamera() {
    const run = {};
    this.run = run;
    try {
      await camera.start(this);
    } catch {
      if (this.run !== run) return;
      this.run = null;
      this.explain(t("The browser blocks the webcam: allow it beside the address, and reload the page. Or use files."));
      return;
    }
    if (this.run !== run) return;
    this.press(byId("camera"));
    this.isLive = true;
    const next = async () => {
      if (this.run !== run) return;
      const blob = await camera.frame();
      if (this.run !== run) return;
      if (blob) await this.ask(blob);
      setTimeout(next, PAUSE_MS);
    };
    next();
  }

  stop() {
    this.run = null;
    this.isLive = false;
    camera.stop(this);
    byId("camera").setAttribute("aria-pressed", "false");
  }

  press(button) {
    for (const each of document.querySelectorAll(".sources button")) {
      each.setAttribute("aria-pressed", String(each === button));
    }
  }

  async choose(blob, button) {
    this.stop();
    this.press(button);
    await this.ask(blob);
  }

  async ask(blob) {
    this.chosen += 1;
    const { chosen } = this;
    try {
      const [found, bitmap] = await Promise.all([
        this.api.layers(blob),
        createImageBitmap(blob, { imageOrientation: "from-image" }).catch(() => null),
      ]);
      if (chosen !== this.chosen) return;
      this.explain("");
      this.onModel(found.version);
      const canvas = byId("image");
      canvas.width = canvas.width; // clears it
      if (bitmap) canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
      this.found = found;
      this.show(found);
    } catch (error) {
      if (chosen === this.chosen) this.explain(error.message);
    }
  }

  explain(text) {
    if (byId("problem").textContent !== text) byId("problem").textContent = text;
  }

  name({ class_id: id }) {
    return id === null ? t("None of these") : this.nameOf(id);
  }

  show(found) {
    byId("way").hidden = false;
    document.querySelectorAll(".channels").forEach((place, number) => this.showLayer(place, found.layers[number]));
    paintGrey(byId("features"), bytes(found.features), undefined, ROOT);
    byId("scores").replaceChildren(...found.scores.map((score) => this.score(score, found)));
    const best = Math.max(...found.scores.map((each) => each.probability));
    byId("bars").replaceChildren(...found.scores.map((score) => this.bar(score, found, score.probability === best)));
    document.body.dataset.explained = String(this.chosen);
  }

  showLayer(place, { shown, pictures, picture_side: side }) {
    const values = bytes(pictures);
    const canvases = shown.map((channel, number) => {
      const canvas = place.children[number] ?? document.createElement("canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", t("Channel {number}", { number: channel + 1 }));
      paintGrey(canvas, values.subarray(number * side * side, (number + 1) * side * side), side);
      return canvas;
    });
    place.replaceChildren(...canvases);
  }

  score(score, found) {
    const figure = document.createElement("figure");
    const name = document.createElement("b");
    const sum = document.createElement("span");
    const canvas = tile(t("Products of {name}", { name: this.name(score) }));
    paintSigned(canvas, bytes(score.products), found.product_limit, found.product_strong);
    name.textContent = this.name(score);
    sum.textContent = `${decimal(score.total)} ${plus(score.bias)} = ${decimal(score.score)}`;
    figure.append(canvas, name, sum);
    return figure;
  }

  bar(score, found, isBest) {
    const item = document.createElement("li");
    const [name, value, sum] = ["name", "number", "sum"].map((kind) => {
      const part = document.createElement("span");
      part.className = kind;
      return part;
    });
    const bar = document.createElement("progress");
    item.classList.toggle("best", isBest);
    name.textContent = this.name(score);
    bar.max = 1;
    bar.value = score.probability;
    bar.setAttribute("aria-label", name.textContent);
    value.textContent = percent(score.probability);
    const result = power(Math.exp(score.score));
    const share = percent(score.probability).replace(/^(?!<)/, "= ");
    sum.append(...exponential(score.score), ` = ${result}; ${result} / ${power(found.exponentials)} ${share}`);
    item.append(name, bar, value, sum);
    return item;
  }
}
