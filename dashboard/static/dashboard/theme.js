// Runs before the first paint, so that no page flashes in the other theme. Django admin keeps its choice under the
// same name, in Alpine's way: one switch for both.
(() => {
  const stored = (name, otherwise) => {
    try { return JSON.parse(localStorage.getItem(name)) ?? otherwise; } catch { return otherwise; }
  };
  document.documentElement.dataset.theme = stored("_x_adminTheme", "auto");
  document.documentElement.dataset.clock = stored("hg.clock", "utc");
})();
