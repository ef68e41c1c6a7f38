"""The upstream's half of a WebSocket over a real pipeline: circuit and ceiling hold for handshakes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

from gateway.proxy.exchange import Exchange
from gateway.proxy.snapshot import BreakerPolicy, CarePolicy, TargetSpec
from gateway.proxy.websocket import UpstreamSocket
from tests.proxy.gatewaying import Bench, request, route, table, target, upstream

NEVER = BreakerPolicy(error_share=0.5, slow_s=0.0, slow_share=0.0, min_requests=2, window_s=60.0, open_s=60.0)
SOON = BreakerPolicy(error_share=0.5, slow_s=0.0, slow_share=0.0, min_requests=2, window_s=60.0, open_s=0.05)


class World:
    """`async with World(care) as world`: a gateway before an upstream that answers handshakes with `status`."""

    def __init__(self, care: CarePolicy, *others: TargetSpec, **fields: Any) -> None:
        self._care, self._others, self._fields = care, others, fields
        self._stack = AsyncExitStack()
        self.status, self.asked = 101, 0

    async def __aenter__(self) -> World:
        enter = self._stack.enter_async_context
        server = await enter(serve(_hold, "127.0.0.1", 0, process_request=self._answer))
        port = server.sockets[0].getsockname()[1]
        self.up = upstream("up", *self._others, target(port, number=9), care=self._care, **self._fields)
        self.bench = await enter(Bench(table([route("all", "/*")], [self.up])))
        return self

    async def __aexit__(self, *reason: Any) -> None:
        await self._stack.aclose()

    def _answer(self, socket: ServerConnection, _: Any) -> Any:
        self.asked += 1
        return None if self.status == 101 else socket.respond(self.status, "no\n")

    async def open(self) -> Exchange:
        exchange = request("/chat")
        await self.bench.pipeline.handle(exchange, UpstreamSocket(self.bench.forwarder, (), 1 << 20).open)
        return exchange

    async def end(self, exchange: Exchange) -> None:
        await self.bench.pipeline.finish(exchange, "ok")

    async def statuses(self, count: int) -> list[int]:
        """Of handshakes that are over at once."""
        exchanges = [await self.open() for _ in range(count)]
        for exchange in exchanges:
            await self.end(exchange)
        return [exchange.status for exchange in exchanges]

    @property
    def guard(self) -> Any:
        return self.bench.forwarder.guards.of(self.up, self._care)

    @property
    def idle(self) -> bool:
        states = [self.bench.forwarder.balancer.state(self.up, one).in_flight for one in self.up.targets]
        return self.guard.ceiling.inside == 0 and not any(states)


async def _hold(socket: ServerConnection) -> None:
    await socket.wait_closed()


async def test_refusals_of_the_upstream_open_the_circuit_and_then_nobody_is_asked() -> None:
    async with World(CarePolicy(breaker=NEVER)) as world:
        world.status = 500
        assert await world.statuses(4) == [500, 500, 503, 503]
        assert world.asked == 2
        exchange = await world.open()
        assert exchange.outcome == "circuit_open"
        assert 1 <= int(dict(exchange.response_headers or [])[b"retry-after"]) <= 60
        await world.end(exchange)
        assert world.idle


async def test_what_the_client_did_wrong_opens_nothing() -> None:
    async with World(CarePolicy(breaker=NEVER)) as world:
        world.status = 403
        assert await world.statuses(10) == [403] * 10
        assert world.guard.breaker.phase == "closed"


async def test_connections_that_fail_count_too() -> None:
    dead = target(1, number=1)
    async with World(CarePolicy(breaker=NEVER), dead, retries=0) as world:
        seen = await world.statuses(20)
        assert 503 in seen
        assert world.guard.breaker.phase == "open"
        assert world.idle


async def test_a_handshake_is_the_trial_that_closes_the_circuit() -> None:
    async with World(CarePolicy(breaker=SOON)) as world:
        world.status = 500
        assert await world.statuses(2) == [500, 500]
        world.status = 101
        async with asyncio.timeout(5):
            while (await world.statuses(1)) != [101]:
                await asyncio.sleep(0.01)
        assert world.guard.breaker.phase == "closed"
        assert await world.statuses(3) == [101] * 3


async def test_an_open_socket_keeps_its_place_below_the_ceiling() -> None:
    async with World(CarePolicy(max_concurrency=2)) as world:
        first, second = await world.open(), await world.open()
        third = await world.open()
        assert (third.status, third.outcome) == (503, "upstream_busy")
        await world.end(third)
        await world.end(first)
        assert await world.statuses(1) == [101]
        await world.end(second)
        assert world.idle


async def test_a_place_is_waited_for() -> None:
    async with World(CarePolicy(max_concurrency=1, max_queue=1, queue_timeout_s=5.0)) as world:
        first = await world.open()
        waiting = asyncio.create_task(world.open())
        async with asyncio.timeout(5):
            while not world.guard.ceiling.waiting:
                await asyncio.sleep(0)
        await world.end(first)
        second = await waiting
        assert second.status == 101
        await world.end(second)
        assert world.idle


async def test_a_refused_handshake_gives_its_place_back() -> None:
    async with World(CarePolicy(max_concurrency=1)) as world:
        world.status = 404
        assert await world.statuses(3) == [404] * 3
        assert world.idle


async def test_a_client_that_leaves_meanwhile_leaves_nothing_behind() -> None:
    async with World(CarePolicy(max_concurrency=1, breaker=NEVER)) as world:
        opening = asyncio.create_task(world.open())
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        assert world.idle


async def test_another_target_is_tried_within_the_budget() -> None:
    dead = target(1, number=1)
    async with World(CarePolicy(max_concurrency=5, budget_per_s=0.0, budget_share=0.0), dead, retries=1) as world:
        assert sorted(await world.statuses(4)) == [101, 101, 502, 502]
    async with World(CarePolicy(max_concurrency=5, budget_per_s=10.0, budget_share=0.2), dead, retries=1) as world:
        assert await world.statuses(4) == [101] * 4
        assert world.idle
