"""Ourselves: `manage.py serve --role proxy`, configured as an operator would, on embedded servers.

PostgreSQL and Valkey run beside the load, as the peers' Redis does; their CPU time is nobody's.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from benchmarks.cases import Case, document
from benchmarks.measure import Command
from benchmarks.place import Place
from gateway import embedded
from gateway.environment import ROOT

NAME = "hydragate"


@dataclass(slots=True)
class Ours:
    """One database and one data directory for each case, made at its first use."""

    servers: embedded.Servers
    headers: dict[str, Mapping[str, str]] = field(default_factory=dict)

    def command(self, case: Case, place: Place) -> Command:
        """Call `prepare` before."""
        words = ["manage.py", "serve", "--role", "proxy", "--workers", str(case.workers)]
        return Command([sys.executable, str(ROOT / words[0]), *words[1:]], self.environment(case, place.port))

    def environment(self, case: Case, port: int) -> dict[str, str]:
        return {
            "DATABASE_URL": self.servers.places.database_url.replace(f"/{NAME}?", f"/{database(case)}?"),
            "REDIS_URL": self.servers.places.redis_url,
            "SECRET_KEY": "only for measurements",
            "GATEWAY_DATA_DIR": str(self.servers.data_dir / database(case)),
            "GATEWAY_BIND": "127.0.0.1",
            "PORT": str(port),
            "GATEWAY_STATUS_PORT": "0",
            "GATEWAY_NODE": "benchmark",
            "GATEWAY_MAX_CONNECTIONS": "12000",
            "GATEWAY_MAX_CONNECTIONS_PER_ADDRESS": "0",  # all the load comes from one
            "GATEWAY_LOG_LEVEL": "warning",
        }

    def prepare(self, case: Case, upstream_port: int) -> Mapping[str, str]:
        """The headers a client needs. Does its work once per case."""
        if case.name not in self.headers:
            self._create(database(case))
            self.manage(case, "migrate", "--verbosity", "0")
            file = self.servers.data_dir / f"{database(case)}.json"  # JSON is YAML
            file.write_text(json.dumps(document(case, upstream_port)))
            self.manage(case, "config", "import", "--wait", "0", str(file))
            words = ("key", "create", "--consumer", "benchmark", "--create-consumer", "--quiet")
            self.headers[case.name] = {"apikey": self.manage(case, *words).strip()} if case.policies else {}
        return self.headers[case.name]

    def _create(self, name: str) -> None:
        with psycopg.connect(self.servers.places.database_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")

    def manage(self, case: Case, *words: str) -> str:
        command = [sys.executable, str(ROOT / "manage.py"), *words]
        environment = {**os.environ, **self.environment(case, port=8080)}  # no command listens
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise RuntimeError(f"manage.py {words[0]}: {done.stdout}{done.stderr}")
        return done.stdout


def database(case: Case) -> str:
    return f"case_{case.name.replace('-', '_')}"


@contextlib.contextmanager
def ready(directory: Path) -> Iterator[Ours]:
    with embedded.servers(directory / "servers") as servers:
        yield Ours(servers)
