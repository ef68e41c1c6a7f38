"""The disk of the data directory fills up under traffic: clients notice nothing, operators do. It ends by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from django.conf import settings

from tests.e2e.gateway import Gateway, route, running, upstream, wait_until
from tests.e2e.load import Load

SIZE = "24m"
NUMBERED = [{"name": "request-id", "config": {}}]

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="a small file system needs root"),
]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes, as the data directory."""
    disk = tmp_path / "var"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return ballast


def dropped(gateway: Gateway) -> float:
    text = httpx.get(f"{gateway.url}/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("hydragate_usage_dropped_total{")]
    return sum(float(line.split()[-1]) for line in lines)


def test_traffic_goes_on_and_what_is_lost_is_counted(
    small_disk: Path, tmp_path: Path, database_url: str, plain_upstream: int
) -> None:
    environment = {"DATABASE_URL": database_url, "REDIS_URL": settings.REDIS_URL, "GATEWAY_REDIS_TIMEOUT_MS": "1000"}
    with running(Gateway(tmp_path, environment, workers=2)) as gateway:
        routes = [route(f"r{number}", f"/{number}/*", "plain") for number in range(400)]
        gateway.configure(
            {"format": 1, "upstreams": [upstream("plain", plain_upstream)], "routes": routes[:1], "plugins": NUMBERED}
        )
        workers = set(gateway.pids("gateway.server.worker"))
        load = Load(gateway.port, "/0/x").start()
        try:
            wait_until(lambda: len(load.answers) > 40, what="load")
            ballast = fill(small_disk)
            wait_until(lambda: dropped(gateway) > 0, what="lost rows are counted")
            wait_until(lambda: gateway.get_json("/status")["usage_dropping"], what="a worker says why")
            # What is new needs room: the document to keep, and counters of routes that nobody counted before.
            gateway.configure(
                {"format": 1, "upstreams": [upstream("plain", plain_upstream)], "routes": routes, "plugins": NUMBERED}
            )
            with httpx.Client() as client:
                for number in range(400):
                    assert client.get(f"{gateway.url}/{number}/x").status_code == 200
            during = len(load.answers)
            wait_until(lambda: len(load.answers) > during + 40, what="load on a full disk")
            ballast.unlink()

            def kept_again() -> bool:
                """A worker says so at the next row it writes; new connections reach both."""
                for _ in range(8):
                    httpx.get(f"{gateway.url}/0/x")
                return not any(gateway.get_json("/status")["usage_dropping"] for _ in range(8))

            wait_until(kept_again, what="rows are kept")
            kept = len(load.answers)
            wait_until(lambda: len(load.answers) > kept + 40, what="load afterwards")
        finally:
            load.stop()
        assert load.errors == []
        assert set(load.statuses()) == {200}
        assert set(gateway.pids("gateway.server.worker")) == workers, (tmp_path / "serve.log").read_text()[-3000:]
        owed = {number for _, _, number in load.answers[kept:]}
        assert owed
        wait_until(
            lambda: owed <= {number for (number,) in gateway.query("SELECT request_id FROM usage_row")},
            15,
            "their rows",
        )
