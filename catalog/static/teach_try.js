// The live test: the webcam or a photo in, a bar for each class out.
import * as camera from "./teach_camera.js";
import { t } from "./texts.js";

const PAUSE_MS = 60; // between an answer and the next frame
const MAX_SIDE = 640; // pixels of a photo as it is shown and sent
const byId = (id) => document.getElementById(id);
const { lang } = document.documentElement;
const percent = (share) => new Intl.NumberFormat(lang, { style: "percent", maximumFractionDigits: 0 }).format(share);

export class LiveTest {
  // `page` offers classes(), model(), addCorrection(id, blob), say(text).
  constructor(api, page) {
    this.api = api;
    this.page = page;
    this.source = null; // "camera" or "photo"
    this.run = null; // of the webcam, from the press of the button on; a loop ends when it is another one
    this.blob = null; // the image that is shown, encoded
    this.rows = new Map();
    this.shown = byId("shown");
    this.heat = byId("heat");
    byId("camera").addEventListener("click", () => this.toggleCamera());
    byId("photo").addEventListener("change", (event) => {
      this.openPhoto(event.target.files[0]);
      event.target.value = "";
    });
    byId("look").addEventListener("change", () => this.clearHeat() || this.source !== "photo" || this.ask());
    const area = byId("try");
    area.addEventListener("dragover", (event) => event.preventDefault());
    area.addEventListener("drop", (event) => {
      event.preventDefault();
      this.openPhoto(event.dataTransfer.files[0]);
    });
  }

  toggleCamera() {
    if (!this.run) this.startCamera();
    else if (this.source === "camera") this.stop(); // a double click starts it once
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
    this.source = "camera";
    byId("camera").setAttribute("aria-pressed", "true");
    byId("stage").hidden = false;
    byId("answer").scrollIntoView({ block: "nearest" });
    const next = async () => {
      if (this.run !== run) return;
      if (camera.draw(this.shown)) {
        const blob = await camera.encoded(this.shown);
        if (this.run !== run) return;
        this.blob = blob;
        await this.ask();
      }
      setTimeout(next, PAUSE_MS);
    };
    next();
  }

  stop() {
    this.run = null;
    this.source = null;
    camera.stop(this);
    byId("camera").setAttribute("aria-pressed", "false");
  }

  async openPhoto(file) {
    if (!file) return;
    this.stop();
    let bitmap;
    try {
      bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
    } catch {
      this.page.say(t("{name} can't be read as an image.", { name: file.name }));
      return;
    }
    if (this.run) this.stop(); // the webcam was started meanwhile
    const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
    this.shown.width = Math.max(1, Math.round(bitmap.width * scale));
    this.shown.height = Math.max(1, Math.round(bitmap.height * scale));
    this.shown.getContext("2d").drawImage(bitmap, 0, 0, this.shown.width, this.shown.height);
    bitmap.close();
    byId("stage").hidden = false;
    this.source = "photo";
    this.blob = file; // the file itself: the answer is that of the exported model to it
    this.clearHeat();
    await this.ask();
  }

  // Called when the model has changed.
  refresh() {
    if (this.source === "photo") this.ask();
  }

  async ask() {
    const { blob } = this;
    if (!blob || !this.page.model()) return this.explain(t("Press Train first."));
    let answer;
    try {
      answer = await this.api.answer(blob);
      if (blob !== this.blob || !this.source) return;
      this.show(answer);
      if (!byId("look").checked) return;
      if (answer.is_none) this.clearHeat();
      else this.showHeat(await this.api.evidence(blob, this.best(answer)), this.best(answer));
    } catch (error) {
      if (blob === this.blob && this.source) this.explain(error.message);
    }
  }

  best({ classes, probabilities }) {
    return classes[probabilities.indexOf(Math.max(...probabilities))];
  }

  explain(text) {
    if (byId("answer").textContent !== text) byId("answer").textContent = text;
  }

  show(answer) {
    const names = new Map(this.page.classes().map((each) => [each.id, each.name]));
    const wanted = [...names.keys()];
    const values = new Map(answer.classes.map((id, position) => [id, answer.probabilities[position]]));
    if (String([...this.rows.keys()].filter((key) => key !== "none")) !== String(wanted)) this.build(wanted);
    const best = answer.is_none ? "none" : this.best(answer);
    for (const [key, row] of this.rows) {
      const value = key === "none" ? (answer.none ?? Number(answer.is_none)) : (values.get(key) ?? 0);
      row.name.textContent = key === "none" ? t("None of these") : names.get(key);
      row.bar.value = value;
      row.value.textContent = key === "none" || values.has(key) ? percent(value) : "–"; // it is not learned yet
      row.value.title = row.value.textContent === "–" ? t("not trained yet") : "";
      row.element.classList.toggle("best", key === best);
      row.element.hidden = key === "none" && answer.none === null && !answer.is_none;
      row.bar.setAttribute("aria-label", row.name.textContent);
      row.add?.setAttribute("aria-label", t("Add this image to {name}", { name: row.name.textContent }));
    }
    this.explain(answer.is_none ? t("None of these") : names.get(best) ?? "");
    byId("answer").classList.toggle("none", answer.is_none);
    byId("correct").hidden = false;
    document.body.dataset.answered = answer.is_none ? "none" : best;
  }

  build(ids) {
    this.rows.clear();
    byId("bars").replaceChildren(
      ...[...ids, "none"].map((key) => {
        const element = document.createElement("li");
        const [name, value] = ["span", "span"].map((kind) => document.createElement(kind));
        const bar = document.createElement("progress");
        bar.max = 1;
        name.className = "name";
        value.className = "number";
        element.append(name, bar, value);
        const row = { element, name, value, bar };
        if (key !== "none") {
          row.add = document.createElement("button");
          row.add.type = "button";
          row.add.className = "add";
          row.add.textContent = "+";
          row.add.addEventListener("click", () => this.blob && this.page.addCorrection(key, this.blob));
          element.append(row.add);
        }
        this.rows.set(key, row);
        return element;
      }),
    );
  }

  clearHeat() {
    this.heat.width = this.heat.width; // clears it
    byId("legend").hidden = true;
    return false;
  }

  // Paints red where the image speaks for the class.
  showHeat(map, classId) {
    if (!byId("look").checked) return;
    const { name = "" } = this.page.classes().find((each) => each.id === classId) ?? {};
    byId("legend").textContent = t("Red: these places speak for “{name}”.", { name });
    byId("legend").hidden = false;
    const [height, width] = [map.length, map[0].length];
    const small = new OffscreenCanvas(width, height);
    const colours = new ImageData(width, height);
    const largest = Math.max(...map.flat(), 1e-6);
    map.flat().forEach((value, index) => colours.data.set([220, 30, 30, 190 * Math.max(0, value / largest)], index * 4));
    small.getContext("2d").putImageData(colours, 0, 0);
    this.heat.width = this.shown.width;
    this.heat.height = this.shown.height;
    const context = this.heat.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, this.heat.width, this.heat.height);
  }
}
