// The webcam, shared by the cards and the live test: it runs while somebody needs it.
const SIDE = 320; // pixels of a frame: more than the model takes, little to send
const QUALITY = 0.92; // of its JPEG

const video = document.createElement("video");
video.muted = true;
video.playsInline = true;
const users = new Set();
let stream = null;
let starting = null;

async function open() {
  stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  video.srcObject = stream;
  await video.play();
}

// Starts the webcam for a user; throws if the browser or the person refuses.
export async function start(user) {
  users.add(user);
  try {
    if (!stream) await (starting ??= open());
  } catch (error) {
    users.delete(user);
    throw error;
  } finally {
    starting = null;
  }
  if (!users.size) close();
}

export function stop(user) {
  users.delete(user);
  if (!users.size) close();
}

function close() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  video.srcObject = null;
}

// Draws the central square of the present frame; false if there is none yet.
export function draw(canvas, side = SIDE) {
  const size = Math.min(video.videoWidth, video.videoHeight);
  if (!stream || !size) return false;
  canvas.width = side;
  canvas.height = side;
  const left = (video.videoWidth - size) / 2;
  const top = (video.videoHeight - size) / 2;
  canvas.getContext("2d").drawImage(video, left, top, size, size, 0, 0, side, side);
  return true;
}

export const encoded = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));

// The present frame as a JPEG; null if there is none yet.
export async function frame() {
  const canvas = document.createElement("canvas");
  return draw(canvas) ? encoded(canvas) : null;
}
