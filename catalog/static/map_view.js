// The map in its frame: moved, zoomed, pointed at and selected from, with mouse, fingers or keys.
import { startDrawing } from "./map_drawing.js";
import { PointIndex } from "./map_points.js";

const STEP = 24; // CSS pixels that an arrow key moves the frame
const EDGE = 40; // the map moves along when the frame's middle comes this close to the rim
const REACH = 14; // from the pointer to a point
const MOST = 4000; // times the size of the whole map
const LINE_STEP = 4; // between the corners of a drawn line

export class MapView {
  // `events`: hover(index, x, y), select(indices), moved(); `isShown(index)` tells which points can be found.
  constructor(points, overlay, isShown, events) {
    this.drawing = startDrawing(points);
    this.drawing.onRestored = () => this.redraw();
    Object.assign(this, { points, overlay, isShown, events });
    this.camera = { x: 0, y: 0, zoom: 1 };
    this.frame = { x: 0, y: 0, width: 120, height: 120, isShown: false };
    this.line = null; // that is being drawn, in CSS pixels
    this.fingers = new Map();
    this.isSelecting = false;
    this.index = null;
    this.theme = { ink: [0, 0, 0], paper: [1, 1, 1] };
    this.isDue = false;
    new ResizeObserver(() => this.resize()).observe(overlay);
    overlay.addEventListener("pointerdown", (event) => this.onDown(event));
    overlay.addEventListener("pointermove", (event) => this.onMove(event));
    for (const name of ["pointerup", "pointercancel"]) overlay.addEventListener(name, (event) => this.onUp(event));
    overlay.addEventListener("pointerleave", () => this.fingers.size || events.hover(-1));
    overlay.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    overlay.addEventListener("keydown", (event) => this.onKey(event));
    overlay.addEventListener("focus", () => this.showFrame(overlay.matches(":focus-visible")));
    overlay.addEventListener("blur", () => this.showFrame(false));
  }

  setPositions(positions) {
    const isFirst = !this.index;
    this.index = new PointIndex(positions);
    this.drawing.setPoints(positions);
    if (isFirst) this.fit();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.overlay;
    if (!width || !height) return;
    const density = window.devicePixelRatio || 1;
    for (const canvas of [this.points, this.overlay]) {
      canvas.width = Math.round(width * density);
      canvas.height = Math.round(height * density);
    }
    const isFirst = !this.width;
    Object.assign(this, { width, height, density });
    if (isFirst) {
      Object.assign(this.frame, { x: width / 2, y: height / 2 });
      this.fit();
    }
    this.redraw();
  }

  // Shows the whole map.
  fit() {
    if (!this.index || !this.width) return;
    const { left, top, right, bottom } = this.index.box;
    this.whole = Math.min(this.width / (right - left || 1), this.height / (bottom - top || 1)) * 0.92;
    this.camera = { x: (left + right) / 2, y: (top + bottom) / 2, zoom: this.whole };
    this.redraw();
  }

  // Zooms around a place of the frame.
  zoomBy(factor, x = this.width / 2, y = this.height / 2) {
    if (!this.index) return;
    const [before] = [this.onMap(x, y)];
    const zoom = Math.max(this.whole / 2, Math.min(this.whole * MOST, this.camera.zoom * factor));
    this.camera.zoom = zoom;
    const after = this.onMap(x, y);
    this.camera.x += before[0] - after[0];
    this.camera.y += before[1] - after[1];
    this.redraw();
  }

  moveBy(x, y) {
    this.camera.x -= x / this.camera.zoom;
    this.camera.y -= y / this.camera.zoom;
    this.redraw();
  }

  onMap(x, y) {
    const { camera } = this;
    return [camera.x + (x - this.width / 2) / camera.zoom, camera.y + (y - this.height / 2) / camera.zoom];
  }

  onScreen(x, y) {
    const { camera } = this;
    return [(x - camera.x) * camera.zoom + this.width / 2, (y - camera.y) * camera.zoom + this.height / 2];
  }

  // A point's diameter in CSS pixels: the more points on the screen, the smaller.
  pointSize() {
    const count = this.index.positions.length / 2;
    const area = Math.sqrt((this.width * this.height) / count);
    return Math.max(2.5, Math.min(12, 0.5 * area * (this.camera.zoom / this.whole) ** 0.4));
  }

