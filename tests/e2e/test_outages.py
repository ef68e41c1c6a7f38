"""kill -9 of each part in turn, under load: every answered request has its row, once.

A killed worker may lose what it had not written yet: 0.2 s at most.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway import embedded
from tests.e2e.gateway import Gateway, children, route, running, upstream, wait_until
from tests.e2e.load import Load

pytestmark = pytest.mark.timeout(180)

UNWRITTEN_S = 0.2
SLACK_S = 0.15  # between the answer's arrival and our note of its time


@pytest.fixture(scope="module")
def servers() -> Iterator[embedded.Servers]:
    """Servers of this module's own: killing the suite's would be rude."""
    directory = Path(tempfile.mkdtemp(prefix="hg-out-"))
    directory.chmod(0o755)
    running_servers = embedded.Servers(directory)
    running_servers.start()
    yield running_servers
    running_servers.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def gateway(servers: embedded.Servers, directory: Path, plain_upstream: int) -> Iterator[Gateway]:
    environment = {"DATABASE_URL": servers.places.database_url, "REDIS_URL": servers.places.redis_url}
    with running(Gateway(directory, environment, workers=2)) as gateway:
        gateway.configure({
            "format": 1,
            "upstreams": [upstream("plain", plain_upstream)],
            "routes": [route("plain", "/*", "plain")],
            "plugins": [
                {"name": "request-id", "config": {}},
                {"name": "key-auth", "route": "plain", "config": {}},
                {"name": "rate-limiting", "route": "plain", "config": {"hour": 1_000_000}},
            ],
        })  # fmt: skip
        yield gateway


def test_nothing_is_lost_and_nothing_doubled(gateway: Gateway, servers: embedded.Servers) -> None:
    key = gateway.key("load")
    load = Load(gateway.port, "/x", {"apikey": key}).start()
    kills: list[float] = []

    def kill(pid: int, back: Callable[[], object]) -> None:
        time.sleep(0.5)  # load before the kill: its length is part of the test, not a wait for something
        kills.append(time.time())
        os.kill(pid, signal.SIGKILL)
        wait_until(back, 20, "the part is back")

    def served() -> int:
        return len(load.answers)

    wait_until(lambda: served() > 20, what="load")
    worker = gateway.pids("gateway.server.worker")[0]
    kill(worker, lambda: len(set(gateway.pids("gateway.server.worker")) - {worker}) == 2)
    worker_kill_s = kills[0]
    recorder = gateway.pids("recorder")[0]
    kill(recorder, lambda: set(gateway.pids("recorder")) - {recorder})
    for name in ("valkey", "postgres"):
        kill(children(os.getpid(), name)[0], servers.restart_dead)
    after = served()
    wait_until(lambda: served() > after + 50, what="load after everything came back")
    load.stop()

    assert set(load.statuses()) == {200}, load.statuses()
    assert all(at < worker_kill_s + 1 for at, _ in load.errors), load.errors
    owed = {number for at, _, number in load.answers if not -UNWRITTEN_S - SLACK_S < at - worker_kill_s < SLACK_S}

    def missing() -> set[str]:
        rows = gateway.query("SELECT request_id FROM usage_row")
        return owed - {number for (number,) in rows}

    wait_until(lambda: not missing(), 20, f"rows of {len(owed)} answered requests")
    total, distinct = gateway.query("SELECT count(*), count(DISTINCT request_id) FROM usage_row")[0]
    assert total == distinct
