// Shows how far a change of labels is, and loads the page again when it is done.
import { t } from "./texts.js";

const REFRESH_MS = 1000;
const progress = document.getElementById("progress");

async function refresh() {
  const response = await fetch(progress.dataset.url, { headers: { Accept: "application/json" } }).catch(() => null);
  if (response?.status === 401) location.reload(); // the session has ended: to the sign-in page
  if (response?.ok) {
    const answer = await response.json();
    if (answer.is_done) {
      location.replace(location.pathname);
      return;
    }
    progress.querySelector("progress").value = answer.changed;
    progress.querySelector("[role=status]").textContent = t("{done} of {total}", {
      done: answer.changed,
      total: answer.total,
    });
  }
  setTimeout(refresh, REFRESH_MS);
}

if (progress) setTimeout(refresh, REFRESH_MS);
