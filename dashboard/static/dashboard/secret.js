// The page with a secret: from here on its address is another one's, so that reloading or coming back cannot show it
// again and cannot send its form a second time.

const page = document.querySelector("[data-secret-next]");
history.replaceState(null, "", page.dataset.secretNext);

// Left by the back-forward cache, the page would still hold the secret.
addEventListener("pagehide", () => page.remove());
