"""One hardened gateway for the tests of the front: a recording origin, a scripted upstream, short deadlines."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from tests.e2e.gateway import Gateway, database, free_port, route, running, upstream
from tests.hazards.origin import Origin, origin

#: Deadlines that are over while a test waits; what they are by default is another test's.
DEADLINES = {
    "GATEWAY_HEAD_TIMEOUT_S": "3",
    "GATEWAY_BODY_TIMEOUT_S": "3",
    "GATEWAY_WRITE_TIMEOUT_S": "4",
    "GATEWAY_LINGER_TIMEOUT_S": "3",
    "GATEWAY_REDIS_TIMEOUT_MS": "1000",  # a loaded machine must not look like an outage
}
MB = 1024 * 1024


@dataclass
class Hardened:
    """Routes: `/open/*`, `/keyed/*` (key-auth), `/small/*` (1 MB) to the origin; `/raw/*` to whoever listens there."""

    gateway: Gateway
    origin: Origin
    key: str
    raw_port: int

    @property
    def port(self) -> int:
        return self.gateway.port

    @property
    def pid(self) -> int:
        return int(self.gateway.get_json("/status")["pid"])

    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def front(self) -> dict[str, Any]:
        return dict(self.gateway.get_json("/status")["front"])

    @contextmanager
    def peak(self) -> Iterator[Callable[[], int]]:
        """How much memory the worker has taken at most, beyond what it had at the beginning."""
        process = Path(f"/proc/{self.pid}")
        (process / "clear_refs").write_text("5")  # the high-water mark begins anew
        before = self.resident_bytes()

        def growth() -> int:
            line = next(line for line in (process / "status").read_text().splitlines() if line.startswith("VmHWM"))
            return int(line.split()[1]) * 1024 - before

        yield growth

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))


@pytest.fixture(scope="session")
def hardened(migrated: str) -> Iterator[Hardened]:
    with tempfile.TemporaryDirectory(prefix="hg-front-") as path, database(migrated) as url, origin() as served:
        environment = {"DATABASE_URL": url, "REDIS_URL": settings.REDIS_URL, **DEADLINES}
        raw_port = free_port()
        with running(Gateway(Path(path), environment)) as gateway:
            key = gateway.key("anna")
            gateway.configure({
                "format": 1,
                "upstreams": [
                    upstream("origin", served.port),
                    upstream("raw", raw_port),
                ],
                "routes": [
                    route("open", "/open/*", "origin"),
                    route("keyed", "/keyed/*", "origin"),
                    route("small", "/small/*", "origin", max_body_bytes=MB),
                    route("raw", "/raw/*", "raw"),
                    route("options", "/", "origin", methods=["OPTIONS"]),
                ],
                "plugins": [{"name": "key-auth", "route": "keyed", "config": {}}],
            })  # fmt: skip
            yield Hardened(gateway, served, key, raw_port)
