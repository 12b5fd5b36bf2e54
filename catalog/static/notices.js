// The line that says what an action has done, or why it failed.

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

function show(kind, text, buttons) {
  const element = document.getElementById("notice");
  element.className = kind;
  element.replaceChildren(text, ...buttons);
  element.hidden = !text;
}
