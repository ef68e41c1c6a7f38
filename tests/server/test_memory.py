"""What a worker holds: the bound, and what comes late."""

from __future__ import annotations

import http.client
import sys
from pathlib import Path
from types import ModuleType

import pytest
from django.conf import settings

from gateway.server.memory import LateFactory, instead
from tests.e2e.gateway import Gateway, running

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MAX_RSS_MB = 100
MAX_SUPERVISOR_RSS_MB = 75


@linux
def test_a_proxy_worker_holds_at_most_100_mb(directory: Path, database_url: str, plain_upstream: int) -> None:
    environment = {"DATABASE_URL": database_url, "REDIS_URL": settings.REDIS_URL}
    with running(Gateway(directory, environment, workers=1, role="proxy")) as gateway:
        limit = {"name": "rate-limiting", "config": {"limits": [{"limit": 10_000, "window": "1s"}]}}
        gateway.configure({
            "format": 1,
            "upstreams": [{"name": "behind", "targets": [{"host": "127.0.0.1", "port": plain_upstream}]}],
            "routes": [{"name": "all", "paths": ["/*"], "upstreams": [{"name": "behind"}]}],
            "plugins": [{"name": "key-auth"}, limit],
        })  # fmt: skip
        ask(gateway.port, {"apikey": gateway.key("somebody")}, times=500)
        (worker,) = gateway.pids("gateway.server.worker")
        assert rss_mb(worker) <= MAX_RSS_MB
        assert gateway.process is not None
        assert rss_mb(gateway.process.pid) <= MAX_SUPERVISOR_RSS_MB  # it does without Django's applications


def ask(port: int, headers: dict[str, str], times: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for _ in range(times):
        connection.request("GET", "/", headers=headers)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"ok")
    connection.close()


def rss_mb(pid: int) -> float:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) * 1024 / 1e6


def test_a_module_is_replaced_only_while_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "this", raising=False)
    with instead({"this": None}), pytest.raises(ImportError):
        import this  # noqa: F401
    assert "this" not in sys.modules


def test_a_module_that_is_loaded_already_is_left_alone() -> None:
    with instead({"json": None}):
        assert isinstance(sys.modules["json"], ModuleType)
    assert "json" in sys.modules


def test_the_late_factory_is_made_once_with_the_options_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Factory:
        def __init__(self, *arguments: str, **named: str) -> None:
            made.append((arguments, named))
            self.options: dict[str, int] = {}

        def setProtocolOptions(self, **options: int) -> None:
            self.options |= options

        def buildProtocol(self, address: object) -> dict[str, int]:
            return self.options

    module = ModuleType("daphne.ws_protocol")
    module.WebSocketFactory = Factory  # type: ignore[attr-defined]
    ours = ModuleType("gateway.server.wsprotocol")
    ours.GatewayWebSocket = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "daphne.ws_protocol", module)
    monkeypatch.setitem(sys.modules, "gateway.server.wsprotocol", ours)
    late = LateFactory("a server", server="daphne")
    late.setProtocolOptions(autoPingTimeout=3)
    assert made == []
    told: dict[str, int] = {"autoPingTimeout": 3, "failByDrop": False, "echoCloseCodeReason": True}
    assert late.buildProtocol(None) == late.buildProtocol(None) == told
    assert made == [(("a server",), {"server": "daphne"})]
