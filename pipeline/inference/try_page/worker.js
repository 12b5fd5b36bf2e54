// The model, beside the page: what it computes does not hold the page up.
import * as ort from "./ort.wasm.min.mjs";

ort.env.wasm.numThreads = 1; // more would need headers that a plain host does not send
ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;

const TILES = 7; // places a side that are covered, for the map of what it looked at
const loaded = ort.InferenceSession.create("./model.onnx");
loaded.then(
  () => postMessage({ kind: "ready" }),
  (error) => postMessage({ kind: "failed", why: String(error.message ?? error) }),
);

let newest = 0; // a map is given up when another picture comes

async function probabilities(pixels, height, width) {
  const session = await loaded;
  const picture = new ort.Tensor("uint8", pixels, [height, width, 3]);
  return (await session.run({ picture })).probabilities.data;
}

// How much less probable the class becomes when a part is covered with the picture's mean colour.
async function map(id, pixels, height, width, place) {
  const before = (await probabilities(pixels, height, width))[place];
  const mean = [0, 0, 0];
  for (let at = 0; at < pixels.length; at++) mean[at % 3] += pixels[at];
  for (let channel = 0; channel < 3; channel++) mean[channel] /= height * width;
  const drops = new Float32Array(TILES * TILES);
  for (let tile = 0; tile < drops.length; tile++) {
    if (id !== newest) return;
    const row = Math.floor(tile / TILES);
    const column = tile % TILES;
    const covered = pixels.slice();
    // A cover reaches half a place over its own: neighbours overlap, and the map is smooth.
    const [top, bottom] = [(row - 0.5) / TILES, (row + 1.5) / TILES].map((y) => Math.round(Math.min(Math.max(y, 0), 1) * height));
    const [left, right] = [(column - 0.5) / TILES, (column + 1.5) / TILES].map((x) => Math.round(Math.min(Math.max(x, 0), 1) * width));
    for (let y = top; y < bottom; y++) {
      for (let x = left; x < right; x++) covered.set(mean, (y * width + x) * 3);
    }
    drops[tile] = before - (await probabilities(covered, height, width))[place];
    postMessage({ kind: "mapping", id, done: tile + 1, all: drops.length });
  }
  postMessage({ kind: "map", id, drops, side: TILES });
}

onmessage = async ({ data }) => {
  const { kind, id, pixels, height, width, place } = data;
  newest = id;
  try {
    if (kind === "map") {
      await map(id, pixels, height, width, place);
    } else {
      const began = performance.now();
      const shares = await probabilities(pixels, height, width);
      postMessage({ kind: "answer", id, shares, milliseconds: performance.now() - began });
    }
  } catch (error) {
    postMessage({ kind: "broken", id, why: String(error.message ?? error) });
  }
};
