// The names of the map's groups, written next to where most of their points lie.

const SAMPLE = 500; // points of each entry that its place is found from
const LEAST = 0.6; // of an entry's points within reach of its place, else its name isn't written
const REACH = 0.25; // in units of the map, whose half side is 1

export class ClassNames {
  constructor(element) {
    this.element = element;
    this.labels = [];
  }

  // Finds the place of each entry: the median of its points.
  find(positions, codes, { entries, of }) {
    const samples = entries.map(() => []);
    for (let i = 0; i < codes.length; i++) {
      for (const entry of of[codes[i]]) if (samples[entry].length < SAMPLE) samples[entry].push(i);
    }
    this.labels = [];
    entries.forEach((entry, position) => {
      const points = samples[position];
      if (entry.isOther || points.length < 3) return;
      const [x, y] = [0, 1].map((axis) => median(points.map((i) => positions[2 * i + axis])));
      const near = points.filter((i) => Math.hypot(positions[2 * i] - x, positions[2 * i + 1] - y) < REACH);
      if (near.length < LEAST * points.length) return;
      const element = document.createElement("span");
      element.textContent = entry.name;
      this.labels.push({ entry, x, y, element });
    });
    this.element.replaceChildren(...this.labels.map((each) => each.element));
    for (const each of this.labels) each.size = [each.element.offsetWidth, each.element.offsetHeight];
  }

  show(legend) {
    for (const each of this.labels) {
      const { key } = each.entry;
      each.isShown = !legend.hidden.has(key) && (legend.highlighted === null || legend.highlighted === key);
    }
  }

  // Writes the names that don't cover others; the larger groups come first.
  place(view) {
    const taken = [];
    for (const { x, y, element, size, isShown } of this.labels) {
      const [left, top] = view.onScreen(x, y).map((value, axis) => value - size[axis] / 2);
      const box = [left, top, left + size[0], top + size[1]];
      const isFree = taken.every((b) => box[2] < b[0] || box[0] > b[2] || box[3] < b[1] || box[1] > b[3]);
      element.hidden = !isShown || !isFree;
      if (element.hidden) continue;
      taken.push(box);
      element.style.transform = `translate(${left}px, ${top}px)`;
    }
  }
}

function median(values) {
  return values.sort((a, b) => a - b)[values.length >> 1];
}
