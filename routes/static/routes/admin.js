// Gives the boxes that Select2 draws instead of a <select> the name that the <select> has.
"use strict";

(() => {
  const nameOf = (select) => select.getAttribute("aria-label") || select.labels?.[0]?.innerText.replace("*", "").trim();

  const nameBox = (box) => {
    const select = box.previousElementSibling;
    const name = select instanceof HTMLSelectElement && nameOf(select);
    if (!name) return;
    for (const part of box.querySelectorAll("[role=combobox], [role=textbox], [role=searchbox]")) {
      part.removeAttribute("aria-labelledby");
      part.setAttribute("aria-label", name);
    }
  };

  const nameAll = () => document.querySelectorAll(".select2-container").forEach(nameBox);

  document.addEventListener("DOMContentLoaded", () => {
    nameAll();
    new MutationObserver(nameAll).observe(document.body, { childList: true, subtree: true });
  });
})();
