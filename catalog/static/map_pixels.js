// Draws the map's points pixel by pixel, for computers without a graphics processor: it is several times as fast there
// as WebGL in software, and needs no WebGL.

const LEAST_RIMMED = 5; // pixels
const DIM = 0.12; // of the colour of points that don't belong to what is highlighted, on paper

// Bytes of a colour as a pixel of an ImageData, on little-endian machines, as all that browsers run on are.
const packed = (color) => (255 << 24) | (color[2] << 16) | (color[1] << 8) | color[0];

export class PixelDrawing {
  constructor(canvas) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d", { willReadFrequently: true });
    this.parts = [0, 0, 0];
    this.positions = new Float32Array(0);
    this.order = new Uint32Array(0);
  }

  setPoints(positions) {
    this.positions = positions;
    this.parts = [0, 0, 0];
  }

  setColors(colors) {
    this.colors = Uint32Array.from(new Uint32Array(colors.buffer), (color) => color | 0xff000000);
    this.dimColors = null;
  }

  setOrder(order, parts) {
    this.order = order;
    this.parts = parts;
  }

  // As that of `Drawing`.
  draw({ x, y, zoom, size, paper, ink }) {
    const { width, height } = this.canvas;
    if (this.image?.width !== width || this.image.height !== height) {
      this.image = this.pen.createImageData(width, height);
      this.pixels = new Uint32Array(this.image.data.buffer);
    } else {
      this.pixels.fill(0);
    }
    const [dimmed, plain, selected] = this.parts;
    const around = packed(paper.map((part) => 255 * part));
    const place = { left: width / 2 - x * zoom, top: height / 2 - y * zoom, zoom };
    const disc = this.disc(Math.max(1, Math.round(size)));
    if (dimmed) this.part(0, dimmed, disc, place, this.dimmed(paper), around);
    this.part(dimmed, plain, disc, place, this.colors, around);
    if (selected) {
      const mark = packed(ink.map((part) => 255 * part));
      const large = this.disc(Math.round(size + 4 * (window.devicePixelRatio || 1)));
      this.part(dimmed + plain, selected, { ...large, rim: large.all, core: [] }, place, this.colors, mark);
      this.part(dimmed + plain, selected, { ...disc, rim: [], core: disc.all }, place, this.colors, mark);
    }
    this.pen.putImageData(this.image, 0, 0);
  }

  dimmed(paper) {
    const key = String(paper);
    if (!this.dimColors || this.dimmedFor !== key) {
      const of = (color, shift, part) => DIM * ((color >> shift) & 255) + (1 - DIM) * 255 * part;
      this.dimColors = this.colors.map((color) => packed([0, 8, 16].map((shift, i) => of(color, shift, paper[i]))));
      this.dimmedFor = key;
    }
    return this.dimColors;
  }

  // The pixels of a point, as distances in the image from its upper left one.
  disc(diameter) {
    const { width } = this.canvas;
    const middle = (diameter - 1) / 2;
    const core = [];
    const rim = [];
    for (let row = 0; row < diameter; row++) {
      for (let column = 0; column < diameter; column++) {
        const apart = Math.hypot(row - middle, column - middle);
        if (apart > diameter / 2) continue;
        const isRim = diameter >= LEAST_RIMMED && apart > diameter / 2 - (window.devicePixelRatio || 1);
        (isRim ? rim : core).push(row * width + column);
      }
    }
    return { diameter, core, rim, all: [...core, ...rim] };
  }

  part(first, count, { diameter, core, rim }, { left, top, zoom }, colors, around) {
    const { positions, order, pixels } = this;
    const { width, height } = this.canvas;
    const half = diameter / 2;
    const [lastX, lastY] = [width - diameter, height - diameter];
    for (let at = first; at < first + count; at++) {
      const i = order[at];
      const x = Math.round(positions[2 * i] * zoom + left - half);
      const y = Math.round(positions[2 * i + 1] * zoom + top - half);
      if (x < 0 || y < 0 || x > lastX || y > lastY) continue;
      const start = y * width + x;
      const color = colors[i];
      for (let k = 0; k < core.length; k++) pixels[start + core[k]] = color;
      for (let k = 0; k < rim.length; k++) pixels[start + rim[k]] = around;
    }
  }
}
