"""A tab that is watched: whatever a person with open developer tools would frown at is kept in `faults`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, Response, WebSocket

WAIT_MS = 10_000
#: Sums what moved without anybody having touched the page (web.dev/cls); read by `Tab.layout_shift`.
SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""


@dataclass
class Tab:
    """`home`: the only origin that may be asked for anything."""

    page: Page
    home: str
    faults: list[str] = field(default_factory=list)

    @classmethod
    def opened(cls, context: BrowserContext, home: str) -> Tab:
        context.add_init_script(SHIFTS)
        context.set_default_timeout(WAIT_MS)
        tab = cls(context.new_page(), home)
        tab.page.on("console", tab._console)
        tab.page.on("pageerror", lambda error: tab.faults.append(f"exception: {error}"))
        tab.page.on("request", tab._request)
        tab.page.on("response", tab._response)
        tab.page.on("websocket", tab._websocket)
        return tab

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"console {message.type} on {self.page.url}: {message.text}")

    def _request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.home}/", "data:", "blob:")):
            self.faults.append(f"asked another host: {request.url}")

    def _websocket(self, socket: WebSocket) -> None:
        if urlsplit(socket.url).netloc != urlsplit(self.home).netloc:
            self.faults.append(f"asked another host: {socket.url}")

    def _response(self, response: Response) -> None:
        if response.status >= 400:
            self.faults.append(f"{response.status} for {response.request.method} {response.url}")
        if response.request.resource_type == "document" and not 300 <= response.status < 400:
            policy = response.headers.get("content-security-policy", "")
            if "default-src 'self'" not in policy:
                self.faults.append(f"no Content-Security-Policy on {response.url}")
            if "/admin/" not in response.url and "unsafe" in policy:
                self.faults.append(f"a page of ours is allowed more than it needs: {response.url}: {policy}")

    @contextmanager
    def step(self, name: str) -> Iterator[Page]:
        """A part of a story: at its end nothing must have gone wrong."""
        self.faults.clear()
        yield self.page
        assert not self.faults, f"{name}: {self.faults}"

    def open(self, path: str) -> Page:
        self.page.goto(self.home + path)
        return self.page

    @property
    def layout_shift(self) -> float:
        return float(self.page.evaluate("window.shifted"))

    @property
    def overflow_px(self) -> int:
        """How much wider than the window the page is."""
        return int(self.page.evaluate("document.scrollingElement.scrollWidth - innerWidth"))

    def log_in(self, user: str, password: str, path: str = "/dashboard/") -> None:
        """Asks for `path` as a stranger would, and is let in."""
        page = self.open(path)
        page.get_by_label("Username").fill(user)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"**{path}")
