"""Asks at a constant rate, whether answers come or not (open loop), and counts each from the moment it was due.

A generator that waits for an answer before it asks again asks less while a gateway stalls, and so measures the stall
once instead of for everybody who would have come meanwhile (coordinated omission). Here they come. Sockets and
`select` rather than an event loop: timers of a loop are milliseconds, half of what is measured.
"""

from __future__ import annotations

import gc
import select
import socket
from collections import deque
from time import perf_counter

from benchmarks.answer import Answer, Loaded, loaded

GRACE_S = 3.0
MAX_CONNECTIONS = 256
_IDLE_S = 0.05


class Overwhelmed(TimeoutError):
    """The answers did not come at that rate."""


def run(request: bytes, port: int, per_s: float, seconds: float) -> Loaded:
    """`seconds` times `per_s` requests, over as many keep-alive connections as it takes, at most 256; a request that is
    due while all are busy waits, and its time counts. Raises Overwhelmed."""
    gc.disable()
    try:
        return _Run(request, port, per_s, int(per_s * seconds)).run()
    finally:
        gc.enable()


class _Run:
    def __init__(self, request: bytes, port: int, per_s: float, total: int) -> None:
        self.request, self.port, self.per_s, self.total = request, port, per_s, total
        self.idle: list[socket.socket] = []
        self.flying: dict[socket.socket, tuple[float, Answer]] = {}
        self.waiting: deque[float] = deque()
        self.times_s: list[float] = []
        self.asked = self.errors = 0

    def run(self) -> Loaded:
        self.begun_s = perf_counter() + _IDLE_S
        end_s = self.begun_s + self.total / self.per_s + GRACE_S
        try:
            while len(self.times_s) < self.total:
                now_s = perf_counter()
                if now_s > end_s:
                    raise Overwhelmed(f"it does not answer {self.per_s:.0f} requests a second")
                self._ask(now_s)
                wait_s = self._due_s() - perf_counter() if self.asked < self.total else _IDLE_S
                for readable in select.select(self.flying, (), (), max(0.0, wait_s))[0]:
                    self._read(readable)
        finally:
            for connection in (*self.idle, *self.flying):
                connection.close()
        return loaded(self.times_s, self.total / self.per_s, self.errors)

    def _due_s(self) -> float:
        return self.begun_s + self.asked / self.per_s

    def _ask(self, now_s: float) -> None:
        while self.asked < self.total and (due_s := self._due_s()) <= now_s:
            self.waiting.append(due_s)
            self.asked += 1
        while self.waiting and (self.idle or len(self.flying) < MAX_CONNECTIONS):
            connection = self.idle.pop() if self.idle else self._connect()
            connection.sendall(self.request)
            self.flying[connection] = (self.waiting.popleft(), Answer())

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=GRACE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _read(self, connection: socket.socket) -> None:
        due_s, answer = self.flying[connection]
        data = connection.recv(65_536)
        if data:
            answer.parser.feed_data(data)
        if answer.complete or not data:
            del self.flying[connection]
            self.times_s.append(perf_counter() - due_s)
            self.errors += not data or answer.parser.get_status_code() >= 400
            if data:
                self.idle.append(connection)
            else:
                connection.close()
