// Finds points of the map: the nearest one, and those inside of a line.

const CELLS = 256; // along each side of the grid that the points are sorted into

export class PointIndex {
  constructor(positions) {
    this.positions = positions;
    const count = positions.length / 2;
    let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
    for (let i = 0; i < count; i++) {
      const [x, y] = [positions[2 * i], positions[2 * i + 1]];
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      if (y > bottom) bottom = y;
    }
    Object.assign(this, { left, top, side: Math.max(right - left, bottom - top, 1e-6) / CELLS });
    this.box = { left, top, right, bottom };
    this.starts = new Uint32Array(CELLS * CELLS + 1);
    const cells = new Uint32Array(count);
    for (let i = 0; i < count; i++) {
      cells[i] = this.cell(positions[2 * i], positions[2 * i + 1]);
      this.starts[cells[i] + 1] += 1;
    }
    for (let cell = 0; cell < CELLS * CELLS; cell++) this.starts[cell + 1] += this.starts[cell];
    const next = this.starts.slice();
    this.members = new Uint32Array(count);
    for (let i = 0; i < count; i++) this.members[next[cells[i]]++] = i;
  }

  column(x) {
    return Math.max(0, Math.min(CELLS - 1, Math.floor((x - this.left) / this.side)));
  }

  row(y) {
    return Math.max(0, Math.min(CELLS - 1, Math.floor((y - this.top) / this.side)));
  }

  cell(x, y) {
    return this.row(y) * CELLS + this.column(x);
  }

  // Calls `use` with each point in the cells that a rectangle touches.
  each(left, top, right, bottom, use) {
    const [first, last] = [this.column(left), this.column(right)];
    for (let row = this.row(top); row <= this.row(bottom); row++) {
      const end = this.starts[row * CELLS + last + 1];
      for (let at = this.starts[row * CELLS + first]; at < end; at++) use(this.members[at]);
    }
  }

  // The point next to a place and at most `radius` away, of those that `isShown`; -1 if there is none.
  nearest(x, y, radius, isShown) {
    let found = -1;
    let best = radius * radius;
    this.each(x - radius, y - radius, x + radius, y + radius, (i) => {
      const away = (this.positions[2 * i] - x) ** 2 + (this.positions[2 * i + 1] - y) ** 2;
      if (away <= best && isShown(i)) [found, best] = [i, away];
    });
    return found;
  }

  // The points inside of a closed line, [[x, y], …], of those that `isShown`.
  inside(line, isShown) {
    const xs = line.map((point) => point[0]);
    const ys = line.map((point) => point[1]);
    const found = [];
    this.each(Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys), (i) => {
      if (isInside(line, this.positions[2 * i], this.positions[2 * i + 1]) && isShown(i)) found.push(i);
    });
    return found;
  }
}

function isInside(line, x, y) {
  let inside = false;
  for (let i = 0, j = line.length - 1; i < line.length; j = i++) {
    const [xi, yi] = line[i];
    const [xj, yj] = line[j];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
  }
  return inside;
}

// How points are drawn: not at all, dimmed, plain.
export const HIDDEN = 0;
export const DIMMED = 1;
export const PLAIN = 2;

// The shown points in the order in which they are drawn, and how many are dimmed, plain and selected.
export function drawnOrder(codes, looks, selected) {
  const look = (i) => (selected.has(i) ? (looks[codes[i]] === HIDDEN ? -1 : 2) : looks[codes[i]] - 1);
  const parts = [0, 0, 0];
  for (let i = 0; i < codes.length; i++) {
    const part = look(i);
    if (part >= 0) parts[part] += 1;
  }
  const next = [0, parts[0], parts[0] + parts[1]];
  const order = new Uint32Array(parts[0] + parts[1] + parts[2]);
  for (let i = 0; i < codes.length; i++) {
    const part = look(i);
    if (part >= 0) order[next[part]++] = i;
  }
  return { order, parts };
}
