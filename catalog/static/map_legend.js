// The legend, which is a filter too: what is unchecked isn't shown, and what is pointed at stands out.
import { shown } from "./texts.js";

export class Legend {
  // `changed()` is called when something is hidden, shown or highlighted.
  constructor(list, changed) {
    this.list = list;
    this.changed = changed;
    this.hidden = new Set(); // keys
    this.highlighted = null; // a key
    this.entries = [];
  }

  show(entries) {
    const focused = this.list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    this.entries = entries;
    this.highlighted = null;
    this.list.replaceChildren(...entries.map((entry) => this.item(entry)));
    if (focused !== null) this.list.querySelector(`input[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  item(entry) {
    const item = document.createElement("li");
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = !this.hidden.has(entry.key);
    box.dataset.key = entry.key;
    box.addEventListener("change", () => {
      if (box.checked) this.hidden.delete(entry.key);
      else this.hidden.add(entry.key);
      this.changed();
    });
    const swatch = document.createElement("canvas");
    [swatch.width, swatch.height] = [18, 18];
    const pen = swatch.getContext("2d");
    pen.fillStyle = `rgb(${entry.color})`;
    pen.arc(9, 9, 9, 0, 7);
    pen.fill();
    swatch.setAttribute("aria-hidden", "true");
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = entry.name;
    const count = document.createElement("span");
    count.className = "number";
    count.textContent = shown(entry.count);
    label.append(box, swatch, name, count);
    const highlight = (key) => {
      if (this.highlighted === key) return;
      this.highlighted = key;
      this.changed();
    };
    item.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && highlight(entry.key));
    item.addEventListener("pointerleave", () => highlight(null));
    box.addEventListener("focus", () => box.matches(":focus-visible") && highlight(entry.key));
    box.addEventListener("blur", () => highlight(null));
    item.append(label);
    return item;
  }

  setAll(isShown) {
    this.hidden = new Set(isShown ? [] : this.entries.map((entry) => entry.key));
    for (const box of this.list.querySelectorAll("input")) box.checked = isShown;
    this.changed();
  }
}
