// What people do with the images that they look through: send back, label, confirm, undo.
import { findClasses } from "./search.js";
import { button, failure, leftAlone, notice } from "./notices.js";
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

export class Actions {
  // `targets()`: {ids, seen}, the images, and up to which event the person has seen their labels; `changed()`:
  // shows what they are now; `home()`: the element that gets the focus when the one that had it is gone.
  constructor({ project, task }, { targets, changed, home }) {
    this.root = `/api/projects/${project}`;
    this.isSeveral = task === "multi_label";
    Object.assign(this, { targets, changed, home });
    this.isBusy = false;
    this.chosen = new Set(); // class ids and "unknown" in the dialog
    byId("reason").addEventListener("input", () => this.checkReason());
    byId("reject").addEventListener("close", () => this.rejectNow());
    byId("label").addEventListener("close", () => this.labelNow());
    byId("find-class").addEventListener("input", () => this.showChoices());
    byId("find-class").addEventListener("keydown", (event) => this.chooseFirst(event));
  }

  goHome() {
    const home = this.home();
    if (!home.hasAttribute("tabindex")) home.tabIndex = -1;
    home.focus({ preventScroll: true });
  }

  // One at a time; what goes wrong is said, and the selection stays.
  async run(action) {
    if (this.isBusy) return;
    const hadFocus = document.activeElement !== document.body;
    this.isBusy = true;
    document.body.setAttribute("aria-busy", "true");
    try {
      await action();
    } catch (error) {
      failure(error.message);
    } finally {
      this.isBusy = false;
      document.body.removeAttribute("aria-busy");
      if (hadFocus && document.activeElement === document.body) this.goHome();
    }
  }

  reject() {
    this.chooseTargets();
    const count = this.ids.length;
    if (!count) return;
    byId("reject-title").textContent = tn("Send {count} image back", "Send {count} images back", count);
    byId("reject-hint").textContent = tn(
      "It waits on the label page again, without its label. Whoever labels it sees your reason.",
      "They wait on the label page again, without their labels. Whoever labels them sees your reason.",
      count,
    );
    byId("reject").returnValue = "no";
    this.checkReason();
    byId("reject").showModal();
    byId("reason").focus();
  }

  chooseTargets() {
    Object.assign(this, this.targets()); // `ids` and `seen`
  }

  checkReason() {
    const isBlank = byId("reason").value && !byId("reason").value.trim();
    byId("reason").setCustomValidity(isBlank ? t("Give a reason; spaces alone are none.") : "");
  }

  async rejectNow() {
    const reason = byId("reason").value;
    if (byId("reject").returnValue !== "yes") return;
    const said = (count) => tn("{count} image sent back.", "{count} images sent back.", count);
    if (await this.send("reject", { reason }, said)) byId("reason").value = ""; // else it can be sent again
  }

  async label() {
    this.chooseTargets();
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

  // The classes with what is typed in their name; "unknown" is one of the answers.
  found() {
    const answers = [...this.classes, { id: "unknown", name: t("unknown") }];
    return findClasses(answers, byId("find-class").value);
  }

  showChoices() {
    const found = this.found();
    byId("choices").replaceChildren(...found.map((each) => this.choice(each.id, each.name)));
    byId("no-class").textContent = found.length ? "" : t("No class is called that.");
    this.checkChosen();
  }

  // In a project with one class per image, nothing can be sent without one.
  checkChosen() {
    byId("label-yes").disabled = !this.chosen.size && !this.isSeveral;
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
    this.checkChosen();
  }

  // Enter takes the first class that was found, and a second Enter labels.
  chooseFirst(event) {
    if (event.key !== "Enter" || !event.target.value) return;
    event.preventDefault();
    const [first] = this.found();
    if (!first) return;
    this.choose(first.id, true);
    event.target.value = "";
    this.showChoices();
    byId("choices").querySelector("input:checked")?.scrollIntoView({ block: "nearest" });
  }

  async labelNow() {
    if (byId("label").returnValue !== "yes") return;
    const isUnknown = this.chosen.has("unknown");
    const answer = isUnknown ? { status: "unknown" } : { status: "labeled", classes: [...this.chosen] };
    await this.send("label", answer, (count) => tn("{count} image labeled.", "{count} images labeled.", count));
  }

  async confirm() {
    this.chooseTargets();
    const said = (count) => tn("{count} label confirmed.", "{count} labels confirmed.", count);
    if (this.ids.length) await this.send("confirm", {}, said);
  }

  // True if the server has done it.
  async send(action, body, said) {
    let isDone = false;
    await this.run(async () => {
      const done = await request(`${this.root}/${action}`, { ids: this.ids, seen: this.seen, ...body });
      isDone = true;
      await this.changed();
      const parts = [said(done.changed), ...this.leftAlone(done)];
      const undo = done.changed ? [" ", button(t("Undo"), () => this.undo(done.batch))] : [];
      notice(parts.join(" "), ...undo);
    });
    return isDone;
  }

  leftAlone(done) {
    const parts = leftAlone(done);
    if (done.tests) {
      parts.push(
        tn(
          "{count} test image left alone: send it back instead.",
          "{count} test images left alone: send them back instead.",
          done.tests,
        ),
      );
    }
    const same = this.ids.length - done.changed - done.held - done.tests - done.newer - done.missed;
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
      notice(kept ? `${text} ${rest}` : text);
    });
  }
}
