// What every page has: theme, clock, menus, dialogs, copying, toasts. Everything hangs on data attributes and listens
// at the document, so that what htmx brings in works without being told.

const root = document.documentElement;
const remember = (name, value) => { try { localStorage.setItem(name, JSON.stringify(value)); } catch { /* private mode */ } };

// --- theme ----------------------------------------------------------------------------------------------------------

export const isDark = () => root.dataset.theme === "dark"
  || (root.dataset.theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);

function themeSet(theme) {
  root.dataset.theme = theme;
  for (const button of document.querySelectorAll("[data-theme-switch]")) {
    button.setAttribute("aria-pressed", String(button.dataset.themeSwitch === theme));
  }
  document.dispatchEvent(new CustomEvent("hg:theme"));
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => themeSet(root.dataset.theme));

// --- times: the server writes UTC, the browser may turn it to local time --------------------------------------------

const two = (number) => String(number).padStart(2, "0");

export function moment(date, form = "second") {
  const get = root.dataset.clock === "local"
    ? [date.getFullYear(), date.getMonth() + 1, date.getDate(), date.getHours(), date.getMinutes(), date.getSeconds()]
    : [date.getUTCFullYear(), date.getUTCMonth() + 1, date.getUTCDate(), date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds()];
  const [year, month, day, hour, minute, second] = get;
  const text = { day: `${year}-${two(month)}-${two(day)}`, clock: `${two(hour)}:${two(minute)}:${two(second)}`, short: `${two(hour)}:${two(minute)}`, date: `${two(month)}-${two(day)}` };
  if (form === "day" || form === "clock" || form === "short" || form === "date") return text[form];
  return form === "minute" ? `${text.day} ${text.short}` : `${text.day} ${text.clock}`;
}

export function timesShow(within = document) {
  for (const time of within.querySelectorAll("time[datetime]")) {
    const date = new Date(time.dateTime);
    time.title = `${moment(date)} ${root.dataset.clock === "local" ? "local time" : "UTC"}`;
    if (time.dataset.form !== "ago") time.textContent = moment(date, time.dataset.form);
  }
}

function clockSet(clock) {
  root.dataset.clock = clock;
  for (const button of document.querySelectorAll("[data-clock-switch]")) {
    button.querySelector(".clock-label").textContent = clock === "local" ? "Local" : "UTC";
    button.setAttribute("aria-label", clock === "local" ? "Times in local time; switch to UTC" : "Times in UTC; switch to local time");
  }
  timesShow();
  document.dispatchEvent(new CustomEvent("hg:clock"));
}

// --- toasts ---------------------------------------------------------------------------------------------------------

export function toast(text, kind = "success") {
  const element = document.createElement("div");
  element.className = `toast ${kind}`;
  element.textContent = text;
  document.getElementById("toasts").append(element);
  toastLeave(element);
}

function toastLeave(element) {
  if (!element.classList.contains("error")) setTimeout(() => element.remove(), 6000);
}

// --- copying --------------------------------------------------------------------------------------------------------

async function copy(button) {
  const source = button.dataset.copyText ?? document.querySelector(button.dataset.copy).innerText;
  try {
    await navigator.clipboard.writeText(source);
  } catch { // plain http on another host than localhost has no clipboard
    const area = document.createElement("textarea");
    area.value = source;
    area.className = "visually-hidden";
    (button.closest("dialog") ?? document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.classList.add("copied");
  toast("Copied");
  setTimeout(() => button.classList.remove("copied"), 1500);
}

// --- one listener for each kind of event ----------------------------------------------------------------------------

const actions = {
  "[data-theme-switch]": (button) => { themeSet(button.dataset.themeSwitch); remember("_x_adminTheme", button.dataset.themeSwitch); },
  "[data-clock-switch]": () => { const next = root.dataset.clock === "local" ? "utc" : "local"; clockSet(next); remember("hg.clock", next); },
  "[data-copy], [data-copy-text]": copy,
  "[data-dismiss]": (button) => button.closest(".toast").remove(),
  "[data-open]": (button) => document.querySelector(button.dataset.open)?.showModal(),
  "[data-close]": (button) => button.closest("dialog").close(),
  "[data-toggle]": (button) => {
    const open = document.querySelector(button.dataset.toggle).classList.toggle("open");
    button.setAttribute("aria-expanded", String(open));
  },
};

document.addEventListener("click", (event) => {
  for (const [selector, act] of Object.entries(actions)) {
    const found = event.target.closest?.(selector);
    if (found) act(found, event);
  }
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
  const sidebar = document.querySelector(".sidebar.open");
  if (sidebar && !event.target.closest(".sidebar, [data-toggle]")) sidebar.classList.remove("open");
  if (event.target instanceof HTMLDialogElement) event.target.close(); // a click on the backdrop
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const menu = document.querySelector("details.menu[open]");
  if (menu) { menu.open = false; menu.querySelector("summary").focus(); }
  document.querySelector(".sidebar.open")?.classList.remove("open");
});

// A form or button with data-confirm asks once; data-submit sends its form when changed (switches, selects).
document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.confirm ?? event.target.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
});
document.addEventListener("htmx:afterSwap", (event) => timesShow(event.target));

themeSet(root.dataset.theme);
clockSet(root.dataset.clock);
document.querySelectorAll(".toast").forEach(toastLeave);
