// Texts in the page's language. They are in English in the scripts; a translation comes from the server.
const { lang, dataset } = document.documentElement;

async function load(address) {
  try {
    const response = await fetch(address);
    return response.ok ? await response.json() : {};
  } catch {
    return {}; // English is better than nothing
  }
}

const translations = dataset.texts ? await load(dataset.texts) : {};
const plurals = new Intl.PluralRules(lang);

// A number in the page's language; other values as they are.
export function shown(value) {
  return typeof value === "number" ? value.toLocaleString(lang) : String(value);
}

function filled(text, values) {
  return text.replace(/\{(\w+)\}/g, (whole, name) => (Object.hasOwn(values, name) ? shown(values[name]) : whole));
}

// The text, with values: t("{count} images uploaded", { count }).
export function t(text, values = {}) {
  return filled(translations[text] ?? text, values);
}

// The text for a number: tn("{count} image", "{count} images", count).
export function tn(singular, plural, count, values = {}) {
  const forms = translations[singular] ?? [singular, plural];
  return filled(forms[plurals.select(count) === "one" ? 0 : 1], { count, ...values });
}
