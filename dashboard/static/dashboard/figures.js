// Traffic and latency of one route or upstream.

import { chart, ms, number } from "./charts.js";

const data = JSON.parse(document.getElementById("figures-data").textContent);
const classes = { 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx" };

chart(document.getElementById("figures-traffic"), data, {
  stacked: true,
  format: (value) => `${number(value)}/s`,
  series: Object.entries(classes).map(([name, label]) => ({ label, color: `c${name}`, values: data.classes[name] })),
});
chart(document.getElementById("figures-latency"), data, {
  format: ms,
  series: Object.entries(data.latency).map(([name, values]) => ({ label: name, color: name, values })),
});
