"""Chromium in front of a real gateway. A browser lives as long as a module: its loop would stop asynchronous tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.watching import Tab
from tests.e2e.gateway import Gateway

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: apt-get install chromium, or name one in CHROMIUM")
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def password(gateway: Gateway) -> str:
    """Of the user `admin`, made as an operator makes it."""
    gateway.manage("prepare")
    return Path(gateway.env()["GATEWAY_DATA_DIR"], "secrets", "admin-password").read_text().strip()


@pytest.fixture
def tab(browser: Browser, gateway: Gateway) -> Iterator[Tab]:
    """Of a browser that was never here."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield Tab.opened(context, gateway.url)
    context.close()
