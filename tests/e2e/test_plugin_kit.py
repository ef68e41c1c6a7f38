"""A plugin of one's own in a running gateway: made by a command, changed, broken and mended under traffic."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings

from tests.e2e.gateway import ROOT, Gateway, route, running, upstream, wait_until
from tests.hazards.origin import Origin, origin


@pytest.fixture(scope="module")
def recording() -> Iterator[Origin]:
    with origin() as served:
        yield served


@pytest.fixture(scope="module")
def gateway(directory: Path, database_url: str, recording: Origin) -> Iterator[Gateway]:
    plugins = directory / "plugins"
    plugins.mkdir()
    environment = {
        "DATABASE_URL": database_url, "REDIS_URL": settings.REDIS_URL, "GATEWAY_PLUGIN_DIR": str(plugins),
        "PLUGIN_TEXT": "from-outside",
    }  # fmt: skip
    with running(Gateway(directory, environment)) as started:
        yield started


def configured(gateway: Gateway, port: int, *plugins: dict[str, Any]) -> None:
    gateway.configure({
        "format": 1, "upstreams": [upstream("up", port)], "routes": [route("all", "/*", "up")],
        "plugins": list(plugins),
    })  # fmt: skip


def test_a_plugin_is_made_used_changed_broken_and_mended_without_a_restart(gateway: Gateway, recording: Origin) -> None:
    gateway.manage("plugin", "new", "good-day")
    file = gateway.directory / "plugins" / "good_day.py"
    first = file.read_text()
    configured(gateway, recording.port, {"name": "good-day", "config": {"text": "${env:PLUGIN_TEXT}"}})
    pids = gateway.pids("gateway.server.worker")

    def says() -> str:
        answer = httpx.get(f"{gateway.url}/x")
        assert answer.status_code == 200
        return answer.headers.get("x-good-day", "")

    def error() -> str:
        return str(gateway.get_json("/status")["plugin_error"])

    assert says() == "from-outside"
    assert "from-outside" not in gateway.manage("config", "export")

    file.write_text(
        first.replace("response_headers.append(self._field)", 'response_headers.append((self._field[0], b"2"))')
    )
    wait_until(lambda: says() == "2", what="the changed file")

    file.write_text(first + "\nraise RuntimeError('not yet done')\n")
    wait_until(lambda: "not yet done" in error(), what="the reason")
    assert says() == "2"

    file.write_text(first.replace("text: str", "word: str").replace("config.text", "config.word"))
    wait_until(lambda: "There is no such field" in error(), what="the reason")
    assert says() == "2"

    file.write_text(first)
    wait_until(lambda: not error(), what="the mended file")
    assert says() == "from-outside"
    assert gateway.pids("gateway.server.worker") == pids


def test_the_guide_is_followed_to_its_end(gateway: Gateway, recording: Origin) -> None:
    guide = (ROOT / "docs" / "write-a-plugin.md").read_text()
    gateway.manage("plugin", "new", "office-hours")
    file = gateway.directory / "plugins" / "office_hours.py"
    file.write_text(re.findall(r"```python\n(.*?)```", guide, re.DOTALL)[0])
    configured(gateway, recording.port, {"name": "office-hours", "config": {"opens": 0, "closes": 24}})
    assert httpx.get(f"{gateway.url}/x").headers["x-office-closes"] == "24:00"
    shut = file.read_text().replace("<= hour <", "<= hour + 24 <")
    file.write_text(shut)
    answer = wait_until(lambda: (found := httpx.get(f"{gateway.url}/x")).status_code == 403 and found, what="a 403")
    assert answer.json()["code"] == "office_closed"
    assert answer.headers["x-office-closes"] == "24:00"


def test_the_page_about_analytics_is_followed_to_its_end(gateway: Gateway, recording: Origin) -> None:
    page = (ROOT / "docs" / "analytics-plugin.md").read_text()
    gateway.manage("plugin", "new", "call-counts")
    (gateway.directory / "plugins" / "call_counts.py").write_text(
        re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    )
    url = f"http://127.0.0.1:{recording.port}/counts"
    configured(gateway, recording.port, {"name": "call-counts", "config": {"url": url, "every_s": 1}})
    for _ in range(7):
        assert httpx.get(f"{gateway.url}/x").status_code == 200

    def counted() -> int:
        told = [json.loads(seen.body)["counts"] for seen in recording.seen if seen.target == "/counts"]
        return sum(one["requests"] for counts in told for one in counts if one["route"] == "all")

    wait_until(lambda: counted() >= 7, what="the counts")
    assert counted() == 7
