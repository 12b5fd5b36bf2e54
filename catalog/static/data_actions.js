// What people do with the images that they look through: send back, label, confirm, undo.
import { findClasses } from "./search.js";
import { t, tn } from "./texts.js";

const byId = (id) => document.getElementById(id);

export async function request(path, body) {
  const options = body && { method: "POST", body: JSON.stringify(body) };
  const headers = { "Content-Type": "application/json", Accept: "application/json" };
  const response = await fetch(path, { headers, ...options }).catch(() => null);
  if (!response) throw new Error(t("The server can't be reached."));
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.detail || t("the server answers with an error ({status})", response));
  return answer;
}

export function button(text, action, kind = "") {
  const element = document.createElement("button");
  element.type = "button";
  element.className = kind;
  element.textContent = text;
  element.addEventListener("click", action);
  return element;
}

export class Actions {
  // `targets()`: ids of the images; `changed()`: shows what they are now.
  constructor({ project, task }, targets, changed) {
    this.root = `/api/projects/${project}`;
    this.isSeveral = task === "multi_label";
    this.targets = targets;
    this.changed = changed;
    this.isBusy = false;
    this.chosen = new Set(); // class ids and "unknown" in the dialog
    byId("reject").addEventListener("close", () => this.rejectNow());
    byId("label").addEventListener("close", () => this.labelNow());
    byId("find-class").addEventListener("input", () => this.showChoices());
    byId("find-class").addEventListener("keydown", (event) => this.chooseFirst(event));
  }

  notice(text, ...buttons) {
    byId("notice").replaceChildren(text, ...buttons);
    byId("notice").hidden = !text;
  }

  // One at a time; what goes wrong is said, and the selection stays.
  async run(action) {
    if (this.isBusy) return;
    this.isBusy = true;
    document.body.setAttribute("aria-busy", "true");
    try {
      await action();
    } catch (error) {
      this.notice(error.message);
    } finally {
      this.isBusy = false;
      document.body.removeAttribute("aria-busy");
    }
  }

  reject() {
    this.ids = this.targets();
    if (!this.ids.length) return;
    const title = tn("Send {count} image back", "Send {count} images back", this.ids.length);
    byId("reject-title").textContent = title;
    byId("reject").returnValue = "no";
    byId("reject").showModal();
    byId("reason").focus();
  }

  async rejectNow() {
    const reason = byId("reason").value;
    if (byId("reject").returnValue !== "yes") return;
    const said = (count) => tn("{count} image sent back.", "{count} images sent back.", count);
    await this.send("reject", { reason }, said);
    byId("reason").value = "";
  }

  async label() {
    this.ids = this.targets();
    if (!this.ids.length) return;
    await this.run(async () => {
      this.classes ??= (await request(this.root)).classes;
      this.chosen.clear();
      byId("find-class").value = "";
      byId("label-title").textContent = tn("Label {count} image as", "Label {count} images as", this.ids.length);
      this.showChoices();
      byId("label").returnValue = "no";
      byId("label").showModal();
      byId("find-class").focus();
    });
  }

  showChoices() {
    const typed = byId("find-class").value;
    const found = findClasses(this.classes, typed);
    const choices = found.map((each) => this.choice(each.id, each.name));
    if (!typed) choices.push(this.choice("unknown", t("unknown")));
    byId("choices").replaceChildren(...choices);
  }

  choice(value, name) {
    const item = document.createElement("li");
    const label = document.createElement("label");
    const input = document.createElement("input");
    input.type = this.isSeveral && value !== "unknown" ? "checkbox" : "radio";
    input.name = "choice";
    input.checked = this.chosen.has(value);
    input.addEventListener("change", () => this.choose(value, input.checked));
    label.append(input, " ", name);
    item.append(label);
    return item;
  }

  choose(value, on) {
    if (!this.isSeveral || value === "unknown") this.chosen.clear();
    this.chosen.delete("unknown");
    if (on) this.chosen.add(value);
    else this.chosen.delete(value);
    for (const input of byId("choices").querySelectorAll("input[type=radio]")) {
      if (this.isSeveral && value !== "unknown") input.checked = false;
    }
    if (this.isSeveral && value === "unknown") this.showChoices();
  }

  // Enter takes the first class that was found, and a second Enter labels.
  chooseFirst(event) {
    if (event.key !== "Enter" || !event.target.value) return;
    event.preventDefault();
    const [first] = findClasses(this.classes, event.target.value);
    if (!first) return;
    this.choose(first.id, true);
    event.target.value = "";
    this.showChoices();
    byId("choices").querySelector("input:checked")?.scrollIntoView({ block: "nearest" });
  }

  async labelNow() {
    if (byId("label").returnValue !== "yes") return;
    const isUnknown = this.chosen.has("unknown");
    if (!this.chosen.size && !this.isSeveral) {
      this.notice(t("No class was chosen; nothing has changed."));
      return;
    }
    const answer = isUnknown ? { status: "unknown" } : { status: "labeled", classes: [...this.chosen] };
    await this.send("label", answer, (count) => tn("{count} image labeled.", "{count} images labeled.", count));
  }

  async confirm() {
    this.ids = this.targets();
    const said = (count) => tn("{count} label confirmed.", "{count} labels confirmed.", count);
    if (this.ids.length) await this.send("confirm", {}, said);
  }

  async send(action, body, said) {
    await this.run(async () => {
      const done = await request(`${this.root}/${action}`, { ids: this.ids, ...body });
      await this.changed();
      const parts = [said(done.changed), ...this.leftAlone(done)];
      const undo = done.changed ? [" ", button(t("Undo"), () => this.undo(done.batch))] : [];
      this.notice(parts.join(" "), ...undo);
    });
  }

  leftAlone({ changed, held, tests }) {
    const parts = [];
    if (held) parts.push(tn("{count} is open elsewhere.", "{count} are open elsewhere.", held));
    if (tests) {
      parts.push(
        tn(
          "{count} test image left alone: send it back instead.",
          "{count} test images left alone: send them back instead.",
          tests,
        ),
      );
    }
    const same = this.ids.length - changed - held - tests;
    if (same) parts.push(t("{count} needed no change.", { count: same }));
    return parts;
  }

  async undo(batch) {
    await this.run(async () => {
      const { undone, kept } = await request(`${this.root}/undo/${batch}`, {});
      await this.changed();
      const text = tn("{count} label is back as it was.", "{count} labels are back as they were.", undone);
      const rest = tn(
        "{count} was labeled again or is open elsewhere.",
        "{count} were labeled again or are open elsewhere.",
        kept,
      );
      this.notice(kept ? `${text} ${rest}` : text);
    });
  }
}
