// The card of a class: its name, its newest samples, and the ways to add more.
import * as camera from "./teach_camera.js";
import { Recorder } from "./teach_recorder.js";
import { SampleGrid } from "./teach_samples.js";
import { t, tn } from "./texts.js";

export const SHOWN = 18; // samples on a card
const PREVIEW_MS = 80;
let recording = null; // the card whose webcam preview is open

function button(text, action, kind = "") {
  const element = document.createElement("button");
  element.type = "button";
  element.className = kind;
  element.textContent = text;
  element.addEventListener("click", action);
  return element;
}

export class ClassCard {
  // `page` offers: classes(), addFiles(id, files), addFrames(id, frames, burst), isHopeless(id, error), move, remove,
  // rename(id, name), enable(id, on), erase(class), showAll(class), samples(id), say(text).
  constructor(page, info) {
    this.page = page;
    this.info = info;
    this.run = null; // of the webcam preview, from the press of the button on
    this.element = document.createElement("section");
    this.element.className = "card class-card";
    this.element.id = `class-${info.id}`;
    this.name = document.createElement("input");
    this.name.className = "class-name";
    this.name.maxLength = 200;
    this.name.autocomplete = "off";
    this.name.setAttribute("aria-label", t("Name of the class"));
    this.name.addEventListener("change", () => page.rename(this.info.id, this.name.value));
    this.name.addEventListener("focus", () => this.name.select());
    this.name.addEventListener("keydown", (event) => event.key === "Enter" && this.name.blur());
    this.number = document.createElement("span");
    this.number.className = "hint";
    const head = document.createElement("div");
    head.className = "card-head";
    head.append(this.name, this.menu());
    this.cameraButton = button(t("Webcam"), () => this.toggleCamera());
    const choose = document.createElement("label");
    choose.className = "like-button";
    this.file = document.createElement("input");
    Object.assign(this.file, { type: "file", multiple: true, accept: "image/*" });
    this.file.addEventListener("change", () => {
      page.addFiles(this.info.id, [...this.file.files]);
      this.file.value = ""; // otherwise choosing the same files again is no change
    });
    choose.append(t("Files"), this.file);
    const ways = document.createElement("div");
    ways.className = "row";
    ways.append(this.cameraButton, choose, this.number);
    const leave = () => this.cameraButton.focus();
    this.grid = new SampleGrid(info.id, info.name, page.classes, { move: page.move, remove: page.remove, leave });
    this.recorder = new Recorder({
      save: (frames, burst) => page.addFrames(this.info.id, frames, burst),
      isHopeless: (error) => page.isHopeless(this.info.id, error),
      onFrame: (frames, rate) => this.showFrames(frames, rate),
      onProblem: (problem) => this.showSaving(problem && t("Not saved yet: {problem}", { problem })),
      onDropped: (count, problem) => this.showDropped(count, problem),
      onSaved: (count, refused) => this.showSaved(count, refused),
    });
    this.preview = this.makePreview();
    this.saving = document.createElement("p"); // not in the preview: it is read when that is closed, too
    this.saving.className = "hint saving";
    this.saving.setAttribute("role", "status");
    this.allButton = button(t("Show all"), () => page.showAll(this.info), "quiet");
    this.element.append(head, ways, this.preview, this.saving, this.grid.element, this.allButton);
    this.acceptDrops();
    this.update(info);
  }

