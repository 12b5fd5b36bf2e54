// Draws the map's points with WebGL where there is a graphics processor, else pixel by pixel.
import { PixelDrawing } from "./map_pixels.js";

const IN_SOFTWARE = /swiftshader|llvmpipe|softpipe|basic render|software/i; // names of renderers

const VERTEX = `#version 300 es
in vec2 position; in vec3 color;
uniform vec2 scale, offset; uniform float size; uniform vec4 paint;
out vec4 shade;
void main() {
  gl_Position = vec4(position * scale + offset, 0, 1);
  gl_PointSize = size;
  shade = vec4(mix(color, paint.rgb, step(2.0, paint.a)), min(paint.a, 1.0));
}`;
const FRAGMENT = `#version 300 es
precision mediump float;
in vec4 shade; out vec4 pixel;
uniform vec4 rim; // its colour, and the squared distance from the middle where it begins
void main() {
  vec2 away = gl_PointCoord - 0.5;
  float apart = dot(away, away);
  if (apart > 0.25) discard;
  pixel = vec4((apart > rim.a ? rim.rgb : shade.rgb) * shade.a, shade.a);
}`;
const LEAST_RIMMED = 5; // pixels
const DIM = 0.12; // opacity of points that don't belong to what is highlighted

// The faster way to draw on this computer.
export function startDrawing(canvas) {
  const gl = document.createElement("canvas").getContext("webgl2");
  const named = gl?.getExtension("WEBGL_debug_renderer_info");
  const isFast = gl && !IN_SOFTWARE.test(gl.getParameter(named ? named.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
  gl?.getExtension("WEBGL_lose_context")?.loseContext(); // browsers have few
  return isFast ? new Drawing(canvas) : new PixelDrawing(canvas);
}

export class Drawing {
  constructor(canvas) {
    this.canvas = canvas;
    this.parts = [0, 0, 0]; // numbers of dimmed, plain and selected points
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => {
      this.begin();
      if (this.last) this.setPoints(this.last);
      if (this.lastColors) this.setColors(this.lastColors);
      if (this.lastOrder) this.setOrder(this.lastOrder, this.parts);
      this.onRestored?.();
    });
    this.begin();
  }

  begin() {
    const gl = this.canvas.getContext("webgl2", { antialias: false, premultipliedAlpha: true });
    this.gl = gl;
    const program = gl.createProgram();
    for (const [kind, source] of [
      [gl.VERTEX_SHADER, VERTEX],
      [gl.FRAGMENT_SHADER, FRAGMENT],
    ]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    this.at = Object.fromEntries(
      ["scale", "offset", "size", "paint", "rim"].map((name) => [name, gl.getUniformLocation(program, name)]),
    );
    this.buffers = { positions: gl.createBuffer(), colors: gl.createBuffer(), order: gl.createBuffer() };
    const attribute = (name, buffer, size, type, isNormalized) => {
      const place = gl.getAttribLocation(program, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, size, type, isNormalized, 0, 0);
    };
    attribute("position", this.buffers.positions, 2, gl.FLOAT, false);
    attribute("color", this.buffers.colors, 4, gl.UNSIGNED_BYTE, true);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.buffers.order);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  setPoints(positions) {
    this.last = positions;
    this.fill(this.gl.ARRAY_BUFFER, this.buffers.positions, positions);
    this.parts = [0, 0, 0];
  }

  // Four bytes for each point; the last one is not used.
  setColors(colors) {
    this.lastColors = colors;
    this.fill(this.gl.ARRAY_BUFFER, this.buffers.colors, colors);
  }

  // The points in the order in which they are drawn: so many dimmed, so many plain, so many selected.
  setOrder(order, parts) {
    this.lastOrder = order;
    this.parts = parts;
    this.fill(this.gl.ELEMENT_ARRAY_BUFFER, this.buffers.order, order);
  }

  fill(target, buffer, data) {
    this.gl.bindBuffer(target, buffer);
    this.gl.bufferData(target, data, this.gl.DYNAMIC_DRAW);
  }

  // `camera`: its middle in the map, and pixels per unit; `size`: of a point in pixels; `paper`: colour of
  // the rim that tells points apart; `ink`: of that of selected points.
  draw({ x, y, zoom, size, paper, ink }) {
    const { gl, at } = this;
    const { width, height } = this.canvas;
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    const scale = [(2 * zoom) / width, (-2 * zoom) / height];
    gl.uniform2f(at.scale, ...scale);
    gl.uniform2f(at.offset, -x * scale[0], -y * scale[1]);
    const [dimmed, plain, selected] = this.parts;
    const share = 0.5 - (window.devicePixelRatio || 1) / size; // a rim of one CSS pixel
    gl.uniform4f(at.rim, ...paper, size < LEAST_RIMMED ? 1 : share * share);
    this.part(0, dimmed, size, [0, 0, 0, DIM]);
    this.part(dimmed, plain, size, [0, 0, 0, 1]);
    gl.uniform4f(at.rim, 0, 0, 0, 1);
    this.part(dimmed + plain, selected, size + 4 * (window.devicePixelRatio || 1), [...ink, 2]);
    this.part(dimmed + plain, selected, size + 1, [0, 0, 0, 1]);
  }

  part(first, count, size, paint) {
    if (!count) return;
    const { gl, at } = this;
    gl.uniform1f(at.size, size);
    gl.uniform4f(at.paint, ...paint);
    gl.drawElements(gl.POINTS, count, gl.UNSIGNED_INT, 4 * first);
  }
}
