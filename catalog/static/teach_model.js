// The page "What is a model?": the parts of the model that the project has trained last.
import { Api } from "./teach_api.js";
import { showComparison } from "./teach_model_comparison.js";
import { Prediction } from "./teach_model_prediction.js";
import { Steps } from "./teach_model_steps.js";
import { t } from "./texts.js";

const byId = (id) => document.getElementById(id);
const api = new Api(byId("explained").dataset.project);

async function start() {
  const [state, recorded] = await Promise.all([api.get(), api.get("/steps")]);
  const names = new Map(state.classes.map((each) => [each.id, each.name]));
  const nameOf = (id) => names.get(id) ?? "";
  new Steps(recorded, nameOf);
  const prediction = new Prediction(api, nameOf, (version) => {
    if (version !== recorded.version) prediction.explain(t("The model was trained again. Reload this page to see the new one."));
  });
  const learned = state.classes.filter((each) => recorded.classes.includes(each.id));
  await Promise.all([prediction.offer(learned), showComparison(api)]);
}

try {
  await start();
} catch (error) {
  byId("problem").textContent = error.message;
}
document.documentElement.dataset.ready = "yes";
