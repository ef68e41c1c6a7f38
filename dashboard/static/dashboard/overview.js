// The overview: two charts of the range, one of the last two minutes, and a refresh when a minute has passed.

import { timesShow } from "./app.js";
import { chart, ms, number, redraw } from "./charts.js";
import { watch } from "./live.js";

const CLASSES = { 2: ["2xx", "c2"], 3: ["3xx", "c3"], 4: ["4xx", "c4"], 5: ["5xx", "c5"], 1: ["1xx", "c3"], 0: ["no answer", "c0"] };
const LATENCIES = { p50: ["p50", "p50"], p95: ["p95", "p95"], p99: ["p99", "p99"], gateway_p95: ["gateway p95", "gateway"] };
const KEPT_S = 120;

const links = document.getElementById("overview-links").dataset;
let data = JSON.parse(document.getElementById("overview-data").textContent);

// --- the range --------------------------------------------------------------------------------------------------------

const perSecond = (value) => `${number(value)}/s`;
const step = (first, end) => {
  const iso = (second) => new Date(second * 1000).toISOString().slice(0, 16);
  if (links.requests) location.href = `${links.requests.split("?")[0]}?from=${iso(first)}&to=${iso(end)}`;
};

function classesOf(given) {
  return Object.entries(CLASSES).filter(([name]) => given[name]?.some(Boolean) || name === "2");
}

function legend(name, entries) {
  const items = entries.map(({ label, color }) => {
    const item = document.createElement("span");
    const swatch = document.createElement("span");
    swatch.className = `swatch ${color}`;
    item.append(swatch, label);
    return item;
  });
  document.querySelector(`[data-legend="${name}"]`).replaceChildren(...items);
}

let traffic = null;
let latency = null;

function draw() {
  const series = Object.values(CLASSES).length && Object.entries(CLASSES).map(([name, [label, color]]) => ({ label, color, values: data.classes[name] ?? data.starts.map(() => 0) }));
  const lines = Object.entries(LATENCIES).map(([name, [label, color]]) => ({ label, color, values: data.latency[name], dash: name === "gateway_p95" ? [4, 3] : [] }));
  legend("traffic", classesOf(data.classes).map(([, [label, color]]) => ({ label, color })));
  legend("latency", lines);
  if (traffic) {
    redraw(traffic, data, series.map(({ values }) => values));
    redraw(latency, data, lines.map(({ values }) => values));
    return;
  }
  traffic = chart(document.getElementById("traffic"), data, { series, format: perSecond, stacked: true, onStep: step });
  latency = chart(document.getElementById("latency"), data, { series: lines, format: ms, onStep: step });
}

draw();

async function refresh() {
  if (links.fixed) return;
  const answer = await fetch(links.refresh, { headers: { Accept: "application/json" } });
  if (!answer.ok || answer.redirected) return;
  const found = await answer.json();
  for (const [name, html] of Object.entries(found.parts)) {
    const part = document.getElementById(name);
    if (part.contains(document.activeElement)) continue; // not under somebody's fingers
    part.innerHTML = html;
    timesShow(part);
  }
  data = found.charts;
  draw();
}

// --- live -------------------------------------------------------------------------------------------------------------

const card = document.getElementById("live");
const shown = Object.fromEntries([...card.querySelectorAll("[data-live]")].map((element) => [element.dataset.live, element]));
const names = Object.keys(CLASSES);
const seconds = { starts: [], step_s: 1 };
const bars = names.map(() => []);
const live = chart(document.getElementById("live-chart"), seconds, {
  series: names.map((name) => ({ label: CLASSES[name][0], color: CLASSES[name][1], values: [] })), format: perSecond, stacked: true,
});
live.options.scales.x.display = live.options.scales.y.display = false;
live.options.layout = { padding: 0 };
live.options.animation = false;

const REFRESH_S = 10;
const SHIPPED_S = 2; // what the feed tells of is in the database by then
let version = null;
let refreshed = 0; // all of these are seconds of the feed
let unseen = 0; // the first traffic that the page does not show yet
let latest = 0;

function state(name, word) {
  card.dataset.state = name;
  card.querySelector(".live-word").textContent = word;
}

function push(frame) {
  seconds.starts.push(frame.t);
  names.forEach((name, position) => bars[position].push(frame.by_class[name] ?? 0));
  for (const list of [seconds.starts, ...bars]) while (list.length > KEPT_S) list.shift();
}

document.addEventListener("hg:live", ({ detail: frame }) => {
  state("on", "Live");
  shown.rps.textContent = number(frame.rps);
  shown.p95.textContent = ms(frame.p95);
  shown.errors.textContent = number(frame.by_class["5"] ?? 0);
  shown.rejected.textContent = number(frame.rejected);
  shown.workers.textContent = frame.workers;
  if (!seconds.starts.length) for (let ago = KEPT_S; ago > 0; ago--) push({ t: frame.t - ago, by_class: {} });
  push(frame);
  redraw(live, seconds, bars);
  if (frame.rps) {
    latest = frame.t;
    unseen ||= frame.t;
  }
  const published = version !== null && frame.version !== null && frame.version !== version;
  version = frame.version ?? version;
  if (published || (unseen && frame.t - unseen >= SHIPPED_S && frame.t - refreshed >= REFRESH_S)) {
    refreshed = frame.t;
    unseen = frame.t - latest < SHIPPED_S ? frame.t : 0;
    refresh();
  }
});
document.addEventListener("hg:live-off", () => state("off", "Not live"));

watch();
