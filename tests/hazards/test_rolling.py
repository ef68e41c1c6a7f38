"""A node that is stopped, rolled, or loses a worker under load. HG_ROLL_REQUESTS=30000 asks for the long form."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.e2e.gateway import Gateway, route, running, upstream, wait_until
from tests.running import Stopwatch, free_port
from tests.soak.kinds import Client
from tests.upstream import OK, Wire, serving, until

GATEWAY_WORKERS = 2
REQUESTS = int(os.environ.get("HG_ROLL_REQUESTS", "3000"))
RPS = 300
ROLLS = 5 if REQUESTS >= 10_000 else 2
SLOW_S = 3.0

pytestmark = pytest.mark.timeout(120 + 2 * REQUESTS / RPS)


async def behave(wire: Wire) -> None:
    while head := await wire.head():
        if b"/slow" in head:
            await asyncio.sleep(SLOW_S)  # the upstream's own slowness
        if b"/events" in head:
            await wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: first\n\n")
            await wire.left()
            return
        await wire.send(OK)


def document(port: int) -> dict[str, object]:
    return {"format": 1, "upstreams": [upstream("up", port)], "routes": [route("all", "/*", "up")]}


class Steady:
    """Requests at a steady rate over kept connections, `connections` of them, until `enough` are asked or `stop`."""

    def __init__(self, gateway: Gateway, rate: float = RPS, connections: int = 20) -> None:
        self.port = gateway.port
        self.rate, self.connections = rate, connections
        self.asked = 0
        self.results: Counter[str] = Counter()
        self.failed_s: list[float] = []
        self._ended = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Steady:
        self._begun_s = time.monotonic()
        self.watch = Stopwatch()
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self.connections)]
        await until(lambda: self.results["200"] > 20, 15)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended = True
        await asyncio.gather(*self._tasks)

    async def _client(self) -> None:
        client = Client(self.port)
        while not self._ended:
            due_s = self._begun_s + self.asked / self.rate
            self.asked += 1
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            try:
                async with asyncio.timeout(15):
                    status, _ = await client.status("/x")
                self.results[str(status)] += 1
            except (OSError, EOFError) as error:  # no second try: what breaks once is a failure
                self.results[repr(error)] += 1
                self.failed_s.append(self.watch.s)
        await client.close()


@pytest.fixture(autouse=True)
def again(gateway: Gateway) -> None:
    """Runs, whatever the test before left."""
    assert gateway.process is not None
    if gateway.process.poll() is not None:
        gateway.start()


async def test_sigterm_ends_fifty_slow_requests_and_a_stream_in_peace(gateway: Gateway) -> None:
    async with serving(behave) as up:
        await asyncio.to_thread(gateway.configure, document(up.port))
        limits = httpx.Limits(max_connections=60)
        async with httpx.AsyncClient(timeout=15, limits=limits) as client:
            requests = [asyncio.create_task(client.get(f"{gateway.url}/slow")) for _ in range(50)]
            async with client.stream("GET", f"{gateway.url}/events") as events:
                chunks = events.aiter_bytes()
                assert await anext(chunks) == b"data: first\n\n"
                await until(lambda: len(up.heads) == 51, 10)
                assert gateway.process is not None
                gateway.process.send_signal(signal.SIGTERM)
                answers = await asyncio.gather(*requests)
                assert Counter(answer.status_code for answer in answers) == {200: 50}
                assert [chunk async for chunk in chunks] == []  # ended in order, so that the client comes back at once
        assert await asyncio.to_thread(gateway.process.wait, 20) == 0


async def test_rolling_restarts_fail_no_request(gateway: Gateway) -> None:
    async with serving(behave) as up:
        await asyncio.to_thread(gateway.configure, document(up.port))
        async with Steady(gateway) as load:
            for number in range(1, ROLLS + 1):
                old = set(gateway.pids("gateway.server.worker"))
                assert gateway.process is not None
                gateway.process.send_signal(signal.SIGHUP)
                await until(lambda old=old: old.isdisjoint(gateway.pids("gateway.server.worker")), 60)
                await until(lambda number=number: sum(load.results.values()) >= number * REQUESTS / ROLLS, 90)
    print(f"{ROLLS} rolls, {dict(load.results)}")  # noqa: T201
    assert set(load.results) == {"200"}, load.results


async def test_a_killed_worker_takes_only_its_own_requests_with_it(gateway: Gateway) -> None:
    async with serving(behave) as up:
        await asyncio.to_thread(gateway.configure, document(up.port))
        async with Steady(gateway) as load:
            first, _ = gateway.pids("gateway.server.worker")
            killed_s = load.watch.s
            os.kill(first, signal.SIGKILL)
            await until(lambda: len(set(gateway.pids("gateway.server.worker")) - {first}) == 2, 1.0)
            before = load.results["200"]
            await until(lambda: load.results["200"] > before + 2 * RPS, 15)
    failed = sum(count for what, count in load.results.items() if what != "200")
    print(f"{failed} requests went with the killed worker")  # noqa: T201
    assert failed <= load.connections  # those it had in hand, at most one for each connection
    assert all(at_s - killed_s < 0.5 for at_s in load.failed_s), load.results


def closed(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return True
    return False


async def test_readiness_goes_first_and_the_port_stays_a_while(gateway: Gateway, plain_upstream: int) -> None:
    """`GATEWAY_DRAIN_DELAY_S`: for a load balancer that has to see the 503 before the port may close."""
    environment = {**gateway.environment, "GATEWAY_DRAIN_DELAY_S": "2"}
    directory: Path = gateway.directory / "delayed"
    directory.mkdir()
    with running(Gateway(directory, environment, workers=2, port=free_port())) as delayed:
        assert delayed.process is not None
        delayed.process.send_signal(signal.SIGTERM)
        begun_s, watch = time.monotonic(), Stopwatch()
        async with httpx.AsyncClient() as client:

            async def state() -> int:
                return (await client.get(f"{delayed.url}/ready", headers={"connection": "close"})).status_code

            while await state() != 503:
                assert watch.s < 1
            await until(lambda: closed(delayed.port), 10)
        assert time.monotonic() - begun_s > 1.9
        assert await asyncio.to_thread(delayed.process.wait, 20) == 0  # the recorder is nice to others, who may be busy
    wait_until(gateway.is_ready)
