"""Redis killed, or hanging, behind two workers with a cache: no outage. What each has in its memory goes on being sent,
all else comes from the upstream, and within two seconds of Redis' return the workers share again."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import redis

from gateway import embedded
from tests.e2e.gateway import Gateway, route, running, upstream, wait_until
from tests.hazards.origin import Origin, origin
from tests.running import ALONE, get

BACK_S = 2.0 if ALONE else 6.0
MANY = 20  # connections: the kernel spreads them over both workers
_numbers = count()


@pytest.fixture(scope="module")
def valkey() -> Iterator[embedded.Servers]:
    """Of this module's own: killing the suite's would be rude."""
    directory = Path(tempfile.mkdtemp(prefix="hg-cache-"))
    directory.chmod(0o755)
    servers = embedded.Servers(directory, postgres=False)
    servers.start()
    yield servers
    servers.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def recording() -> Iterator[Origin]:
    with origin() as served:
        served.says = b"cache-control: max-age=1000\r\n"
        yield served


@pytest.fixture(scope="module")
def gateway(directory: Path, database_url: str, valkey: embedded.Servers, recording: Origin) -> Iterator[Gateway]:
    environment = {"DATABASE_URL": database_url, "REDIS_URL": valkey.places.redis_url}
    with running(Gateway(directory, environment, workers=2)) as gateway:
        gateway.configure({
            "format": 1,
            "upstreams": [upstream("origin", recording.port)],
            "routes": [route("kept", "/*", "origin")],
            "plugins": [{"name": "response-cache", "route": "kept"}],
        })  # fmt: skip
        yield gateway


def asked(gateway: Gateway, path: str, times: int = MANY) -> list[bool]:
    """Whether each was a hit. All are answered."""
    found = []
    for _ in range(times):
        status, fields, _ = get(gateway.port, path)
        assert status == 200
        found.append("; hit" in fields["cache-status"])
    return found


def kept_by_both(gateway: Gateway, path: str) -> None:
    wait_until(lambda: all(asked(gateway, path)), what=f"{path} is kept by both")


def shared(gateway: Gateway, recording: Origin) -> bool:
    """Whether what one worker has fetched the other one has."""
    recording.take()
    path = f"/new/{next(_numbers)}"
    asked(gateway, path)
    return len(recording.take()) == 1


def is_away(gateway: Gateway) -> bool:
    """For both workers."""
    return all(gateway.get_json("/ready")["degraded"] == ["redis"] for _ in range(MANY))


def answers(valkey: embedded.Servers) -> bool:
    try:
        with redis.Redis.from_url(valkey.places.redis_url) as client:
            return bool(client.ping())
    except redis.RedisError:  # not listening yet, or still loading
        return False


def kill(valkey: embedded.Servers, pid: int) -> Callable[[], object]:
    os.kill(pid, signal.SIGKILL)

    def restart() -> None:
        wait_until(valkey.restart_dead, 20, "Redis is started again")
        wait_until(lambda: answers(valkey), 20, "Redis is back")

    return restart


def hang(valkey: embedded.Servers, pid: int) -> Callable[[], object]:
    os.kill(pid, signal.SIGSTOP)  # takes connections and says nothing: the harder case
    return lambda: os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("end", [kill, hang])
def test_redis_away_is_no_outage(
    gateway: Gateway, recording: Origin, valkey: embedded.Servers, end: Callable[..., Callable[[], object]]
) -> None:
    kept, missed = f"/kept/{end.__name__}", f"/missed/{end.__name__}"
    kept_by_both(gateway, kept)
    recording.take()
    with redis.Redis.from_url(valkey.places.redis_url) as client:
        pid = int(client.info("server")["process_id"])
    bring_back = end(valkey, pid)
    try:
        assert all(asked(gateway, kept))  # from the first one on
        assert recording.take() == []
        begun_s = time.monotonic()
        asked(gateway, missed)
        assert time.monotonic() - begun_s < 2  # one of each worker waited for Redis, if any did
        assert {seen.target for seen in recording.take()} == {missed}
        wait_until(lambda: is_away(gateway), what="both have noticed")
        kept_by_both(gateway, missed)  # each for itself
        assert len(recording.take()) <= 1
        assert all(asked(gateway, kept))
    finally:
        bring_back()
    wait_until(lambda: shared(gateway, recording), BACK_S, "the workers share again")
    assert all(asked(gateway, kept))
