// The map's requests. Positions and colours come as arrays, one number for each image.
import { t } from "./texts.js";

async function answered(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error(t("The server can't be reached; try again."));
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const error = new Error(
    body.detail || t("The server answers with an error ({status}); try again.", { status: response.status }),
  );
  throw Object.assign(error, { status: response.status });
}

export class MapApi {
  constructor(project) {
    this.project = project;
    this.base = `/api/projects/${project}`;
  }

  async post(path, body) {
    const headers = { "Content-Type": "application/json", Accept: "application/json" };
    const response = await answered(this.base + path, { method: "POST", headers, body: JSON.stringify(body) });
    return response.json();
  }

  describe() {
    return answered(this.base).then((response) => response.json());
  }

  state() {
    return answered(`${this.base}/map`).then((response) => response.json());
  }

  // Asks for a map that has all images; `anew` arranges all of them again.
  request(anew = false) {
    return this.post("/map", { anew });
  }

  // {ids, positions}: float64 ids, and x and y of each image.
  async points(version) {
    const response = await answered(`${this.base}/map/${version}/points`);
    const content = await response.arrayBuffer();
    const count = content.byteLength / 16;
    return { ids: new Float64Array(content, 0, count), positions: new Float32Array(content, 8 * count, 2 * count) };
  }

  // {values, codes, seen}: what is known, for each image its position in that list, and up to which event it is.
  async coloring(version, name) {
    const response = await answered(`${this.base}/map/${version}/${name}`);
    const content = await response.arrayBuffer();
    const length = new DataView(content).getUint32(0, true);
    const values = JSON.parse(new TextDecoder().decode(content.slice(4, 4 + length)));
    const Codes = values.length > 65_536 ? Uint32Array : Uint16Array;
    return { values, codes: new Codes(content.slice(4 + length)), seen: Number(response.headers.get("Last-Event")) };
  }

  label(ids, seen, classes) {
    return this.post("/map/label", { ids, seen, classes });
  }

  undo(batch) {
    return this.post(`/undo/${encodeURIComponent(batch)}`, {});
  }

  thumbnail(id, version) {
    return `/images/${id}/thumbnail?${version}`;
  }
}
