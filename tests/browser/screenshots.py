"""`make screenshots`: every page, light, dark and on a phone, of a gateway that has something to show.

    python -m tests.browser.screenshots            into var/screenshots
    python -m tests.browser.screenshots --guide    those of docs/operators.md, into docs/screenshots

Servers and gateway are its own and gone afterwards. Look at the pictures: that is what they are for.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import httpx
from playwright.sync_api import Browser, ViewportSize, expect

from gateway.embedded import Servers, places
from gateway.environment import ROOT
from tests.browser.conftest import CHROMIUM, chromium
from tests.browser.showcase import Showcase, ask, backend, filled
from tests.browser.watching import Tab
from tests.e2e.gateway import Gateway, running

DESKTOP: ViewportSize = {"width": 1280, "height": 860}
PHONE: ViewportSize = {"width": 390, "height": 844}
GUIDE = ("overview", "request", "route", "key", "config-diff", "admin-plugin")
LIVE_S = 8.0
LOOKS: dict[str, tuple[ViewportSize, Literal["light", "dark"]]] = {
    "light": (DESKTOP, "light"),
    "dark": (DESKTOP, "dark"),
    "390": (PHONE, "light"),
}


@contextmanager
def gateway_on_its_own() -> Iterator[Gateway]:
    """In a short path that other accounts can reach: servers that root starts run as another."""
    directory = Path(tempfile.mkdtemp(prefix="hg-shots-"))
    directory.chmod(0o755)
    servers = Servers(directory / "servers")
    servers.start()
    try:
        here = places.at(servers.data_dir)
        environment = {"DATABASE_URL": here.database_url, "REDIS_URL": here.redis_url, "GATEWAY_NODE": "gateway-1"}
        with running(Gateway(directory, environment, workers=2)) as gateway:
            gateway.manage("prepare")
            yield gateway
    finally:
        servers.stop()
        shutil.rmtree(directory, ignore_errors=True)


def pages(gateway: Gateway, showcase: Showcase) -> dict[str, str]:
    """Name → path. Beside the dashboard's, the forms of Django admin that are ours."""
    [(setting,)] = gateway.query("SELECT id FROM routes_pluginsetting WHERE name = 'rate-limiting'")
    return {
        **showcase.pages(),
        "admin-route": "/admin/routes/route/1/change/",
        "admin-plugin": f"/admin/routes/pluginsetting/{setting}/change/",
    }


def take(browser: Browser, gateway: Gateway, showcase: Showcase, into: Path, *, guide: bool) -> None:
    """All of them, or those of the guide, which show a window's height."""
    password = (gateway.directory / "var" / "secrets" / "admin-password").read_text().strip()
    looks = {name: LOOKS[name] for name in LOOKS if not guide or name == "light"}
    for look, (viewport, scheme) in looks.items():
        context = browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
        tab = Tab.opened(context, gateway.url)
        page = tab.open("/dashboard/")
        if not guide:
            page.screenshot(path=into / f"login-{look}.png")
        tab.log_in("admin", password)
        for name, path in pages(gateway, showcase).items():
            if guide and name not in GUIDE:
                continue
            tab.open(path)
            if name == "overview":
                live(tab, gateway, showcase)
            page.screenshot(path=into / (f"{name}.png" if guide else f"{name}-{look}.png"), full_page=not guide)
        context.close()
        for fault in tab.faults:
            sys.stderr.write(f"{look}: {fault}\n")


def live(tab: Tab, gateway: Gateway, showcase: Showcase) -> None:
    """Traffic for some seconds, until the strip at the top tells of it."""
    strip = tab.page.locator("#live[data-state=on]")
    strip.wait_for()
    with httpx.Client(base_url=gateway.url) as client:
        end_s, dice = time.monotonic() + LIVE_S, random.Random(3)
        while time.monotonic() < end_s:
            ask(client, dice.randrange(100), showcase.keys["mobile-app"])
            tab.page.wait_for_timeout(dice.randrange(30, 200))
    expect(strip.locator("[data-live=rps]")).not_to_have_text("0")


def main(into: Path, *, guide: bool) -> None:
    if CHROMIUM is None:
        raise SystemExit("No chromium on this machine: apt-get install chromium, or name one in CHROMIUM.")
    into.mkdir(parents=True, exist_ok=True)
    with gateway_on_its_own() as gateway, backend() as port, chromium() as browser:
        take(browser, gateway, filled(gateway, port), into, guide=guide)
    sys.stdout.write(f"{len(list(into.glob('*.png')))} pictures in {into}\n")


if __name__ == "__main__":
    os.environ.setdefault("SECRET_KEY", "only-for-pictures")
    for_guide = sys.argv[1:] == ["--guide"]
    main(ROOT / ("docs/screenshots" if for_guide else "var/screenshots"), guide=for_guide)
