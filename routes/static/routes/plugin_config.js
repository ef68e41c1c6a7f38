// Draws a plugin's config anew: another plugin, the other tab, a row more or less. The server does all the thinking
// (routes/widgets.py); this posts what stands in the form and puts the answer in its place.

const BLOCK = ".hg-config";
const LAST = "~plugin";
const latest = new Map(); // config field → the draw whose answer counts

function nameOf(block) {
  return block.querySelector(`input[name$="${LAST}"]`).name.slice(0, -LAST.length);
}

async function draw(block, action, path = "") {
  const name = nameOf(block);
  const form = block.closest("form");
  const body = new FormData();
  for (const [key, value] of new FormData(form)) {
    if (key === name || key.startsWith(`${name}.`) || key.startsWith(`${name}~`)) body.append(key, value);
  }
  body.append("field", name);
  body.append("plugin", form.elements[name.replace(/config$/, "name")].value);
  body.append("action", action);
  body.append("path", path);
  const turn = (latest.get(name) ?? 0) + 1;
  latest.set(name, turn);
  block.setAttribute("aria-busy", "true");
  try {
    const headers = { "X-CSRFToken": form.elements.csrfmiddlewaretoken.value };
    const answer = await fetch(block.dataset.url, { method: "POST", body, headers });
    if (!answer.ok) throw new Error(`The server answered ${answer.status}.`);
    const drawn = document.createElement("template");
    drawn.innerHTML = await answer.text();
    if (latest.get(name) !== turn) return;
    const fresh = drawn.content.querySelector(BLOCK);
    block.replaceWith(fresh);
    focusAfter(fresh, action, path);
  } catch (error) {
    block.removeAttribute("aria-busy");
    const hint = document.createElement("p");
    hint.className = "hg-errors";
    hint.setAttribute("role", "alert");
    hint.textContent = `This could not be drawn anew. ${error.message}`;
    block.append(hint);
  }
}

function focusAfter(block, action, path) {
  const add = block.querySelector(`[data-draw="add"][data-path="${path}"]`);
  if (action === "add") add?.previousElementSibling?.querySelector("input:not([type=hidden]), select, textarea")?.focus();
  else if (action === "remove") block.querySelector(`[data-draw="add"][data-path="${path.replace(/\.\d+$/, "")}"]`)?.focus();
  else if (action !== "plugin") block.querySelector('[aria-selected="true"]')?.focus();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest(`${BLOCK} button[data-draw]`);
  if (button && button.getAttribute("aria-selected") !== "true") {
    draw(button.closest(BLOCK), button.dataset.draw, button.dataset.path);
  }
});

document.addEventListener("keydown", (event) => {
  const tab = event.target.closest(`${BLOCK} [role="tab"]`);
  if (!tab || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
  tab.parentElement.querySelector('[aria-selected="false"]')?.click();
});

document.addEventListener("change", (event) => {
  if (!event.target.matches('select[name$="name"]')) return;
  const name = event.target.name.replace(/name$/, "config");
  const marker = event.target.form.elements[name + LAST];
  if (marker) draw(marker.closest(BLOCK), "plugin");
});
