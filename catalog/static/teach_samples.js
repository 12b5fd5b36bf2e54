// A grid of samples in which people select, move and delete, with the mouse or the keyboard.
import { ImageGrid } from "./image_grid.js";
import { t, tn } from "./texts.js";

export class SampleGrid extends ImageGrid {
  // `actions`: move(ids, classId) and remove(ids) resolve to null if it failed; leave() puts the focus elsewhere, since
  // an empty grid has none. `classes()`: all classes; `own`: id of the grid's class.
  constructor(own, label, classes, actions) {
    super("", "sample-list");
    this.own = own;
    this.classes = classes;
    this.actions = actions;
    this.isChanging = false;
    this.element = document.createElement("div");
    this.element.className = "samples";
    this.tools = document.createElement("div");
    this.tools.className = "row tools";
    const keys = document.createElement("p"); // shown while the list is used by keyboard
    keys.id = `keys-${this.number}`;
    keys.className = "hint keys";
    keys.textContent = t("Arrow keys: go to an image · Space: select · Ctrl+A: select all · Delete: delete");
    this.list.setAttribute("aria-describedby", keys.id);
    this.element.append(this.list, keys, this.tools);
    this.name(label);
  }

  name(label) {
    super.name(t("Images of {name}", { name: label }));
  }

  show(samples) {
    if (String(samples.map((each) => each.id)) === String(this.images.map((each) => each.id))) return;
    const hadFocus = this.element.contains(document.activeElement);
    super.show(samples);
    if (hadFocus && !samples.length) this.actions.leave();
  }

  option(sample) {
    const option = super.option(sample);
    option.draggable = true;
    option.addEventListener("dragstart", (event) => {
      const ids = this.selected.has(sample.id) ? [...this.selected] : [sample.id];
      event.dataTransfer.setData("application/x-samples", JSON.stringify(ids));
      event.dataTransfer.effectAllowed = "move";
    });
    return option;
  }

  onSelect() {
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
    this.onSelect();
  }

  onKey(event) {
    if (event.key !== "Delete" && event.key !== "Backspace") return false;
    this.remove();
    return true;
  }
}
