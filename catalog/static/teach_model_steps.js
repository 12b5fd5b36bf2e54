// The recorded training: weights before and after, and a player of its steps.
import { LineChart } from "./teach_model_chart.js";
import { bytes, inColours, paintScale, paintSigned, tile } from "./teach_model_pictures.js";
import { t } from "./texts.js";

const STEP_MS = 220;
const byId = (id) => document.getElementById(id);
const { lang } = document.documentElement;
const percent = new Intl.NumberFormat(lang, { style: "percent", maximumFractionDigits: 0 });
const precise = new Intl.NumberFormat(lang, { maximumSignificantDigits: 2 });

export class Steps {
  // `recorded` is the server's answer, `nameOf` gives the name of a class id.
  constructor(recorded, nameOf) {
    Object.assign(this, recorded);
    this.nameOf = nameOf;
    this.values = bytes(recorded.weights);
    this.last = recorded.loss.length - 1;
    this.step = 0;
    this.timer = 0;
    this.showPairs();
    this.showPlayer();
  }

  // The weights of a class at a step.
  paint(canvas, step, number) {
    const start = (step * this.classes.length + number) * this.features;
    paintSigned(canvas, this.values.subarray(start, start + this.features), this.limit, this.strong);
  }

  showPairs() {
    const pairs = this.classes.map((id) => {
      const name = this.nameOf(id);
      const figure = document.createElement("figure");
      figure.className = "pair";
      const caption = document.createElement("figcaption");
      caption.textContent = name;
      const [before, after] = [t("before"), t("after")].map((text) => {
        const label = document.createElement("span");
        label.textContent = text;
        return { label, canvas: tile(`${name}: ${text}`) };
      });
      figure.append(caption, before.canvas, after.canvas, before.label, after.label);
      return { figure, before: before.canvas, after: after.canvas };
    });
    byId("pairs").replaceChildren(...pairs.map(({ figure }) => figure));
    const value = precise.format(this.strong);
    byId("least").textContent = t("−{value} and below: counts against the class", { value });
    byId("most").textContent = t("{value} and above: counts for the class", { value });
    inColours(() => {
      paintScale(byId("scale"));
      pairs.forEach(({ before, after }, number) => {
        this.paint(before, 0, number);
        this.paint(after, this.last, number);
      });
    });
  }

  showPlayer() {
    const points = (values) => [{ points: values.map((value, step) => [step, value]) }];
    this.lossChart = new LineChart(t("Loss: how wrong the model is"), points(this.loss), {
      end: this.last,
      width: byId("charts").clientWidth,
      top: Math.max(...this.loss),
      shownY: (value) => precise.format(value),
    });
    this.rightChart = new LineChart(t("Right answers on the training images"), points(this.right), {
      end: this.last,
      width: byId("charts").clientWidth,
      top: 1,
      shownY: (value) => percent.format(value),
    });
    byId("charts").replaceChildren(this.lossChart.element, this.rightChart.element);
    this.tiles = this.classes.map((id) => tile(t("Weights of {name}", { name: this.nameOf(id) })));
    const figures = this.tiles.map((canvas, number) => {
      const figure = document.createElement("figure");
      const caption = document.createElement("figcaption");
      caption.textContent = this.nameOf(this.classes[number]);
      figure.append(canvas, caption);
      return figure;
    });
    byId("weights").replaceChildren(...figures);
    byId("step").addEventListener("input", (event) => this.stop(Number(event.target.value)));
    byId("back").addEventListener("click", () => this.stop(this.step - 1));
    byId("forward").addEventListener("click", () => this.stop(this.step + 1));
    byId("play").addEventListener("click", () => (this.timer ? this.stop(this.step) : this.play()));
    byId("player").addEventListener("keydown", (event) => this.onKey(event));
    inColours(() => this.show(this.step));
  }

  onKey(event) {
    const target = { ArrowLeft: this.step - 1, ArrowRight: this.step + 1, Home: 0, End: this.last }[event.key];
    if (target === undefined || event.target === byId("step")) return; // the slider has these keys itself
    event.preventDefault();
    this.stop(target);
  }

  play() {
    if (this.step === this.last) this.show(0);
    byId("play").textContent = t("Pause");
    byId("step-shown").setAttribute("aria-live", "off"); // not each step is spoken
    this.timer = setInterval(() => {
      this.show(this.step + 1);
      if (this.step === this.last) this.stop(this.step);
    }, STEP_MS);
  }

  stop(step) {
    clearInterval(this.timer);
    this.timer = 0;
    byId("play").textContent = t("Play");
    byId("step-shown").removeAttribute("aria-live");
    this.show(step);
  }

  show(step) {
    this.step = Math.max(0, Math.min(this.last, step));
    const text = t("Step {step} of {last}", { step: this.step, last: this.last });
    const loss = precise.format(this.loss[this.step]);
    const spoken = t("Step {step} of {last}, loss {loss}", { step: this.step, last: this.last, loss });
    byId("step").value = this.step;
    byId("step").setAttribute("aria-valuetext", spoken);
    byId("step-shown").textContent = text;
    byId("back").disabled = this.step === 0;
    byId("forward").disabled = this.step === this.last;
    this.lossChart.mark(this.step, this.loss[this.step], loss);
    this.rightChart.mark(this.step, this.right[this.step], percent.format(this.right[this.step]));
    this.tiles.forEach((canvas, number) => this.paint(canvas, this.step, number));
  }
}
