"""Whatever becomes of ten thousand requests, the pool and the process hold in the end what they should."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from collections import Counter

import pytest
import uvloop

from gateway.proxy.errors import GatewayError
from gateway.proxy.transport import TargetTransport
from tests.proxy.sending import counters, fetch, read, request, timeouts, transport_to
from tests.upstream import OK, Wire, serving, until

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")

LARGE = b"HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n" + b"x" * 100_000


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return request.param()


async def mixed(wire: Wire) -> None:
    """Does what the path says."""
    while head := await wire.head():
        match head.split()[1]:
            case b"/ok":
                await wire.send(OK)
            case b"/close":
                await wire.send(OK)
                return
            case b"/large":
                await wire.send(LARGE)
            case b"/garbage":
                await wire.send(b"HTTP/1.1 200 OK\nx\n\n")
            case b"/cut":
                await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
                return
            case b"/reset":
                wire.reset()
                return
            case _:
                await wire.left()
                return


async def use(transport: TargetTransport, rng: random.Random) -> str:
    """One request, of which anything may become: what did."""
    target = rng.choice([b"/ok"] * 4 + [b"/close", b"/large", b"/garbage", b"/cut", b"/reset", b"/silent"])
    sent = request(target=target, method=rng.choice(["GET", "POST"]))
    try:
        response = await transport.handle_async_request(sent)
        try:
            if target == b"/large" or rng.random() < 0.1:
                await anext(response.stream, b"")  # type: ignore[arg-type]
                return "closed early"
            await read(response)
        finally:
            await response.aclose()
    except GatewayError as error:
        return error.code
    return "ok"


async def test_10_000_mixed_requests_leave_nothing_behind() -> None:
    rng, became = random.Random(7), Counter[str]()
    gc.collect()
    async with serving(mixed) as upstream:
        limits = timeouts(first_byte_s=0.05, idle_s=0.05, pool_s=0.05)
        async with transport_to(upstream, times=limits, max_connections=64, max_waiting=80) as transport:
            fds = len(os.listdir("/proc/self/fd"))
            for _ in range(50):
                tasks = [asyncio.create_task(use(transport, rng)) for _ in range(200)]
                for task in rng.sample(tasks, 50):
                    asyncio.get_running_loop().call_later(rng.random() * 0.05, task.cancel)
                await asyncio.wait(tasks)
                became.update("cancelled" if task.cancelled() else task.result() for task in tasks)
                assert transport.pool.open <= 64
            await until(lambda: transport.pool.in_use == 0)
            assert transport.pool.waiting == 0
            assert transport.pool.open == transport.pool.idle
            await until(lambda: upstream.live == transport.pool.open)
            await until(lambda: len(os.listdir("/proc/self/fd")) <= fds + 2 * transport.pool.open)
            assert await fetch(transport, request(target=b"/ok")) == (200, b"ok")
            await transport.aclose()
            assert counters(transport) == (0, 0, 0, 0)
            await until(lambda: upstream.live == 0 and len(os.listdir("/proc/self/fd")) <= fds)
    assert became.total() == 10_000
    kinds = ("ok", "closed early", "cancelled", "upstream_broke", "upstream_timeout", "upstream_busy")
    assert min(became[kind] for kind in kinds) > 50, became