  menu() {
    const menu = document.createElement("details");
    menu.className = "menu";
    this.menuTitle = document.createElement("summary");
    this.menuTitle.textContent = "⋯";
    this.enableButton = button("", () => {
      menu.open = false;
      this.page.enable(this.info.id, !this.info.is_enabled);
    });
    const erase = button(t("Delete the class"), () => {
      menu.open = false;
      this.page.erase(this.info);
    });
    const items = document.createElement("div");
    items.append(this.enableButton, erase);
    menu.append(this.menuTitle, items);
    menu.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !menu.open) return;
      menu.open = false;
      this.menuTitle.focus();
    });
    menu.addEventListener("focusout", (event) => {
      if (!menu.contains(event.relatedTarget)) menu.open = false;
    });
    return menu;
  }

  update(info) {
    this.info = info;
    if (document.activeElement !== this.name) this.name.value = info.name;
    this.element.setAttribute("aria-label", info.name);
    this.element.classList.toggle("off", !info.is_enabled);
    this.menuTitle.setAttribute("aria-label", t("More for {name}", { name: info.name }));
    this.enableButton.textContent = info.is_enabled ? t("Leave out of training") : t("Use in training again");
    this.cameraButton.setAttribute("aria-label", t("Webcam for {name}", { name: info.name }));
    this.file.setAttribute("aria-label", t("Files for {name}", { name: info.name }));
    this.grid.name(info.name);
    const count = tn("{count} image", "{count} images", info.count);
    const off = t("left out");
    this.number.textContent = info.is_enabled ? count : `${count} · ${off}`;
    this.allButton.hidden = info.count <= SHOWN;
    this.allButton.textContent = t("Show all {count}", { count: info.count });
  }

  async showSamples() {
    this.grid.show(await this.page.samples(this.info.id, SHOWN));
  }

  makePreview() {
    const preview = document.createElement("div");
    preview.className = "preview";
    preview.hidden = true;
    this.picture = document.createElement("canvas");
    this.picture.setAttribute("aria-hidden", "true");
    this.hold = document.createElement("button");
    this.hold.type = "button";
    this.hold.className = "button hold";
    this.hold.textContent = t("Hold to record");
    this.recorded = document.createElement("p");
    this.recorded.className = "hint recorded";
    const begin = (event) => {
      event.preventDefault();
      this.hold.focus();
      this.hold.classList.add("recording");
      if (!this.recorder.isBusy) this.showSaving("");
      this.recorder.start();
    };
    const end = () => {
      this.hold.classList.remove("recording");
      this.recorder.stop();
    };
    this.hold.addEventListener("pointerdown", (event) => {
      this.hold.setPointerCapture(event.pointerId); // moving off the button goes on recording
      begin(event);
    });
    for (const kind of ["pointerup", "pointercancel", "blur"]) this.hold.addEventListener(kind, end);
    this.hold.addEventListener("contextmenu", (event) => event.preventDefault()); // a long touch opens a menu
    this.hold.addEventListener("keydown", (event) => {
      if (event.key === " " || event.key === "Enter") {
        event.preventDefault();
        if (!event.repeat) begin(event);
      }
    });
    this.hold.addEventListener("keyup", (event) => (event.key === " " || event.key === "Enter") && end());
    preview.append(this.picture, this.hold, this.recorded);
    return preview;
  }

  showFrames(frames, rate) {
    const shown = tn("{count} frame", "{count} frames", frames); // by itself: Babel finds no call within a call
    this.recorded.textContent = t("{frames}, {rate} per second", { frames: shown, rate: Math.round(rate * 10) / 10 });
  }

  showSaving(text) {
    if (this.saving.textContent !== text) this.saving.textContent = text;
  }

  showSaved(count, refused) {
    const parts = [tn("{count} frame saved", "{count} frames saved", count)];
    if (refused.length) {
      const [[, reason]] = refused;
      parts.push(tn("{count} can't be used: {reason}", "{count} can't be used: {reason}", refused.length, { reason }));
    }
    this.showSaving(`${parts.join("; ")}.`);
  }

  // The card may be gone, so the page says it.
  showDropped(count, problem) {
    const text = tn("{count} frame is lost: {problem}", "{count} frames are lost: {problem}", count, { problem });
    this.showSaving("");
    this.hold.classList.remove("recording");
    this.page.say(text);
  }

  async toggleCamera() {
    if (recording === this) {
      if (!this.preview.hidden) this.closeCamera(); // a double click opens it once
      return;
    }
    const other = recording;
    const run = {};
    recording = this;
    this.run = run;
    const started = camera.start(this);
    other?.closeCamera(); // after the start, so that the webcam stays on
    try {
      await started;
    } catch {
      if (this.run !== run) return;
      this.closeCamera();
      this.page.say(t("The webcam can't be used; allow it in the browser."));
      return;
    }
    if (this.run !== run) return;
    this.recorded.textContent = "";
    this.preview.hidden = false;
    this.cameraButton.setAttribute("aria-pressed", "true");
    this.hold.focus({ preventScroll: true });
    this.preview.scrollIntoView({ block: "nearest" });
    const show = () => {
      if (this.run !== run) return;
      camera.draw(this.picture, 224);
      setTimeout(show, PREVIEW_MS);
    };
    show();
  }

  closeCamera() {
    this.run = null;
    this.recorder.stop();
    camera.stop(this);
    if (recording === this) recording = null;
    if (!this.recorder.isBusy) this.showSaving("");
    this.preview.hidden = true;
    this.cameraButton.setAttribute("aria-pressed", "false");
  }

  acceptDrops() {
    const { element } = this;
    element.addEventListener("dragover", (event) => {
      event.preventDefault();
      element.classList.add("over");
    });
    element.addEventListener("dragleave", (event) => {
      if (!element.contains(event.relatedTarget)) element.classList.remove("over");
    });
    element.addEventListener("drop", (event) => {
      event.preventDefault();
      element.classList.remove("over");
      const moved = event.dataTransfer.getData("application/x-samples");
      if (moved) this.page.move(JSON.parse(moved), this.info.id);
      else this.page.addFiles(this.info.id, [...event.dataTransfer.files]);
    });
  }

  dispose() {
    if (recording === this) this.closeCamera();
    this.element.remove();
  }
}

export { button };
