const reader = document.getElementById("reader");
const font = "system-ui, sans-serif";
// No fonts and no search worker from elsewhere.
window.Redoc.init(
  reader.dataset.schema,
  { theme: { typography: { fontFamily: font, headings: { fontFamily: font } } }, hideDownloadButton: false },
  reader,
);
