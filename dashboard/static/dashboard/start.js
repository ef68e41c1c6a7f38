// "Waiting for your first request…" becomes that request: told by the live feed, or asked for where there is none.

import { timesShow } from "./app.js";
import { watch } from "./live.js";

const ASK_MS = 2000;
const UNSEEN_LOOKS = 5; // for a request that came just before the feed began, and is not written yet
const waiting = document.querySelector("[data-waiting]");
let asking = 0;
let feed = false;

async function look() {
  const answer = await fetch(waiting.dataset.waiting, { headers: { Accept: "text/html" } });
  if (answer.status !== 200) return false;
  waiting.innerHTML = await answer.text();
  timesShow(waiting);
  waiting.closest("li").classList.add("done");
  const state = document.getElementById("first-state");
  state.className = "badge ok";
  state.textContent = "done";
  waiting.removeAttribute("data-waiting");
  return true;
}

// The row is written a moment after it was seen live.
async function lookUntil(times = Infinity) {
  clearTimeout(asking);
  if (!waiting.hasAttribute("data-waiting") || await look() || times <= 1) return;
  clearTimeout(asking);
  asking = setTimeout(lookUntil, ASK_MS, times - 1);
}

if (waiting) {
  document.addEventListener("hg:live", (event) => {
    const route = Number(waiting.dataset.route);
    const came = event.detail.rows?.some((row) => row.route_id === route);
    if (came) lookUntil();
    else if (!feed) lookUntil(UNSEEN_LOOKS);
    feed = true;
  });
  document.addEventListener("hg:live-off", () => { feed = false; lookUntil(); });
  watch({ rows: true });
}

const secret = document.querySelector("[data-secret-next]");
if (secret) {
  history.replaceState(null, "", secret.dataset.secretNext);
  addEventListener("pagehide", () => secret.remove());
}
