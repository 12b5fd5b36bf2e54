// A grid of images in which people move and select, with the mouse or the keyboard.
//
//   const grid = new ImageGrid("Images of the group");
//   page.append(grid.element);
//   grid.show([{ id: 7, sha256: "…", text: "cat", note: "model: dog" }, …]); // `text` and `note` may be left out;
//                                  // a note with `isQuiet` is no warning
//   grid.onSelect = (isNew) => …;  // the selection has changed; `isNew` if it has replaced the one before
//   grid.onOpen = (image) => …;    // Enter or a double click
//   grid.onKey = (event) => true;  // a key of the page's own; true if it is done with it
//   grid.targets();                // ids of the selected images, or of the highlighted one
//
// Its styles are those of `.image-grid` in image_grid.css, or a page's own if `className` is another one.
import { t } from "./texts.js";

let grids = 0; // on the page so far

export class ImageGrid {
  constructor(label, className = "image-grid") {
    grids += 1;
    this.number = grids;
    this.images = [];
    this.selected = new Set();
    this.cursor = 0;
    this.list = document.createElement("div");
    this.list.className = className;
    this.list.setAttribute("role", "listbox");
    this.list.setAttribute("aria-multiselectable", "true");
    this.list.tabIndex = 0;
    this.element = this.list;
    this.name(label);
    this.list.addEventListener("keydown", (event) => this.keydown(event));
    this.list.addEventListener("focus", () => {
      if (this.list.matches(":focus-visible")) this.reveal(); // a click must find its image where it was
    });
  }

  name(label) {
    this.list.setAttribute("aria-label", label);
  }

  onSelect() {}

  onOpen() {}

  onKey() {
    return false;
  }

  // What was selected stays selected; elements of images that stay are kept.
  show(images) {
    this.images = images;
    const present = new Set(images.map((each) => each.id));
    this.selected = new Set([...this.selected].filter((id) => present.has(id)));
    this.cursor = Math.max(0, Math.min(this.cursor, images.length - 1));
    const old = new Map([...this.list.children].map((option) => [Number(option.dataset.id), option]));
    this.list.replaceChildren(...images.map((image) => old.get(image.id) ?? this.option(image)));
    images.forEach((image, position) => this.fill(this.list.children[position], image));
    this.list.hidden = !images.length;
    this.update();
    this.onSelect(false);
  }

  option(image) {
    const option = document.createElement("div");
    option.id = `image-${this.number}-${image.id}`;
    option.dataset.id = image.id;
    option.setAttribute("role", "option");
    const picture = document.createElement("img");
    picture.src = `/images/${image.id}/thumbnail?${image.sha256}`;
    picture.alt = "";
    picture.loading = "lazy";
    picture.draggable = false;
    option.append(picture);
    option.addEventListener("click", (event) => this.click(image.id, event.shiftKey));
    option.addEventListener("dblclick", () => this.open(image.id));
    return option;
  }

  // The lines below an image, if it has any.
  fill(option, image) {
    if (image.text === undefined) return;
    const lines = ["text", "note"].map((name) => {
      const line = document.createElement("span");
      line.className = name;
      line.classList.toggle("quiet", name === "note" && Boolean(image.isQuiet));
      line.textContent = image[name] ?? "";
      return line;
    });
    option.replaceChildren(option.firstChild, ...lines);
    option.title = image.title ?? "";
  }

  // With Shift, all from the highlighted image to this one get selected.
  click(id, isRange) {
    const position = this.images.findIndex((each) => each.id === id);
    const [first, last] = [this.cursor, position].sort((a, b) => a - b);
    this.cursor = position;
    if (!isRange) return this.toggle(id);
    for (const each of this.images.slice(first, last + 1)) this.selected.add(each.id);
    this.update();
    return this.onSelect(false);
  }

  open(id) {
    const image = this.images.find((each) => each.id === id);
    if (image) this.onOpen(image);
  }

  toggle(id) {
    if (this.selected.has(id)) this.selected.delete(id);
    else this.selected.add(id);
    this.update();
    this.onSelect(false);
  }

  select(ids) {
    this.selected = new Set(ids);
    this.update();
    this.onSelect(true);
  }

  selectAll() {
    this.select(this.images.map((each) => each.id));
  }

  targets() {
    if (this.selected.size) return [...this.selected];
    const image = this.images[this.cursor];
    return image ? [image.id] : [];
  }

  update() {
    [...this.list.children].forEach((option, position) => {
      option.setAttribute("aria-selected", String(this.selected.has(Number(option.dataset.id))));
      option.setAttribute("aria-label", this.spoken(this.images[position], position));
      option.classList.toggle("cursor", position === this.cursor); // it is visible with the focus
    });
    const current = this.list.children[this.cursor];
    if (current) this.list.setAttribute("aria-activedescendant", current.id);
    else this.list.removeAttribute("aria-activedescendant");
  }

  // Makes an image the highlighted one, and shows it.
  moveTo(position) {
    this.cursor = Math.max(0, Math.min(this.images.length - 1, position));
    this.update();
    this.reveal();
  }

  reveal() {
    this.list.children[this.cursor]?.scrollIntoView({ block: "nearest" });
  }

  spoken(image, position) {
    const number = position + 1;
    if (image.text === undefined) return t("Image {number}", { number });
    const label = [image.text, image.note].filter(Boolean).join(", ");
    return t("Image {number}: {label}", { number, label });
  }

  columns() {
    return getComputedStyle(this.list).gridTemplateColumns.split(" ").length;
  }

  keydown(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns(), ArrowUp: -this.columns() };
    const current = this.images[this.cursor];
    if (event.altKey) return;
    if (event.key in steps) {
      this.moveTo(this.cursor + steps[event.key]);
    } else if (event.key === " ") {
      if (current) this.toggle(current.id);
    } else if (event.key === "Enter") {
      if (current) this.onOpen(current);
    } else if (event.key === "Escape" && this.selected.size) {
      this.select([]);
    } else if (event.key === "a" && (event.ctrlKey || event.metaKey)) {
      this.selectAll();
    } else if (!this.onKey(event)) {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}
