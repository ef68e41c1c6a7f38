"""A real gateway for tests: its own database, `manage.py serve` with real workers, real sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from django.conf import settings
from psycopg.conninfo import make_conninfo

from tests import warm

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], T], timeout_s: float = 10.0, what: str = "the condition") -> T:
    """The first true value of `condition`; fails loudly when the time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {timeout_s:g} s; last value {value!r}")
        time.sleep(0.02)


@dataclass
class Gateway:
    """`manage.py serve` on a free port. `environment` names the servers behind it and the data directory."""

    directory: Path
    environment: dict[str, str]
    workers: int = 1
    role: str = "all"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "PORT": str(self.port),
            "GATEWAY_DATA_DIR": str(self.directory / "var"),
            "GATEWAY_STATUS_PORT": "0",
            "GATEWAY_DRAIN_TIMEOUT_S": "5",
            "SECRET_KEY": "only-for-tests",
            **self.environment,
        }

    def manage(self, *words: str, stdin: str | None = None) -> str:
        """A management command's standard output; its errors fail the test with what it said."""
        done = warm.run(*words, environment=self.env(), stdin=stdin)
        assert done.returncode == 0, f"manage.py {' '.join(words)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self) -> None:
        command = [sys.executable, "manage.py", "serve", "--role", self.role, "--workers", str(self.workers)]
        with (self.directory / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=self.env(), stdout=log, stderr=log)
        wait_until(self.is_ready, 30, f"ready ({self.directory}/serve.log)")

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.directory / "serve.log").read_text()
        try:
            return self.get_json("/ready")["status"] in ("ready", "degraded")
        except OSError:
            return False

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)

    def get_json(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(self.url + path, timeout=5) as answer:
            return dict(json.load(answer))

    def configure(self, document: Mapping[str, Any]) -> None:
        """Publish a whole configuration and wait until it is served by every worker."""
        path = self.directory / "document.json"  # JSON is YAML
        path.write_text(json.dumps(document))
        self.manage("config", "import", str(path))

    def key(self, consumer: str, *words: str) -> str:
        return self.manage("key", "create", "--consumer", consumer, "--create-consumer", "--quiet", *words).strip()

    def query(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.environment["DATABASE_URL"]) as connection:
            return connection.execute(sql, arguments).fetchall()  # type: ignore[arg-type]

    def pids(self, word: str) -> list[int]:
        """Processes below `serve` whose command line holds `word`."""
        assert self.process is not None
        return children(self.process.pid, word)


def children(parent: int, word: str) -> list[int]:
    """Living processes below `parent` whose command line holds `word`."""
    command = ["ps", "-ww", "-eo", "pid,ppid,stat,args"]  # not cut at 80 columns: checkouts lie in long paths, too
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = (line.split(None, 3) for line in listing.splitlines()[1:])
    return [
        int(pid) for pid, above, state, command in rows if int(above) == parent and state[0] != "Z" and word in command
    ]


@contextmanager
def database(template: str = "template1") -> Iterator[str]:
    """A fresh database on the suite's PostgreSQL, as a connection string. Empty, if it is not made like another."""
    base = settings.DATABASES["default"]
    parts = {
        "host": base["HOST"], "port": base.get("PORT", ""), "user": base["USER"], "password": base.get("PASSWORD", ""),
    }  # fmt: skip
    parts = {key: value for key, value in parts.items() if value}
    name = f"hg_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(make_conninfo(dbname="postgres", **parts), autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")  # type: ignore[arg-type]
        yield make_conninfo(dbname=name, **parts)
        try:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]
        except psycopg.errors.InsufficientPrivilege:  # an autovacuum worker is in it; a plain DROP may send that away
            server.execute(f"DROP DATABASE {name}")  # type: ignore[arg-type]


@contextmanager
def running(gateway: Gateway) -> Iterator[Gateway]:
    """Migrated if the database is empty, started, and stopped afterwards whatever happens."""
    if gateway.query("SELECT to_regclass('django_migrations')") == [(None,)]:
        gateway.manage("migrate", "--verbosity", "0")
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.stop()


def upstream(name: str, port: int, **fields: Any) -> dict[str, Any]:
    return {"name": name, "targets": [{"host": "127.0.0.1", "port": port}], **fields}


def route(name: str, path: str, to: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "paths": [path], "upstreams": [{"name": to}], **fields}
