"""An upstream in trouble is not asked many times as often; a slow target costs neither the tail nor twice the load."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from typing import Any

from tests.e2e.gateway import Gateway, route
from tests.hazards.test_targets import target
from tests.upstream import OK, Wire, answering

BUSY = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"
REQUESTS, CLIENTS = 1000, 4


def configure(gateway: Gateway, *ports: int, **fields: Any) -> None:
    up = {"name": "up", "targets": [{"host": "127.0.0.1", "port": port} for port in ports], "eject_after": 0, **fields}
    gateway.configure({"format": 1, "upstreams": [up], "routes": [route("all", "/*", "up")]})


def ask(gateway: Gateway) -> list[tuple[int, float]]:
    """Status and seconds of each answer."""
    answers: list[tuple[int, float]] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
        for _ in range(REQUESTS // CLIENTS):
            begun_s = time.perf_counter()
            connection.request("GET", "/x")
            answer = connection.getresponse()
            answer.read()
            answers.append((answer.status, time.perf_counter() - begun_s))
        connection.close()

    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for one in clients:
        one.start()
    for one in clients:
        one.join(60)
    assert len(answers) == REQUESTS
    return answers


def test_retries_stay_within_the_budget(gateway: Gateway) -> None:
    calls: list[int] = []

    async def busy(wire: Wire) -> None:
        while await wire.head():
            calls.append(1)
            await wire.send(BUSY)

    with target(busy) as one, target(busy) as two:
        configure(
            gateway, one, two, retries=5, retry_statuses=[503], retry_backoff_ms=1, retry_budget_percent=20,
        )  # fmt: skip
        begun_s = time.monotonic()
        answers = ask(gateway)
        took_s = time.monotonic() - begun_s
    assert {status for status, _ in answers} == {503}
    spare = 10 * (10 + took_s)  # ten a second, saved up for ten
    assert REQUESTS < len(calls) <= REQUESTS * 1.2 + spare + 1


def test_hedges_halve_the_tail_at_less_than_a_fifth_more_load(gateway: Gateway) -> None:
    calls: list[int] = []

    async def now_and_then_slow(wire: Wire) -> None:
        while await wire.head():
            calls.append(1)
            if len(calls) % 20 == 0:
                await asyncio.sleep(0.4)
            await wire.send(OK)

    def p99_s() -> float:
        return sorted(took_s for _, took_s in ask(gateway))[int(REQUESTS * 0.99)]

    with target(now_and_then_slow) as one, target(answering(OK)) as two:
        configure(gateway, one, two, hedge_after_ms=0)
        plain_s = p99_s()
        calls.clear()
        configure(gateway, one, two, hedge_after_ms=60, retry_budget_percent=20)
        hedged_s = p99_s()
    assert plain_s >= 0.4
    assert hedged_s <= plain_s / 2
    assert len(calls) <= REQUESTS * 0.6
