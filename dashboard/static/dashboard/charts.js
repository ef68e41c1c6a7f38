// Charts over time on Chart.js, in the colours of the theme and the clock of the reader.

import { moment } from "./app.js";

const Chart = window.Chart;
const all = new Set();
const color = (token) => getComputedStyle(document.documentElement).getPropertyValue(`--${token}`).trim();
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

export const number = (value) => value === null || value === undefined ? "–"
  : value >= 1e6 ? `${+(value / 1e6).toPrecision(3)}M` : value >= 1e4 ? `${+(value / 1e3).toPrecision(3)}k` : `${+value.toPrecision(3)}`;
export const ms = (value) => value === null || value === undefined ? "–" : value >= 1000 ? `${(value / 1000).toFixed(2)} s` : `${+value.toPrecision(value < 10 ? 2 : 3)} ms`;

/** What stands under a step: the time of day, and the date where a day begins or steps are long. */
function label(start, step) {
  const date = new Date(start * 1000);
  if (step >= 86400) return moment(date, "date");
  return moment(date, "short") === "00:00" ? moment(date, "date") : moment(date, "short");
}

// Vertical lines where the configuration changed.
const marks = {
  id: "marks",
  afterDatasetsDraw(chart, _, { versions }) {
    if (!versions?.length || !chart.$data) return; // without animation the constructor draws before it has them
    const { ctx, chartArea: area, scales: { x } } = chart;
    const { starts, step_s: step } = chart.$data;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = color("primary-text");
    ctx.setLineDash([3, 3]);
    for (const version of versions) {
      const index = (version.at - starts[0]) / step - (x.options.offset ? 0.5 : 0);
      const width = starts.length > 1 ? x.getPixelForValue(1) - x.getPixelForValue(0) : 0;
      const at = x.getPixelForValue(0) + index * width;
      if (at < area.left - 1 || at > area.right + 1) continue;
      ctx.beginPath(); ctx.moveTo(at, area.top); ctx.lineTo(at, area.bottom); ctx.stroke();
      ctx.beginPath(); ctx.moveTo(at - 4, area.top); ctx.lineTo(at + 4, area.top); ctx.lineTo(at, area.top + 6); ctx.fill();
    }
    ctx.restore();
  },
};

const crosshair = {
  id: "crosshair",
  beforeDatasetsDraw(chart) {
    const active = chart.tooltip?.getActiveElements?.()[0];
    if (!active) return;
    const { ctx, chartArea: area } = chart;
    ctx.save();
    ctx.strokeStyle = color("border-strong");
    ctx.beginPath(); ctx.moveTo(active.element.x, area.top); ctx.lineTo(active.element.x, area.bottom); ctx.stroke();
    ctx.restore();
  },
};

function style(chart) {
  const { series, stacked, area } = chart.$spec;
  chart.data.datasets.forEach((dataset, position) => {
    const tone = color(series[position].color);
    Object.assign(dataset, { borderColor: tone, backgroundColor: stacked ? tone : `color-mix(in srgb, ${tone} 12%, transparent)`, pointHoverBackgroundColor: tone });
    if (area) dataset.fill = position === 0 ? "origin" : false;
  });
  const { x, y } = chart.options.scales;
  x.ticks.color = y.ticks.color = color("text-3");
  y.grid.color = color("grid");
  x.border.color = color("border");
  Object.assign(chart.options.plugins.tooltip, {
    backgroundColor: color("raised"), borderColor: color("border-strong"), titleColor: color("text"), bodyColor: color("text-2"), footerColor: color("primary-text"),
  });
  chart.data.labels = chart.$data.starts.map((start) => label(start, chart.$data.step_s));
}

/** A value whose neighbours are empty makes no line: it is shown as a point. */
function isolated({ dataset, dataIndex }) {
  const { data } = dataset;
  return data[dataIndex] != null && data[dataIndex - 1] == null && data[dataIndex + 1] == null ? 3 : 0;
}

/**
 * series  [{label, color (a token), values, dash}], data {starts, step_s, versions}
 * format  of values; stacked: bars on one another instead of lines; onStep(start, end): a click on a step
 */
export function chart(canvas, data, { series, format, stacked = false, onStep = null }) {
  const sets = series.map((one) => ({
    label: one.label, data: one.values, borderColor: color(one.color), backgroundColor: color(one.color), borderWidth: stacked ? 0 : 1.75, borderDash: one.dash ?? [], pointRadius: stacked ? 0 : isolated, pointHoverRadius: 4,
    tension: 0.25, spanGaps: true, barPercentage: 1, categoryPercentage: 0.86, borderRadius: stacked ? 1 : 0,
  }));
  const made = new Chart(canvas, {
    type: stacked ? "bar" : "line",
    data: { labels: data.starts, datasets: sets },
    plugins: [marks, crosshair],
    options: {
      responsive: true, maintainAspectRatio: false, animation: still ? false : { duration: 250 }, normalized: true,
      interaction: { mode: "index", intersect: false },
      font: { family: "Inter" },
      onClick: (event, elements) => elements.length && onStep?.(made.$data.starts[elements[0].index], made.$data.starts[elements[0].index] + made.$data.step_s),
      onHover: (event, elements) => { event.native.target.classList.toggle("clickable", Boolean(onStep && elements.length)); },
      scales: {
        x: { stacked, offset: true, border: {}, grid: { display: false }, ticks: { autoSkipPadding: 24, maxRotation: 0, font: { family: "Inter", size: 11 } } },
        y: { stacked, beginAtZero: true, border: { display: false }, grid: {}, ticks: { maxTicksLimit: 5, padding: 8, font: { family: "Inter", size: 11 }, callback: format } },
      },
      plugins: {
        legend: { display: false },
        marks: { versions: data.versions },
        tooltip: {
          borderWidth: 1, padding: 10, cornerRadius: 8, boxPadding: 4, usePointStyle: true, boxWidth: 8, boxHeight: 8, caretSize: 0,
          titleFont: { family: "Inter", size: 12, weight: 600 }, bodyFont: { family: "Inter", size: 12 }, footerFont: { family: "Inter", size: 12, weight: 500 },
          itemSort: (one, other) => other.datasetIndex - one.datasetIndex,
          filter: (item) => !stacked || item.raw > 0,
          callbacks: {
            title: ([item]) => item ? moment(new Date(made.$data.starts[item.dataIndex] * 1000), "minute") : "",
            label: (item) => ` ${item.dataset.label}  ${format(item.raw)}`,
            footer: ([item]) => item ? within(made, item.dataIndex) : "",
          },
        },
      },
    },
  });
  Object.assign(made, { $spec: { series, stacked }, $data: data });
  all.add(made);
  style(made);
  made.update("none");
  return made;
}

function within(chart, index) {
  const { starts, step_s: step, versions = [] } = chart.$data;
  return versions.filter(({ at }) => at >= starts[index] && at < starts[index] + step).slice(0, 3)
    .map(({ number: version, author, comment }) => `Version ${version} by ${author}${comment ? `: ${comment}` : ""}`);
}

/** New numbers in an old chart. `values`: a list for each series. */
export function redraw(chart, data, values) {
  chart.$data = data;
  chart.options.plugins.marks.versions = data.versions;
  values.forEach((list, position) => { chart.data.datasets[position].data = list; });
  style(chart);
  chart.update("none");
}

const restyle = () => { for (const chart of all) { style(chart); chart.update("none"); } };
document.addEventListener("hg:theme", restyle);
document.addEventListener("hg:clock", restyle);
