// What htmx answers have to say (`dashboard.edits.toasts`), and what to do when there is no answer.

import { toast } from "./app.js";

document.addEventListener("hg:toasts", (event) => {
  for (const { text, kind } of event.detail.value) toast(text, kind);
});

for (const name of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) {
  document.addEventListener(name, (event) => {
    event.detail.elt.closest("form")?.reset(); // a switch goes back to where it was
    const status = event.detail.xhr?.status;
    toast(status ? `Nothing was changed: the gateway answered ${status}.` : "Nothing was changed: the gateway cannot be reached.", "error");
  });
}
