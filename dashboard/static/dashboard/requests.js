// The list of requests: a drawer for one of them, and new ones as they come. Without a script rows are plain links.

import { moment, timesShow } from "./app.js";
import { rowsWanted, watch } from "./live.js";

const ROWS_MAX = 200;
const list = document.getElementById("requests");
const body = document.getElementById("rows");
const drawer = document.getElementById("drawer");

// --- the drawer: its address is the request's own page, so reloading or sharing opens that --------------------------

async function open(href) {
  const address = new URL(href, location.href);
  const part = new URL(address);
  part.searchParams.set("drawer", "1");
  const answer = await fetch(part, { headers: { Accept: "text/html" } });
  if (!answer.ok) return location.assign(address); // says in full what is wrong
  drawer.innerHTML = await answer.text();
  timesShow(drawer);
  if (!drawer.open) {
    drawer.showModal();
    history.pushState({ drawer: true }, "", address);
  } else {
    history.replaceState({ drawer: true }, "", address);
  }
  drawer.scrollTop = 0;
}

document.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  const link = event.target.closest("a");
  const row = event.target.closest("tr[data-request]");
  const within = link?.closest("#drawer") && link.pathname.startsWith("/dashboard/requests/") && link.pathname !== "/dashboard/requests/";
  const href = within ? link.href : row && (!link || row.contains(link)) ? row.dataset.request : "";
  if (!href || getSelection()?.toString()) return;
  event.preventDefault();
  open(href);
});
drawer.addEventListener("close", () => { if (history.state?.drawer) history.back(); });
addEventListener("popstate", () => { if (drawer.open && !history.state?.drawer) drawer.close(); });

// --- live -----------------------------------------------------------------------------------------------------------

const button = document.getElementById("live");
const kept = [];
let running = false;

function fits(row, wish) {
  return Object.entries(wish).every(([name, value]) => {
    if (name === "status_class") return Math.floor(row.status / 100) === value;
    if (name === "slower_ms") return row.duration_ms >= value;
    return row[name] === value;
  });
}

const duration = (ms) => ms === null ? "–" : ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : ms < 10 ? `${ms.toFixed(2)} ms` : `${Math.round(ms)} ms`;

const statusKind = (status) => ({ 2: "ok", 3: "muted", 4: "warn", 5: "bad" })[Math.floor(status / 100)] ?? "muted";

function outcomeKind(outcome) {
  if (outcome === "ok" || outcome === "answered") return "ok";
  if (/^(upstream|redis|credentials|internal|plugin|no_target|no_healthy|not_ready)/.test(outcome)) return "bad";
  return outcome === "client_closed" ? "muted" : "warn";
}

function rowMake(row, names) {
  const made = document.getElementById("row").content.firstElementChild.cloneNode(true);
  const cell = (name) => made.querySelector(`[data-cell="${name}"]`);
  const href = list.dataset.requestUrl.replace("REQUEST", encodeURIComponent(row.request_id).replaceAll("%2F", "/"));
  const badge = (name, text, kind) => {
    const element = cell(name).querySelector(".badge");
    element.textContent = text;
    if (kind) element.classList.add(kind);
  };
  made.dataset.request = href;
  cell("at").querySelector("a").href = href;
  const time = cell("at").querySelector("time");
  time.dateTime = new Date(row.at).toISOString();
  time.textContent = moment(new Date(row.at));
  badge("request", row.method);
  cell("request").querySelector("code").textContent = row.path;
  badge("status", row.status || "none", statusKind(row.status));
  badge("outcome", row.outcome.replaceAll("_", " "), outcomeKind(row.outcome));
  cell("outcome").title = row.detail;
  cell("route").textContent = row.route || "–";
  cell("consumer").textContent = row.consumer_id === null ? "–" : names[row.consumer_id] ?? `#${row.consumer_id}`;
  cell("took").textContent = duration(row.duration_ms);
  cell("upstream").textContent = duration(row.upstream_ms);
  made.classList.add("fresh");
  return made;
}

function show(rows) {
  const names = JSON.parse(document.getElementById("consumer-names").textContent);
  const wish = JSON.parse(document.getElementById("live-wish").textContent);
  const fresh = rows.filter((row) => fits(row, wish));
  if (!fresh.length) return;
  body.prepend(...fresh.reverse().map((row) => rowMake(row, names)));
  while (body.rows.length > ROWS_MAX) body.lastElementChild.remove();
  body.closest(".table-wrap").hidden = false;
  document.getElementById("nothing")?.remove();
}

function press(on) {
  running = on;
  button.setAttribute("aria-pressed", String(on));
  button.classList.toggle("active", on);
  button.querySelector(".icon").textContent = on ? "pause" : "play_arrow";
  button.querySelector("span:last-child").textContent = on ? "Pause" : "Live";
  const address = new URL(location.href);
  if (on) address.searchParams.set("live", "1");
  else address.searchParams.delete("live");
  if (!drawer.open) history.replaceState(history.state, "", address);
  if (on) watch({ rows: true });
  else rowsWanted(false);
}

if (button) {
  button.hidden = false;
  button.addEventListener("click", () => press(!running));
  // While somebody reads a row, its place stays where it is.
  document.addEventListener("hg:live", (event) => {
    if (!running) return;
    kept.push(...(event.detail.rows ?? []));
    if (drawer.open || body.matches(":hover")) kept.splice(0, kept.length - ROWS_MAX);
    else show(kept.splice(0));
  });
  if (new URLSearchParams(location.search).has("live")) press(true);
}
