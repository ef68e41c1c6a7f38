"""A steady load from a few threads, with every answer's request id and time."""

from __future__ import annotations

import http.client
import threading
import time
from dataclasses import dataclass, field


@dataclass
class Load:
    """`threads` keep-alive clients, each at most `rate` requests a second, until `stop`. They begin one by one."""

    port: int
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    threads: int = 4
    rate: float = 40.0
    answers: list[tuple[float, int, str]] = field(default_factory=list)  # (time.time(), status, X-Request-Id)
    times: list[tuple[float, float]] = field(default_factory=list)  # (time.time() at its start, ms until the last byte)
    errors: list[tuple[float, str]] = field(default_factory=list)  # no answer at all
    _stop: threading.Event = field(default_factory=threading.Event)
    _running: list[threading.Thread] = field(default_factory=list)

    def start(self) -> Load:
        every_s = 1 / (self.rate * self.threads)
        self._running = [
            threading.Thread(target=self._run, args=[number * every_s], daemon=True) for number in range(self.threads)
        ]
        for thread in self._running:
            thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join(10)

    def statuses(self) -> dict[int, int]:
        counts: dict[int, int] = {}
        for _, status, _ in self.answers:
            counts[status] = counts.get(status, 0) + 1
        return counts

    def _run(self, delay_s: float) -> None:
        self._stop.wait(delay_s)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                connection.request("GET", self.path, headers=self.headers)
                answer = connection.getresponse()
                answer.read()
                self.times.append((time.time() - (took_s := time.monotonic() - begun), took_s * 1000))
                self.answers.append((time.time(), answer.status, answer.headers.get("X-Request-Id") or ""))
            except (OSError, http.client.HTTPException) as error:
                self.errors.append((time.time(), repr(error)))
                connection.close()
            self._stop.wait(max(0.0, 1 / self.rate - (time.monotonic() - begun)))
        connection.close()
