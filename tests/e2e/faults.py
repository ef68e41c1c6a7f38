"""What can happen to Redis and to PostgreSQL, each as a context manager: the fault on entry, its end on exit."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psycopg
import redis

from gateway import embedded
from tests.e2e.gateway import wait_until
from tests.e2e.slowness import Relay
from tests.running import descendants

SLOW_S = 0.3


class Backs:
    """Embedded servers of a module's own, each behind a relay."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hg-flt-"))
        self.directory.chmod(0o755)
        self.servers = embedded.Servers(self.directory)
        self.servers.start()
        places = self.servers.places
        self.redis_url, self.database_url = places.redis_url, places.database_url
        self.valkey = Relay(places.valkey_socket, self.directory / "r" / "valkey").start()
        port = places.database.get("PORT") or "5432"
        name = f".s.PGSQL.{port}"
        self.postgres = Relay(Path(places.database["HOST"]) / name, self.directory / "r" / name).start()

    def environment(self) -> dict[str, str]:
        database = psycopg.conninfo.make_conninfo(self.database_url, host=str(self.postgres.path.parent))
        return {"DATABASE_URL": database, "REDIS_URL": f"unix://{self.valkey.path}"}

    def stop(self) -> None:
        self.valkey.stop()
        self.postgres.stop()
        self.servers.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def valkey_pid(self) -> int:
        with redis.Redis.from_url(self.redis_url) as client:
            return int(client.info("server")["process_id"])

    @property
    def postgres_pid(self) -> int:
        return int((self.servers.places.postgres / "postmaster.pid").read_text().split()[0])

    def redis_answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.redis_url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def postgres_answers(self) -> bool:
        try:
            psycopg.connect(self.database_url).close()
        except psycopg.OperationalError:  # away, or still replaying its log
            return False
        return True


@contextmanager
def redis_killed(backs: Backs) -> Iterator[None]:
    with _killed(backs, backs.valkey_pid, backs.redis_answers):
        yield


@contextmanager
def redis_restarted_empty(backs: Backs) -> Iterator[None]:
    """Every counter and every script is gone. No outage that one must notice."""
    with redis.Redis.from_url(backs.redis_url) as client:
        client.flushall()
    with _killed(backs, backs.valkey_pid, backs.redis_answers):
        pass
    yield


@contextmanager
def redis_stopped(backs: Backs) -> Iterator[None]:
    with _stopped([backs.valkey_pid]):
        yield


@contextmanager
def redis_slow(backs: Backs) -> Iterator[None]:
    backs.valkey.delay_s = SLOW_S
    yield
    backs.valkey.delay_s = 0.0


@contextmanager
def redis_full(backs: Backs) -> Iterator[None]:
    with redis.Redis.from_url(backs.redis_url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        yield
        client.config_set("maxmemory", "0")


@contextmanager
def redis_read_only(backs: Backs) -> Iterator[None]:
    """A failover that left us at the replica."""
    with redis.Redis.from_url(backs.redis_url) as client:
        client.replicaof("127.0.0.1", "1")
        yield
        client.replicaof("NO", "ONE")


@contextmanager
def postgres_killed(backs: Backs) -> Iterator[None]:
    with _killed(backs, backs.postgres_pid, backs.postgres_answers):
        yield


@contextmanager
def postgres_stopped(backs: Backs) -> Iterator[None]:
    with _stopped([backs.postgres_pid, *descendants(backs.postgres_pid)]):
        yield


@contextmanager
def postgres_slow(backs: Backs) -> Iterator[None]:
    backs.postgres.delay_s = SLOW_S
    yield
    backs.postgres.delay_s = 0.0


@contextmanager
def postgres_out_of_connections(backs: Backs) -> Iterator[None]:
    """Somebody else takes every connection as it comes free, and ours are cut."""
    held: list[psycopg.Connection] = []
    ended = threading.Event()

    def hog() -> None:
        while not ended.wait(0.01):
            with contextlib.suppress(psycopg.OperationalError):
                while not ended.is_set():
                    held.append(psycopg.connect(backs.database_url, autocommit=True, application_name="hog"))

    thread = threading.Thread(target=hog)
    with psycopg.connect(backs.database_url, autocommit=True) as mine:
        thread.start()
        ours = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> 'hog'"
        try:

            def nothing_of_ours_is_left() -> bool:
                mine.execute(f"SELECT pg_terminate_backend(pid) {ours} AND pid <> pg_backend_pid()")
                row = mine.execute(f"SELECT count(*) {ours}").fetchone()
                return row == (1,) and len(held) > 80

            wait_until(nothing_of_ours_is_left, 15, "only others hold connections")
            yield
        finally:
            ended.set()
            thread.join()
            for connection in held:
                connection.close()


@contextmanager
def _killed(backs: Backs, pid: int, answers: Callable[[], bool]) -> Iterator[None]:
    os.kill(pid, signal.SIGKILL)
    wait_until(backs.servers.poll, what="it is dead")
    yield

    def back() -> bool:
        backs.servers.restart_dead()  # not at once if it died a moment ago
        return answers()

    wait_until(back, 30, "it answers again")


@contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


Fault = Callable[[Backs], AbstractContextManager[None]]
