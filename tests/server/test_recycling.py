"""A worker that has served its share, or grew too large, is replaced: one at a time, and nobody notices."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.conf import settings

from gateway.environment import Environment
from gateway.server.recycling import Share, resident_mb
from tests.e2e.gateway import Gateway, route, running, upstream, wait_until
from tests.e2e.load import Load


@pytest.mark.parametrize(
    ("share", "requests", "mb", "why"),
    [
        (Share(), 10**9, 10**6, ""),
        (Share(requests=100), 99, 10**6, ""),
        (Share(requests=100), 100, 1, "it served 100 requests"),
        (Share(mb=200), 10**9, 200.0, ""),
        (Share(mb=200), 1, 200.6, "it holds 201 MB"),
    ],
)
def test_a_share_is_used_up(share: Share, requests: int, mb: float, why: str) -> None:
    assert share.used_up(requests, mb) == why


def test_workers_that_started_together_do_not_come_due_together() -> None:
    thousand = Environment(recycle_requests=1000)
    assert Share.of(thousand, lambda low, _: low).requests == 900
    assert Share.of(thousand, lambda _, high: high).requests == 1100
    assert Share.of(Environment()) == Share()


def test_memory_is_measured_in_megabytes() -> None:
    before = resident_mb()
    held = bytearray(64 << 20)
    assert 50 < resident_mb() - before < 80, len(held)


@pytest.mark.timeout(90)
def test_workers_are_replaced_under_load_and_no_request_fails(
    directory: Path, database_url: str, plain_upstream: int
) -> None:
    environment = {"DATABASE_URL": database_url, "REDIS_URL": settings.REDIS_URL, "GATEWAY_RECYCLE_REQUESTS": "100"}
    with running(Gateway(directory, environment, workers=2)) as recycled:
        recycled.configure({
            "format": 1, "upstreams": [upstream("plain", plain_upstream)], "routes": [route("plain", "/*", "plain")],
        })  # fmt: skip
        first = set(recycled.pids("gateway.server.worker"))
        load = Load(recycled.port, "/x", rate=60).start()
        try:
            wait_until(
                lambda: first.isdisjoint(recycled.pids("gateway.server.worker")), 30, "both first workers are gone"
            )
        finally:
            load.stop()
        assert load.errors == []
        assert set(load.statuses()) == {200}
    assert "asks to be replaced" in (directory / "serve.log").read_text()
