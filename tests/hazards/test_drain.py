"""SIGTERM: what is under way is finished, its rows are shipped, nothing new is taken."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

import httpx

from gateway.proxy.ending import DETAIL
from tests.e2e.gateway import Gateway, route, upstream, wait_until
from tests.running import Stopwatch
from tests.upstream import Wire, serving

EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow"


async def test_requests_in_flight_are_answered_and_recorded(gateway: Gateway) -> None:
    async def slow(wire: Wire) -> None:
        while await wire.head():
            await asyncio.sleep(1.0)  # the upstream's own slowness
            await wire.send(OK)

    async with serving(slow) as up:
        gateway.configure({
            "format": 1, "upstreams": [upstream("slow", up.port)], "routes": [route("slow", "/*", "slow")],
        })  # fmt: skip
        async with httpx.AsyncClient(timeout=10) as client:
            requests = [asyncio.create_task(client.get(f"{gateway.url}/{number}")) for number in range(20)]
            while len(up.heads) < 20:
                await asyncio.sleep(0.01)
            assert gateway.process is not None
            gateway.process.send_signal(signal.SIGTERM)
            answers = await asyncio.gather(*requests)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers.get("connection") for answer in answers} == {"close"}
    watch = Stopwatch()
    await asyncio.to_thread(gateway.process.wait, 20)
    assert watch.s < 5
    assert gateway.process.returncode == 0
    rows = gateway.query("SELECT count(*), count(DISTINCT path) FROM usage_row WHERE outcome = 'ok'")
    assert rows == [(20, 20)]
    gateway.start()
    wait_until(lambda: gateway.get_json("/ready")["status"] == "ready")


async def test_streams_of_events_end_in_order_and_hold_no_drain(gateway: Gateway) -> None:
    """Whole to the client, which then comes back by itself."""

    async def events(wire: Wire) -> None:
        while await wire.head():
            await wire.send(EVENTS + b"d\r\ndata: hello\n\n\r\n")
            await wire.left()

    async with serving(events) as up:
        gateway.configure({
            "format": 1, "upstreams": [upstream("events", up.port)], "routes": [route("events", "/*", "events")],
        })  # fmt: skip
        async with httpx.AsyncClient(timeout=10) as client, contextlib.AsyncExitStack() as stack:
            streams = [
                await stack.enter_async_context(client.stream("GET", f"{gateway.url}/events/{n}")) for n in range(6)
            ]
            bodies = [stream.aiter_bytes() for stream in streams]
            assert [await anext(body) for body in bodies] == [b"data: hello\n\n"] * 6
            assert gateway.process is not None
            watch = Stopwatch()
            gateway.process.send_signal(signal.SIGTERM)
            rests = await asyncio.gather(*[_rest(body) for body in bodies])  # raises if one is cut off
            assert rests == [b""] * 6
        await asyncio.to_thread(gateway.process.wait, 20)
    assert watch.s < 4  # the limit of the drain is 5 s
    assert gateway.process.returncode == 0
    rows = gateway.query("SELECT status, outcome, detail FROM usage_row WHERE path LIKE '/events/%%'")
    assert rows == [(200, "ok", DETAIL)] * 6
    gateway.start()
    wait_until(lambda: gateway.get_json("/ready")["status"] == "ready")


async def _rest(body: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in body])
