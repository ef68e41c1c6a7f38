"""A plugin that breaks while the gateway runs: new workers find nothing they can serve, so the old ones stay."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings

from gateway.server.child import PATIENCE_S
from tests.e2e.gateway import Gateway, route, running, upstream, wait_until
from tests.e2e.load import Load

PLUGIN = """
from gateway.plugins.base import Plugin, PluginConfig

class Badge(Plugin):
    name = "badge"

    class Config(PluginConfig):
        pass

    def response(self, exchange):
        exchange.response_headers.append((b"x-badge", b"1"))
"""
BROKEN = """
    def __init__(self, config, resources):
        raise TypeError("no badge today")
"""


@pytest.fixture(scope="module")
def plugins(directory: Path) -> Path:
    path = directory / "plugins"
    path.mkdir()
    (path / "badge.py").write_text(PLUGIN)
    return path


@pytest.fixture(scope="module")
def gateway(directory: Path, database_url: str, plugins: Path) -> Iterator[Gateway]:
    environment = {
        "DATABASE_URL": database_url, "REDIS_URL": settings.REDIS_URL, "GATEWAY_PLUGIN_DIR": str(plugins),
    }  # fmt: skip
    with running(Gateway(directory, environment, workers=2)) as started:
        yield started


def test_workers_that_can_serve_nothing_replace_nobody(gateway: Gateway, plain_upstream: int, plugins: Path) -> None:
    gateway.configure({
        "format": 1, "upstreams": [upstream("up", plain_upstream)], "routes": [route("all", "/*", "up")],
        "plugins": [{"name": "request-id", "config": {}}, {"name": "badge", "config": {}}],
    })  # fmt: skip
    first, second = before = sorted(gateway.pids("gateway.server.worker"))
    (plugins / "badge.py").write_text(PLUGIN + BROKEN)
    load = Load(gateway.port, "/x").start()

    def said() -> str:
        return (gateway.directory / "serve.log").read_text()

    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "the old one stays" in said(), what="the end of the successor")
    assert sorted(gateway.pids("gateway.server.worker")) == before

    os.kill(first, signal.SIGKILL)
    wait_until(lambda: "leaving the port to the other" in said(), what="a replacement that stands aside")
    load.stop()
    assert set(load.statuses()) == {200}

    (plugins / "badge.py").write_text(PLUGIN)
    wait_until(lambda: len(set(gateway.pids("gateway.server.worker")) - {second}) == 1, 20, "a new worker")
    wait_until(lambda: said().count("serving configuration version 1") == 3, PATIENCE_S + 20, "which serves")
