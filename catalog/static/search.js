// Finds classes by what a person types.

// Lower case, without accents; underscores and hyphens are spaces.
export function normalized(text) {
  return text
    .normalize("NFD")
    .replace(/\p{M}/gu, "")
    .toLowerCase()
    .replace(/[_\-\s]+/g, " ")
    .trimStart();
}

// Classes with a word that begins with the text, then those that contain it; all for an empty text.
// `rest` is what a person who types on would type.
export function findClasses(classes, text) {
  const typed = normalized(text);
  if (!typed) return classes;
  const matches = [];
  for (const each of classes) {
    const name = normalized(each.name);
    const starts = [0, ...[...name.matchAll(/ /g)].map((space) => space.index + 1)];
    const start = starts.find((index) => name.startsWith(typed, index));
    if (start !== undefined) matches.push({ ...each, isPrefix: true, rest: name.slice(start + typed.length) });
  }
  if (matches.length) return matches;
  return classes
    .filter((each) => normalized(each.name).includes(typed))
    .map((each) => ({ ...each, isPrefix: false, rest: "" }));
}
