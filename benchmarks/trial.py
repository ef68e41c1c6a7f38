"""One contender, started and right in its answers: how each kind of case is measured on it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import bulk, load, openloop
from benchmarks.answer import Loaded
from benchmarks.cases import Case
from benchmarks.measure import cpu_s, rss_bytes, settle
from benchmarks.row import Row

CONNECTIONS = 32
WARM_UP_S = 1.0


@dataclass(frozen=True, slots=True)
class Trial:
    """`pid` 0: there is no process, the upstream itself is asked. `per_s`: for requests at a constant rate."""

    case: Case
    port: int
    headers: Mapping[str, str]
    pid: int
    directory: Path
    seconds: float
    per_s: float = 0.0

    def measure(self, row: Row) -> Row:
        if self.case.bulk_bytes:
            return self._bulk(row)
        if self.case.held:
            return self._held(row)
        return self._asked(row)

    def _load(self, seconds: float) -> Loaded:
        if self.per_s:
            request = load.head(self.case, {**self.case.headers, **self.headers}) + self.case.body
            return openloop.run(request, self.port, self.per_s, seconds)
        return load.run(self.case, self.port, self.headers, CONNECTIONS, seconds, self.directory)

    def _asked(self, row: Row) -> Row:
        self._load(WARM_UP_S)
        self._settle()
        before_s = self._cpu_s()
        loaded = self._load(self.seconds)
        row = self._with_memory(row)
        self._settle()
        return replace(
            row, errors=loaded.errors, requests=loaded.requests, requests_per_s=loaded.requests / loaded.seconds,
            p50_ms=loaded.p50_ms, p99_ms=loaded.p99_ms,
            cpu_us=(self._cpu_s() - before_s) / max(1, loaded.requests) * 1e6,
        )  # fmt: skip

    def _held(self, row: Row) -> Row:
        """Memory before and with all connections open, each of which had an answer."""
        load.run(self.case, self.port, self.headers, CONNECTIONS, WARM_UP_S, self.directory)
        settle(self.pid)
        before_mb = sum(rss_bytes(self.pid)) / 1e6
        with contextlib.ExitStack() as stack:
            connections = [
                stack.enter_context(load.ask_once(self.case, self.port, self.headers)) for _ in range(self.case.held)
            ]
            settle(self.pid)
            row = self._with_memory(row)
            errors = sum(has_gone(each) for each in connections)
        return replace(row, errors=errors, kb_per_connection=(row.rss_mb - before_mb) / self.case.held * 1e3)

    def _bulk(self, row: Row) -> Row:
        with load.ask_once(self.case, self.port, self.headers):
            settle(self.pid)
        down_mb, up_mb = bulk.grown(self.port, self.pid, self.case.bulk_bytes)
        return replace(self._with_memory(row), grown_down_mb=down_mb, grown_up_mb=up_mb)

    def _with_memory(self, row: Row) -> Row:
        rss = rss_bytes(self.pid) if self.pid else [0]
        return replace(row, rss_mb=sum(rss) / 1e6, rss_largest_mb=rss[0] / 1e6)

    def _cpu_s(self) -> float:
        return cpu_s(self.pid) if self.pid else 0.0

    def _settle(self) -> None:
        if self.pid:
            settle(self.pid)


def has_gone(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
