// A grid of samples in which people select, move and delete, with the mouse or the keyboard.
import { t, tn } from "./texts.js";

let grids = 0; // on the page so far

export class SampleGrid {
  // `actions`: move(ids, classId) and remove(ids) resolve to null if it failed; leave() puts the focus elsewhere, since
  // an empty grid has none. `classes()`: all classes; `own`: id of the grid's class.
  constructor(own, label, classes, actions) {
    this.own = own;
    this.classes = classes;
    this.actions = actions;
    this.samples = [];
    this.selected = new Set();
    this.cursor = 0;
    this.isChanging = false;
    this.element = document.createElement("div");
    this.element.className = "samples";
    this.list = document.createElement("div");
    this.list.className = "sample-list";
    this.list.setAttribute("role", "listbox");
    this.list.setAttribute("aria-multiselectable", "true");
    this.list.tabIndex = 0;
    this.tools = document.createElement("div");
    this.tools.className = "row tools";
    const keys = document.createElement("p"); // shown while the list is used by keyboard
    grids += 1;
    keys.id = `keys-${grids}`;
    keys.className = "hint keys";
    keys.textContent = t("Arrow keys: go to an image · Space: select · Ctrl+A: select all · Delete: delete");
    this.list.setAttribute("aria-describedby", keys.id);
    this.element.append(this.list, keys, this.tools);
    this.name(label);
    this.list.addEventListener("keydown", (event) => this.onKey(event));
    this.list.addEventListener("focus", () => this.update());
  }

  name(label) {
    this.list.setAttribute("aria-label", t("Images of {name}", { name: label }));
  }

  show(samples) {
    if (String(samples.map((each) => each.id)) === String(this.samples.map((each) => each.id))) return;
    const hadFocus = this.element.contains(document.activeElement);
    this.samples = samples;
    const present = new Set(samples.map((each) => each.id));
    this.selected = new Set([...this.selected].filter((id) => present.has(id)));
    this.cursor = Math.max(0, Math.min(this.cursor, samples.length - 1));
    const old = new Map([...this.list.children].map((option) => [Number(option.dataset.id), option]));
    this.list.replaceChildren(...samples.map((sample) => old.get(sample.id) ?? this.option(sample)));
    this.list.hidden = !samples.length;
    this.update();
    if (hadFocus && !samples.length) this.actions.leave();
  }

  option(sample) {
    const option = document.createElement("div");
    option.id = `sample-${this.own}-${sample.id}-${this.list.parentElement.id || "card"}`;
    option.dataset.id = sample.id;
    option.setAttribute("role", "option");
    option.draggable = true;
    const image = document.createElement("img");
    image.src = `/images/${sample.id}/thumbnail?${sample.sha256}`;
    image.alt = "";
    image.loading = "lazy";
    image.draggable = false;
    option.append(image);
    option.addEventListener("click", () => {
      this.cursor = this.samples.findIndex((each) => each.id === sample.id);
      this.toggle(sample.id);
    });
    option.addEventListener("dragstart", (event) => {
      const ids = this.selected.has(sample.id) ? [...this.selected] : [sample.id];
      event.dataTransfer.setData("application/x-samples", JSON.stringify(ids));
      event.dataTransfer.effectAllowed = "move";
    });
    return option;
  }

  toggle(id) {
    if (this.selected.has(id)) this.selected.delete(id);
    else this.selected.add(id);
    this.update();
  }

  targets() {
    if (this.selected.size) return [...this.selected];
    const sample = this.samples[this.cursor];
    return sample ? [sample.id] : [];
  }

  update() {
    const hasFocus = document.activeElement === this.list;
    [...this.list.children].forEach((option, position) => {
      const isSelected = this.selected.has(Number(option.dataset.id));
      option.setAttribute("aria-selected", String(isSelected));
      option.setAttribute("aria-label", t("Image {number}", { number: position + 1 }));
      option.classList.toggle("cursor", position === this.cursor); // it is visible with the focus
    });
    const current = this.list.children[this.cursor];
    if (current) this.list.setAttribute("aria-activedescendant", current.id);
    else this.list.removeAttribute("aria-activedescendant");
    if (hasFocus) current?.scrollIntoView({ block: "nearest" });
    this.showTools();
  }

  showTools() {
    const hadFocus = this.tools.contains(document.activeElement);
    this.fillTools();
    if (hadFocus) this.list.focus({ preventScroll: true }); // otherwise the focus would be lost
  }

  fillTools() {
    this.tools.hidden = !this.selected.size;
    if (!this.selected.size) {
      this.tools.replaceChildren();
      return;
    }
    const count = document.createElement("span");
    count.textContent = tn("{count} selected", "{count} selected", this.selected.size);
    const others = this.classes().filter((each) => each.id !== this.own);
    const choice = document.createElement("select");
    choice.setAttribute("aria-label", t("Move to"));
    choice.append(new Option(t("Move to…"), ""), ...others.map((each) => new Option(each.name, each.id)));
    choice.addEventListener("change", () => choice.value && this.move(Number(choice.value)));
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = t("Delete");
    remove.addEventListener("click", () => this.remove());
    this.tools.replaceChildren(count, choice, remove);
  }

  move(classId) {
    return this.change((ids) => this.actions.move(ids, classId));
  }

  remove() {
    return this.change((ids) => this.actions.remove(ids));
  }

  // What was not done stays selected.
  async change(action) {
    const ids = this.targets();
    if (!ids.length || this.isChanging) return;
    this.isChanging = true;
    const found = await action(ids);
    this.isChanging = false;
    if (found === null) return;
    for (const id of ids) this.selected.delete(id);
    this.update();
  }

  columns() {
    return getComputedStyle(this.list).gridTemplateColumns.split(" ").length;
  }

  onKey(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns(), ArrowUp: -this.columns() };
    if (event.key in steps) {
      this.cursor = Math.max(0, Math.min(this.samples.length - 1, this.cursor + steps[event.key]));
      this.update();
    } else if (event.key === " ") {
      if (this.samples[this.cursor]) this.toggle(this.samples[this.cursor].id);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.remove();
    } else if (event.key === "Escape" && this.selected.size) {
      this.selected.clear();
      this.update();
    } else if (event.key === "a" && (event.ctrlKey || event.metaKey)) {
      this.selected = new Set(this.samples.map((each) => each.id));
      this.update();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}
