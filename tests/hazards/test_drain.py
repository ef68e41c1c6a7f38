"""SIGTERM: what is under way is finished, its rows are shipped, nothing new is taken."""

from __future__ import annotations

import asyncio
import signal
import time

import httpx

from tests.e2e.gateway import Gateway, route, upstream, wait_until
from tests.upstream import Wire, serving

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
    begun_s = time.monotonic()
    await asyncio.to_thread(gateway.process.wait, 20)
    assert time.monotonic() - begun_s < 5
    assert gateway.process.returncode == 0
    rows = gateway.query("SELECT count(*), count(DISTINCT path) FROM usage_row WHERE outcome = 'ok'")
    assert rows == [(20, 20)]
    gateway.start()
    wait_until(lambda: gateway.get_json("/ready")["status"] == "ready")
