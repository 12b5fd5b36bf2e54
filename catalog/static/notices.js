// The line that says what an action has done, or why it failed.
import { tn } from "./texts.js";

export function button(text, action, kind = "") {
  const element = document.createElement("button");
  element.type = "button";
  element.className = kind;
  element.textContent = text;
  element.addEventListener("click", action);
  return element;
}

export function notice(text, ...buttons) {
  show("good", text, buttons);
}

export function failure(text, ...buttons) {
  show("bad", text, buttons);
}

// What an action on many images has left as it was, in sentences.
export function leftAlone({ held, newer, missed }) {
  const parts = [];
  if (held) {
    parts.push(
      tn("{count} was left alone: somebody has it open.", "{count} were left alone: somebody has them open.", held),
    );
  }
  if (newer) {
    parts.push(
      tn(
        "{count} was labeled meanwhile and left alone: look at it again.",
        "{count} were labeled meanwhile and left alone: look at them again.",
        newer,
      ),
    );
  }
  if (missed) {
    parts.push(
      tn(
        "{count} was not reached, because the database is busy or away: do it again.",
        "{count} were not reached, because the database is busy or away: do it again.",
        missed,
      ),
    );
  }
  return parts;
}

function show(kind, text, buttons) {
  const element = document.getElementById("notice");
  element.className = kind;
  element.replaceChildren(text, ...buttons);
  element.hidden = !text;
}
