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

import httpx
import psycopg
import pytest
import redis

from gateway import embedded
from keys.secrets import SHOWN_CHARS
from tests.e2e.gateway import Gateway, route, running, upstream, wait_until
from tests.e2e.load import Load
from tests.running import Stopwatch

pytestmark = pytest.mark.timeout(180)

SHOWN = len("hg_live_") + SHOWN_CHARS
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


def valkey_pid(servers: embedded.Servers) -> int:
    with redis.Redis.from_url(servers.places.redis_url) as client:
        return int(client.info("server")["process_id"])


def postgres_pid(servers: embedded.Servers) -> int:
    return int((servers.places.postgres / "postmaster.pid").read_text().split()[0])


def answers(servers: embedded.Servers) -> bool:
    try:
        psycopg.connect(servers.places.database_url).close()
    except psycopg.OperationalError:  # still replaying its log
        return False
    return True


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
    kill(valkey_pid(servers), servers.restart_dead)
    kill(postgres_pid(servers), servers.restart_dead)
    wait_until(lambda: answers(servers), 20, "PostgreSQL has recovered")
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


def refused_after_s(gateway: Gateway, key: str) -> float:
    """Seconds until no worker takes the key any more; each is asked often, for connections choose their worker."""
    watch = Stopwatch()

    def refused() -> bool:
        codes = {httpx.get(f"{gateway.url}/x", headers={"apikey": key}).status_code for _ in range(12)}
        return codes == {401}

    wait_until(refused, 5, "the key is refused")
    return watch.s


def test_revocation_reaches_every_worker_within_two_seconds_without_redis_too(
    gateway: Gateway, servers: embedded.Servers
) -> None:
    first, second = gateway.key("first"), gateway.key("second")
    for key in (first, second):
        assert {httpx.get(f"{gateway.url}/x", headers={"apikey": key}).status_code for _ in range(12)} == {200}
    gateway.manage("key", "revoke", first[:SHOWN])
    assert refused_after_s(gateway, first) < 2

    valkey = valkey_pid(servers)
    os.kill(valkey, signal.SIGSTOP)  # hangs rather than refuses: the harder case
    try:
        wait_until(lambda: gateway.get_json("/ready")["degraded"] == ["redis"], what="degraded")
        assert httpx.get(f"{gateway.url}/x", headers={"apikey": second}).status_code == 200
        gateway.manage("key", "revoke", second[:SHOWN])
        assert refused_after_s(gateway, second) < 2
    finally:
        os.kill(valkey, signal.SIGCONT)
    wait_until(lambda: gateway.get_json("/ready")["degraded"] == [], what="whole again")


def test_a_gateway_starts_and_serves_without_postgres(gateway: Gateway, servers: embedded.Servers) -> None:
    key = gateway.key("third")
    gateway.stop()
    os.kill(postgres_pid(servers), signal.SIGKILL)
    wait_until(servers.poll, what="PostgreSQL is gone")
    gateway.start()
    assert gateway.get_json("/ready")["status"] == "degraded"
    answer = httpx.get(f"{gateway.url}/x", headers={"apikey": key})
    assert (answer.status_code, answer.json()["code"]) == (503, "credentials_unavailable")
    wait_until(servers.restart_dead, what="PostgreSQL is back")
    wait_until(
        lambda: httpx.get(f"{gateway.url}/x", headers={"apikey": key}).status_code == 200, 10, "the key counts again"
    )
