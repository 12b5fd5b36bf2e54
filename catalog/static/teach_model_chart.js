// A line chart.
const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [360, 145, 44, 6, 8, 22];

function node(name, attributes, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

export class LineChart {
  // `lines` are { name, points: [[x, y], …] }; `top` is the largest y; `width` is that
  // of its place, so that texts keep their size; `shownX` and `shownY` make texts of numbers.
  constructor(title, lines, { end, top, width, height = HEIGHT, shownX = String, shownY = String, label = title }) {
    Object.assign(this, { end: end || 1, top: top || 1, width: width || WIDTH, height });
    this.element = document.createElement("figure");
    this.element.className = "plot";
    const caption = document.createElement("figcaption");
    this.value = document.createElement("b");
    caption.append(title, this.value);
    const svg = node("svg", { viewBox: `0 0 ${this.width} ${height}`, role: "img", "aria-label": label });
    svg.append(node("path", { class: "axis", d: `M${LEFT} ${TOP}V${height - BOTTOM}H${this.width - RIGHT}` }));
    for (const y of [0, this.top]) {
      svg.append(node("text", { x: LEFT - 9, y: this.y(y) + 4, "text-anchor": "end" }, shownY(y)));
    }
    svg.append(node("text", { x: LEFT, y: height - 4, "text-anchor": "middle" }, shownX(0)));
    svg.append(node("text", { x: this.width - RIGHT, y: height - 4, "text-anchor": "end" }, shownX(this.end)));
    for (const { name = "", points } of lines) {
      const way = points.map(([x, y]) => `${this.x(x).toFixed(1)} ${this.y(y).toFixed(1)}`).join("L");
      if (points.length) svg.append(node("path", { class: `line ${name}`, d: `M${way}` }));
    }
    this.at = node("line", { class: "at", y1: TOP, y2: height - BOTTOM, visibility: "hidden" });
    this.circle = node("circle", { class: "mark", r: 4.5, visibility: "hidden" });
    svg.append(this.at, this.circle);
    this.svg = svg;
    this.element.append(caption, svg);
  }

  x(value) {
    return LEFT + (value / this.end) * (this.width - LEFT - RIGHT);
  }

  y(value) {
    return this.height - BOTTOM - (value / this.top) * (this.height - BOTTOM - TOP);
  }

  // Says below the chart which line is which.
  legend(lines) {
    const legend = document.createElement("p");
    legend.className = "legend";
    for (const { name, title } of lines) {
      const entry = document.createElement("span");
      entry.className = name;
      entry.textContent = title;
      legend.append(entry);
    }
    this.element.append(legend);
  }

  // Marks a point, and says its value beside the title.
  mark(x, y, text) {
    this.at.setAttribute("x1", this.x(x));
    this.at.setAttribute("x2", this.x(x));
    this.circle.setAttribute("cx", this.x(x));
    this.circle.setAttribute("cy", this.y(y));
    for (const each of [this.at, this.circle]) each.setAttribute("visibility", "visible");
    this.value.textContent = text;
  }
}
