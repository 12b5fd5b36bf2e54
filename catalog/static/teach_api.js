// Requests of the teach page to the server.
import { t } from "./texts.js";

export class RequestError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function send(path, options) {
  const response = await fetch(path, options).catch(() => null);
  if (!response) throw new RequestError(t("The server can't be reached."), 0);
  if (response.ok) return response.json();
  const body = await response.json().catch(() => ({}));
  throw new RequestError(body.detail ?? response.statusText, response.status);
}

export class Api {
  constructor(project) {
    this.root = `/api/teach/${project}`;
  }

  get(path = "") {
    return send(this.root + path);
  }

  post(path, body = {}) {
    const headers = { "Content-Type": "application/json" };
    return send(this.root + path, { method: "POST", headers, body: JSON.stringify(body) });
  }

  // Puts images into a class; `burst` names the recording that they are from.
  addSamples(classId, files, burst = null) {
    const form = new FormData();
    for (const file of files) form.append("files", file, file.name ?? "webcam.jpg");
    if (burst) form.append("burst", burst);
    return send(`${this.root}/classes/${classId}/samples`, { method: "POST", body: form });
  }

  answer(blob) {
    return send(`${this.root}/answer`, { method: "POST", body: blob });
  }

  layers(blob) {
    return send(`${this.root}/layers`, { method: "POST", body: blob });
  }

  evidence(blob, classId) {
    return send(`${this.root}/evidence?class_id=${classId}`, { method: "POST", body: blob });
  }
}