  redraw() {
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => {
      this.isDue = false;
      if (!this.index || !this.width) return;
      const { x, y, zoom } = this.camera;
      const size = this.pointSize() * this.density;
      this.drawing.draw({ x, y, zoom: zoom * this.density, size, ...this.theme });
      this.drawOverlay();
      this.events.moved();
    });
  }

  drawOverlay() {
    const pen = this.overlay.getContext("2d");
    pen.setTransform(this.density, 0, 0, this.density, 0, 0);
    pen.clearRect(0, 0, this.width, this.height);
    const style = getComputedStyle(this.overlay);
    pen.strokeStyle = style.color;
    pen.lineWidth = 2;
    if (this.line) {
      pen.setLineDash([5, 4]);
      pen.beginPath();
      for (const point of this.line) pen.lineTo(...point);
      pen.closePath();
      pen.stroke();
      pen.setLineDash([]);
    }
    if (this.frame.isShown) {
      const { x, y, width, height } = this.frame;
      pen.strokeRect(x - width / 2, y - height / 2, width, height);
      pen.beginPath();
      for (const [dx, dy] of [
        [8, 0],
        [0, 8],
      ]) {
        pen.moveTo(x - dx, y - dy);
        pen.lineTo(x + dx, y + dy);
      }
      pen.stroke();
    }
  }

  hoverAt(x, y) {
    if (!this.index) return;
    const reach = Math.max(REACH, this.pointSize()) / this.camera.zoom;
    const found = this.index.nearest(...this.onMap(x, y), reach, this.isShown);
    this.events.hover(found, x, y);
  }

  onDown(event) {
    if (event.button > 0) return;
    this.overlay.focus({ preventScroll: true });
    this.overlay.setPointerCapture(event.pointerId);
    const place = [event.offsetX, event.offsetY];
    this.fingers.set(event.pointerId, place);
    const isLine = (this.isSelecting || event.shiftKey) && this.fingers.size === 1;
    this.line = isLine ? [place] : null;
    this.overlay.classList.toggle("dragging", !this.line);
    this.showFrame(false);
  }

  onMove(event) {
    const place = [event.offsetX, event.offsetY];
    const before = this.fingers.get(event.pointerId);
    if (!before) {
      this.hoverAt(...place);
      return;
    }
    if (this.line) {
      const [x, y] = this.line.at(-1);
      if (Math.hypot(place[0] - x, place[1] - y) >= LINE_STEP) this.line.push(place);
      this.redraw();
    } else if (this.fingers.size === 1) {
      this.events.hover(-1);
      this.moveBy(place[0] - before[0], place[1] - before[1]);
    } else {
      const other = [...this.fingers].find(([id]) => id !== event.pointerId)[1];
      const distance = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
      const middle = [(place[0] + other[0]) / 2, (place[1] + other[1]) / 2];
      this.moveBy((place[0] - before[0]) / 2, (place[1] - before[1]) / 2);
      this.zoomBy(distance(place) / Math.max(1, distance(before)), ...middle);
    }
    this.fingers.set(event.pointerId, place);
  }

  onUp(event) {
    if (!this.fingers.delete(event.pointerId)) return;
    this.overlay.classList.remove("dragging");
    const { line } = this;
    this.line = null;
    this.redraw();
    if (line && event.type === "pointerup" && line.length > 2) this.selectInside(line);
    else if (event.type === "pointerup") this.hoverAt(event.offsetX, event.offsetY);
  }

  onWheel(event) {
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 32 : 1);
    this.zoomBy(Math.exp(-pixels / 400), event.offsetX, event.offsetY);
    this.hoverAt(event.offsetX, event.offsetY);
  }

  selectInside(line) {
    if (!this.index) return;
    this.events.select(
      this.index.inside(
        line.map((point) => this.onMap(...point)),
        this.isShown,
      ),
    );
  }

  corners() {
    const { x, y, width, height } = this.frame;
    const [left, right, top, bottom] = [x - width / 2, x + width / 2, y - height / 2, y + height / 2];
    return [
      [left, top],
      [right, top],
      [right, bottom],
      [left, bottom],
    ];
  }

  showFrame(isShown) {
    this.frame.isShown = isShown;
    this.redraw();
    if (isShown) this.pointWithFrame();
  }

  pointWithFrame() {
    if (!this.index) return;
    const { x, y, width, height } = this.frame;
    const reach = Math.max(width, height) / 2 / this.camera.zoom;
    const found = this.index.nearest(...this.onMap(x, y), reach, this.isShown);
    this.events.hover(found, x, y);
    const line = this.corners().map((point) => this.onMap(...point));
    this.events.framed(found, () => this.index.inside(line, this.isShown).length);
  }

  onKey(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const { frame } = this;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in steps) {
      const [dx, dy] = steps[event.key].map((step) => step * STEP);
      if (event.shiftKey) {
        frame.width = Math.max(STEP, Math.min(this.width, frame.width + dx));
        frame.height = Math.max(STEP, Math.min(this.height, frame.height - dy));
      } else {
        const [x, y] = [frame.x + dx, frame.y + dy];
        frame.x = Math.max(EDGE, Math.min(this.width - EDGE, x));
        frame.y = Math.max(EDGE, Math.min(this.height - EDGE, y));
        if (x !== frame.x || y !== frame.y) this.moveBy(frame.x - x, frame.y - y);
      }
    } else if (event.key === "+" || event.key === "=") {
      this.zoomBy(1.3, frame.x, frame.y);
    } else if (event.key === "-") {
      this.zoomBy(1 / 1.3, frame.x, frame.y);
    } else if (event.key === "0") {
      this.fit();
    } else if (event.key === "Enter") {
      this.selectInside(this.corners());
    } else if (event.key === "Escape") {
      this.events.select(null);
    } else {
      return;
    }
    event.preventDefault();
    this.showFrame(true);
  }
}
