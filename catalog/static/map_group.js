// A selected group of images: a grid to take the odd ones out of, and the class for the others.
import { ImageGrid } from "./image_grid.js";
import { findClasses } from "./search.js";
import { shown, t, tn } from "./texts.js";

const PER_SHEET = 200;
const byId = (id) => document.getElementById(id);

// The images of a sheet; those that are selected get the label.
class SheetGrid extends ImageGrid {
  first = 1; // number of the sheet's first image

  spoken(image, position) {
    const number = this.first + position;
    if (!image.text) return t("Image {number}", { number });
    if (image.isPredicted) return t("Image {number}: {label}, predicted", { number, label: image.text });
    return t("Image {number}: {label}", { number, label: image.text });
  }

  fill(option, image) {
    super.fill(option, image);
    option.classList.toggle("predicted", image.isPredicted);
  }

  keydown(event) {
    if (event.key !== "Escape") super.keydown(event); // it closes the dialog
  }
}

export class Group {
  // `describe(index)`: {label, prediction, isLabeled, isTest, classes} of an image; `idOf(index)`: its id;
  // `version()`: of the map; `give(indices, classes)` resolves when they are labeled.
  constructor({ classes, isMulti, most, describe, idOf, version, give }) {
    Object.assign(this, { classes, isMulti, most, describe, idOf, version, give });
    this.dialog = byId("group");
    this.grid = new SheetGrid(t("Images of the group"), "group-grid");
    this.grid.list.id = "group-grid";
    this.grid.list.setAttribute("aria-describedby", "group-keys");
    this.grid.onSelect = () => this.keepSelected();
    this.grid.onKey = (event) => this.onKey(event);
    byId("group-images").prepend(this.grid.element);
    this.search = byId("search");
    byId("previous").addEventListener("click", () => this.turn(-1));
    byId("next").addEventListener("click", () => this.turn(1));
    byId("group-all").addEventListener("click", () => this.keep(true));
    byId("group-none").addEventListener("click", () => this.keep(false));
    byId("group-close").addEventListener("click", () => this.dialog.close());
    byId("keep-labeled").addEventListener("change", () => this.fill());
    this.search.addEventListener("input", () => this.showClasses());
    byId("group-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.search.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !this.search.value) return;
      event.preventDefault();
      const [first] = findClasses(this.classes, this.search.value);
      if (first) this.choose(first.id);
    });
  }

  open(indices) {
    this.everything = indices;
    this.out = new Set();
    this.chosen = new Set();
    this.search.value = "";
    byId("keep-labeled").checked = true;
    byId("group-error").hidden = true;
    this.fill();
    if (!this.dialog.open) this.dialog.showModal();
    this.grid.list.focus();
  }

  // Images that can be labeled, those whose class is rare in the group first.
  fill() {
    const described = new Map(this.everything.map((index) => [index, this.describe(index)]));
    const labeled = this.everything.filter((index) => described.get(index).isLabeled);
    const tests = this.everything.filter((index) => described.get(index).isTest).length;
    const keepsLabeled = byId("keep-labeled").checked;
    this.counts = new Map();
    const name = (index) => described.get(index).label || described.get(index).prediction;
    const names = new Map();
    for (const index of this.everything) {
      names.set(name(index), (names.get(name(index)) ?? 0) + 1);
      for (const id of described.get(index).classes) this.counts.set(id, (this.counts.get(id) ?? 0) + 1);
    }
    this.images = this.everything.filter(
      (index) => !described.get(index).isTest && !(keepsLabeled && described.get(index).isLabeled),
    );
    this.images.sort((a, b) => names.get(name(a)) - names.get(name(b)));
    const others = labeled.filter((index) => !described.get(index).isTest).length;
    byId("keep-row").hidden = !others;
    byId("keep-row").querySelector("span").textContent = tn(
      "Leave {count} image as it is: it has a label",
      "Leave {count} images as they are: they have a label",
      others,
    );
    const notes = [];
    if (tests) {
      notes.push(
        tn(
          "{count} test image is left out: it is labeled on the label page only.",
          "{count} test images are left out: they are labeled on the label page only.",
          tests,
        ),
      );
    }
    if (this.images.length > 1) notes.push(t("What is rare in the group comes first."));
    byId("group-note").textContent = notes.join(" ");
    const total = this.everything.length;
    const all = tn("{count} image selected", "{count} images selected", total);
    const some = tn(
      "{count} of {total} can be labeled",
      "{count} of {total} can be labeled",
      this.images.length,
      { total },
    );
    byId("group-title").textContent = this.images.length === total ? all : some;
    this.sheet = 0;
    this.showSheet();
    this.showClasses();
  }

  onSheet() {
    return this.images.slice(this.sheet * PER_SHEET, (this.sheet + 1) * PER_SHEET);
  }

  showSheet() {
    const images = this.onSheet();
    this.grid.first = this.sheet * PER_SHEET + 1;
    this.grid.cursor = 0;
    this.isTurning = true; // what is selected then is no choice of the person's
    this.grid.show(images.map((index) => this.shown(index)));
    this.grid.select(images.filter((index) => !this.out.has(index)).map((index) => this.idOf(index)));
    this.isTurning = false;
    this.grid.list.scrollTop = 0;
    const sheets = Math.max(1, Math.ceil(this.images.length / PER_SHEET));
    byId("previous").hidden = byId("next").hidden = byId("sheet-number").hidden = sheets === 1;
    byId("previous").disabled = this.sheet === 0;
    byId("next").disabled = this.sheet === sheets - 1;
    byId("sheet-number").textContent = t("{first}–{last} of {total}", {
      first: this.sheet * PER_SHEET + 1,
      last: this.sheet * PER_SHEET + images.length,
      total: this.images.length,
    });
    this.update();
  }

  shown(index) {
    const { label, prediction } = this.describe(index);
    const isPredicted = !label && Boolean(prediction);
    return { id: this.idOf(index), sha256: this.version(), text: label || prediction, isPredicted };
  }

  // Takes the selection of the sheet over.
  keepSelected() {
    if (this.isTurning) return;
    for (const index of this.onSheet()) {
      if (this.grid.selected.has(this.idOf(index))) this.out.delete(index);
      else this.out.add(index);
    }
    this.update();
  }

  // All images, or none, on all sheets.
  keep(isKept) {
    this.out = new Set(isKept ? [] : this.images);
    this.grid.select(isKept ? this.onSheet().map((index) => this.idOf(index)) : []);
  }

  turn(step) {
    this.sheet += step;
    this.showSheet();
    this.grid.list.focus();
  }

  targets() {
    return this.images.filter((index) => !this.out.has(index));
  }

  update() {
    const count = this.targets().length;
    const button = byId("give");
    const names = this.classes.filter((each) => this.chosen.has(each.id)).map((each) => each.name);
    if (!count) button.textContent = t("No image to label");
    else if (count > this.most) button.textContent = t("At most {most} images at once", { most: this.most });
    else if (!names.length) button.textContent = t("Choose a class");
    else {
      const values = { names: names.join(", ") };
      button.textContent = tn("Label {count} image as {names}", "Label {count} images as {names}", count, values);
    }
    button.disabled = !count || count > this.most || !names.length || Boolean(this.isBusy);
  }

  showClasses() {
    const matches = findClasses(this.classes, this.search.value);
    const sorted = this.search.value
      ? matches
      : [...matches].sort((a, b) => (this.counts.get(b.id) ?? 0) - (this.counts.get(a.id) ?? 0));
    byId("classes").replaceChildren(
      ...sorted.map((each) => {
        const item = document.createElement("li");
        const button = document.createElement("button");
        button.type = "button";
        button.dataset.id = each.id;
        button.setAttribute("aria-pressed", String(this.chosen.has(each.id)));
        const name = document.createElement("span");
        name.className = "label";
        name.textContent = each.name;
        const count = document.createElement("span");
        count.className = "number";
        count.textContent = this.counts.has(each.id) ? shown(this.counts.get(each.id)) : "";
        button.append(name, count);
        button.addEventListener("click", () => this.choose(each.id));
        item.append(button);
        return item;
      }),
    );
  }

  choose(id) {
    if (!this.isMulti) this.chosen.clear();
    if (this.chosen.has(id)) this.chosen.delete(id);
    else this.chosen.add(id);
    for (const button of byId("classes").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(this.chosen.has(Number(button.dataset.id))));
    }
    this.update();
  }

  async submit() {
    if (byId("give").disabled) return;
    const error = byId("group-error");
    this.isBusy = true;
    error.hidden = true;
    this.update();
    try {
      await this.give(this.targets(), [...this.chosen]);
      this.dialog.close();
    } catch (problem) {
      error.textContent = problem.message;
      error.hidden = false;
    } finally {
      this.isBusy = false;
      this.update();
    }
  }

  // Keys of the grid that are no selecting or moving; true if it is done with one.
  onKey(event) {
    if (event.key === "PageDown" && !byId("next").disabled) this.turn(1);
    else if (event.key === "PageUp" && !byId("previous").disabled) this.turn(-1);
    else {
      const isLetter = /^\p{L}$/u.test(event.key) && !event.ctrlKey && !event.metaKey;
      if (isLetter) this.search.focus(); // the letter itself goes there
      return false;
    }
    return true;
  }
}
