"""An upstream that fails is left alone, and asked by exactly one request before its traffic comes back."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from typing import Any

from tests.e2e.gateway import Gateway, route, wait_until
from tests.hazards.test_targets import BROKEN, target
from tests.upstream import OK, Wire

MIN_REQUESTS, CLIENTS = 20, 8


def configure(gateway: Gateway, port: int, **fields: Any) -> None:
    up = {"name": "up", "targets": [{"host": "127.0.0.1", "port": port}], "retries": 0, "eject_after": 0, **fields}
    gateway.configure({"format": 1, "upstreams": [up], "routes": [route("all", "/*", "up")]})


def get(connection: http.client.HTTPConnection) -> tuple[int, bytes, float]:
    begun = time.perf_counter()
    connection.request("GET", "/x")
    answer = connection.getresponse()
    body = answer.read()
    return answer.status, body, time.perf_counter() - begun


def test_it_opens_soon_answers_at_once_and_sends_one_trial(gateway: Gateway) -> None:
    calls: list[bool] = []
    well, go = threading.Event(), threading.Event()

    async def moody(wire: Wire) -> None:
        while await wire.head():
            calls.append(well.is_set())
            if well.is_set():
                while not go.is_set():  # the trial stays under way until the test has looked
                    await asyncio.sleep(0.01)
            await wire.send(OK if well.is_set() else BROKEN)

    with target(moody) as port:
        configure(
            gateway, port, breaker_error_percent=50, breaker_min_requests=MIN_REQUESTS, breaker_window_ms=60_000,
            breaker_open_ms=1500,
        )  # fmt: skip
        answers: list[tuple[int, bytes, float]] = []

        def client(times: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
            for _ in range(times):
                answers.append(get(connection))
            connection.close()

        def crowd(times: int) -> list[threading.Thread]:
            clients = [threading.Thread(target=client, args=[times]) for _ in range(CLIENTS)]
            for one in clients:
                one.start()
            return clients

        for one in crowd(25):
            one.join(30)
        assert len(answers) == CLIENTS * 25
        assert MIN_REQUESTS <= len(calls) <= MIN_REQUESTS + CLIENTS
        refused = [answer for answer in answers if answer[0] == 503]
        assert len(refused) == len(answers) - len(calls)
        assert all(b'"code": "circuit_open"' in body for _, body, _ in refused)

        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
        times_s = sorted(answer[2] for answer in [get(connection) for _ in range(50)] if answer[0] == 503)
        connection.close()
        assert times_s[len(times_s) // 2] < 0.005, times_s

        begun = len(calls)
        well.set()
        trial = threading.Thread(target=client, args=[1])
        wait_until(lambda: _shown(gateway)["circuit_for_s"] >= 1.6)
        trial.start()
        wait_until(lambda: len(calls) == begun + 1)
        answers.clear()
        for one in crowd(5):
            one.join(30)
        assert {status for status, _, _ in answers} == {503}
        assert len(calls) == begun + 1
        go.set()
        trial.join(10)
        wait_until(lambda: _shown(gateway)["circuit"] == "closed")
        answers.clear()
        client(10)
        assert {status for status, _, _ in answers} == {200}


def _shown(gateway: Gateway) -> dict[str, Any]:
    [shown] = gateway.get_json("/status")["upstreams_guarded"]
    return dict(shown)
