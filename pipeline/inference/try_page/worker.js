// Runs the model in a worker, so that the page stays responsive.
import * as ort from "./ort.wasm.min.mjs";

ort.env.wasm.numThreads = 1; // threads need HTTP headers that a plain host does not send
ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;

const TILES = 7; // per side of the heatmap
const session = ort.InferenceSession.create("./model.onnx");
session.then(
  () => postMessage({ kind: "ready" }),
  (error) => postMessage({ kind: "load error", reason: String(error.message ?? error) }),
);

let newestId = 0; // a heatmap is abandoned when another request comes

async function predict(pixels, height, width) {
  const picture = new ort.Tensor("uint8", pixels, [height, width, 3]);
  return (await (await session).run({ picture })).probabilities.data;
}

// By how much the probability of a class drops when a tile is covered with the image's mean colour.
async function computeHeatmap(id, pixels, height, width, classIndex) {
  const before = (await predict(pixels, height, width))[classIndex];
  const mean = [0, 0, 0];
  for (let index = 0; index < pixels.length; index++) mean[index % 3] += pixels[index];
  for (let channel = 0; channel < 3; channel++) mean[channel] /= height * width;
  const drops = new Float32Array(TILES * TILES);
  for (let tile = 0; tile < drops.length; tile++) {
    if (id !== newestId) return;
    const row = Math.floor(tile / TILES);
    const column = tile % TILES;
    const covered = pixels.slice();
    // Covers half a tile more on each side: neighbours overlap, and the heatmap is smooth.
    const [top, bottom] = [(row - 0.5) / TILES, (row + 1.5) / TILES].map((y) => Math.round(Math.min(Math.max(y, 0), 1) * height));
    const [left, right] = [(column - 0.5) / TILES, (column + 1.5) / TILES].map((x) => Math.round(Math.min(Math.max(x, 0), 1) * width));
    for (let y = top; y < bottom; y++) {
      for (let x = left; x < right; x++) covered.set(mean, (y * width + x) * 3);
    }
    drops[tile] = before - (await predict(covered, height, width))[classIndex];
    postMessage({ kind: "progress", id, done: tile + 1, total: drops.length });
  }
  postMessage({ kind: "heatmap", id, drops, side: TILES });
}

onmessage = async ({ data }) => {
  const { kind, id, pixels, height, width, classIndex } = data;
  newestId = id;
  try {
    if (kind === "heatmap") {
      await computeHeatmap(id, pixels, height, width, classIndex);
    } else {
      const start = performance.now();
      const probabilities = await predict(pixels, height, width);
      postMessage({ kind: "prediction", id, probabilities, milliseconds: performance.now() - start });
    }
  } catch (error) {
    postMessage({ kind: "error", id, reason: String(error.message ?? error) });
  }
};
