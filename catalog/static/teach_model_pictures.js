// Pictures of numbers that the server has sent as bytes.
const COLUMNS = 40; // of a tile
const HALF = 127; // a signed byte is 128 + HALF * value / limit

export function bytes(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

function colour(name) {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim().slice(1);
  return [0, 2, 4].map((start) => parseInt(hex.slice(start, start + 2), 16));
}

// A canvas for one dot per number; `label` says what it shows.
export function tile(label) {
  const canvas = document.createElement("canvas");
  canvas.className = "tile";
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  return canvas;
}

// Paints a dot for each byte; `shade` maps a byte to red, green and blue.
function paint(canvas, values, columns, shade) {
  const rows = Math.ceil(values.length / columns);
  if (canvas.width !== columns) canvas.width = columns;
  if (canvas.height !== rows) canvas.height = rows;
  const image = new ImageData(columns, rows);
  values.forEach((value, place) => image.data.set([...shade(value), 255], place * 4));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// A table of colours for signed bytes; `strong` / `limit` and more has the full colour.
function diverging(limit, strong) {
  const [plus, minus, zero] = ["--plus", "--minus", "--zero"].map(colour);
  return Array.from({ length: 256 }, (_, byte) => {
    const value = ((byte - HALF - 1) / HALF) * (limit / strong);
    const share = Math.min(1, Math.abs(value));
    const end = value < 0 ? minus : plus;
    return zero.map((start, part) => Math.round(start + share * (end[part] - start)));
  });
}

export function paintSigned(canvas, values, limit, strong, columns = COLUMNS) {
  const table = diverging(limit, strong);
  paint(canvas, values, columns, (value) => table[value]);
}

// Grey dots; the root makes small values visible beside a few large ones.
export function paintGrey(canvas, values, columns = COLUMNS, root = 1) {
  const table = Array.from({ length: 256 }, (_, byte) => Math.round(255 * (byte / 255) ** (1 / root)));
  paint(canvas, values, columns, (value) => [table[value], table[value], table[value]]);
}

// The scale from the strongest negative to the strongest positive colour.
export function paintScale(canvas) {
  const values = Uint8Array.from({ length: canvas.width }, (_, place) => 1 + Math.round((place / (canvas.width - 1)) * 2 * HALF));
  paintSigned(canvas, values, 1, 1, canvas.width);
}

// Calls a function now, and again whenever the colours change between light and dark.
export function inColours(draw) {
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}
