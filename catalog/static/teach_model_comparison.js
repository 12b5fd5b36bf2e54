// Training a small network from scratch against tuning, as two curves.
import { LineChart } from "./teach_model_chart.js";
import { t } from "./texts.js";

const POLL_MS = 1000;
const RETRY_MS = 3000; // after an error
const byId = (id) => document.getElementById(id);
const { lang } = document.documentElement;
const percent = new Intl.NumberFormat(lang, { style: "percent", maximumFractionDigits: 0 });
const seconds = new Intl.NumberFormat(lang, { maximumSignificantDigits: 2 });

// Fills the section `#scratch`; it stays hidden where the server can't compare.
export async function showComparison(api) {
  let timer = 0;
  const schedule = (milliseconds) => {
    clearTimeout(timer);
    timer = setTimeout(load, milliseconds);
  };
  const load = async () => {
    let found;
    try {
      found = await api.get("/comparison");
    } catch (error) {
      if (error.status === 404) return;
      say(error.message);
      schedule(RETRY_MS);
      return;
    }
    byId("scratch").hidden = false;
    show(found);
    if (["waiting", "running"].includes(found.state)) schedule(POLL_MS);
  };
  byId("compare").addEventListener("click", async () => {
    byId("compare").disabled = true;
    try {
      await api.post("/comparison");
      await load();
    } catch (error) {
      say(error.message);
    } finally {
      byId("compare").disabled = false;
    }
  });
  await load();
}

function say(text) {
  if (byId("comparing").textContent !== text) byId("comparing").textContent = text;
}

function show({ state, message, tuning, scratch, images, held_out: tested }) {
  const isBusy = ["waiting", "running"].includes(state);
  byId("compare").hidden = isBusy || state === "done";
  let text = state === "failed" ? message : "";
  if (isBusy) text = t("The small network is learning…");
  else if (state === "done" && tested) text = conclusion(tuning, scratch, tested, images);
  say(text);
  byId("comparison").replaceChildren();
  if (tuning.length + scratch.length) byId("comparison").append(chart(tuning, scratch));
}

// The end of both curves, and how much a single image counts.
function conclusion(tuning, scratch, tested, images) {
  const end = (curve) => ({
    share: percent.format(curve.at(-1)?.accuracy ?? 0),
    seconds: seconds.format(curve.at(-1)?.seconds ?? 0),
  });
  return [
    t("Tuning: {share} right after {seconds} seconds.", end(tuning)),
    t("From scratch: {share} right after {seconds} seconds.", end(scratch)),
    t("Tested on {tested} of the {images} images, so one mistake counts for {each}.", {
      tested,
      images,
      each: percent.format(1 / tested),
    }),
  ].join(" ");
}

function chart(tuning, scratch) {
  const end = Math.max(...[...tuning, ...scratch].map((each) => each.seconds));
  const points = (curve) => curve.map((each) => [each.seconds, each.accuracy]);
  const lines = [
    { name: "tuning", title: t("Tuning"), points: points(tuning) },
    { name: "scratch", title: t("From scratch"), points: points(scratch) },
  ].filter((line) => line.points.length);
  for (const line of lines) if (line.points.at(-1)[0] < end) line.points.push([end, line.points.at(-1)[1]]);
  const plot = new LineChart(t("Right answers"), lines, {
    end,
    top: 1,
    width: byId("comparison").clientWidth,
    height: 220,
    shownX: (value) => t("{seconds} s", { seconds: seconds.format(value) }),
    shownY: (value) => percent.format(value),
    label: lines.map(({ title, points: all }) => `${title}: ${percent.format(all.at(-1)[1])}`).join("; "),
  });
  plot.legend(lines);
  return plot.element;
}
