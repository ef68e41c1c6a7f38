"""Further attempts, circuit and hedges over a real pipeline and real upstreams that fail in every way."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gateway.proxy.snapshot import BreakerPolicy, CarePolicy, EjectPolicy
from tests.proxy.gatewaying import Bench, route, table, target, upstream
from tests.upstream import OK, Upstream, Wire, answering, serving, until

BUSY = b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy"


class World:
    """`async with World(script, script, retries=2, care=…) as world`: a gateway before these upstreams."""

    def __init__(self, *scripts: Any, care: CarePolicy, **fields: Any) -> None:
        self._scripts, self._care, self._fields = scripts, care, fields
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> World:
        enter = self._stack.enter_async_context
        self.targets: list[Upstream] = [await enter(serving(script)) for script in self._scripts]
        places = [target(up.port, number=number) for number, up in enumerate(self.targets)]
        self.up = upstream("up", *places, care=self._care, **{"retries": 1, **self._fields})
        self.bench = await enter(Bench(table([route("all", "/*")], [self.up])))
        return self

    async def __aexit__(self, *reason: Any) -> None:
        await self._stack.aclose()

    async def get(self, **fields: Any) -> tuple[int, bytes]:
        exchange, body = await self.bench.get("/", **fields)
        return exchange.status, body

    @property
    def asked(self) -> list[int]:
        return [len(up.heads) for up in self.targets]

    @property
    def idle(self) -> bool:
        guard = self.bench.forwarder.guards.of(self.up, self._care)
        states = [self.bench.forwarder.balancer.state(self.up, one).in_flight for one in self.up.targets]
        return guard.ceiling.inside == 0 and not any(states)


async def silent(wire: Wire) -> None:
    while await wire.head():
        await wire.left()


async def breaks(wire: Wire) -> None:
    await wire.head()
    wire.reset()


async def test_another_target_is_asked_after_a_status_that_is_worth_it() -> None:
    async with World(answering(BUSY), answering(OK), care=CarePolicy(retry_statuses=frozenset({503}))) as world:
        for _ in range(6):
            assert await world.get() == (200, b"ok")
        assert world.idle
        assert all(record.tries <= 2 for record in world.bench.records)


async def test_the_last_answer_is_delivered_when_all_are_bad() -> None:
    care = CarePolicy(retry_statuses=frozenset({503}), backoff_s=0.001)
    async with World(answering(BUSY), care=care, retries=3) as world:
        assert await world.get() == (503, b"busy")
        assert (world.asked, world.bench.records[0].tries) == ([4], 4)
        assert world.idle


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_what_is_not_idempotent_is_sent_once_unless_the_upstream_can_tell(method: str) -> None:
    for all_methods, asked in ((False, 1), (True, 3)):
        care = CarePolicy(retry_statuses=frozenset({503}), retry_all=all_methods, body_bytes=100, backoff_s=0.0)
        async with World(answering(BUSY), care=care, retries=2) as world:
            assert (await world.get(method=method))[0] == 503
            assert world.asked == [asked]


async def test_a_broken_connection_is_tried_again_elsewhere() -> None:
    care = CarePolicy(retry_all=True, body_bytes=100)
    async with World(breaks, answering(OK), care=care) as world:
        for method in ("GET", "POST"):
            for _ in range(3):
                assert await world.get(method=method) == (200, b"ok")


async def test_an_idempotent_body_that_was_kept_survives_a_broken_connection() -> None:
    bodies: list[bytes] = []

    async def takes_and_breaks(wire: Wire) -> None:
        await wire.head()
        bodies.append(await wire.body(6))
        wire.reset()

    async with World(takes_and_breaks, reading([OK] * 2, bodies), care=CarePolicy(body_bytes=6)) as world:
        for _ in range(2):
            fields = {"method": "PUT", "headers": [(b"content-length", b"6")], "length": 6}
            assert (await world.get(body=[b"abc", b"def"], **fields))[0] == 200
        assert bodies == [b"abcdef"] * 3
        assert world.idle


async def test_a_time_limit_is_tried_again_only_if_asked_for() -> None:
    for again, status in ((False, 504), (True, 200)):
        care = CarePolicy(retry_on_timeout=again, backoff_s=0.0, retry_statuses=frozenset({599}))
        async with World(silent, answering(OK), care=care, first_byte_timeout_s=0.05) as world:
            first = await world.get()
            statuses = {first[0], (await world.get())[0]}
            assert statuses == {200, status}
            assert world.idle


async def test_the_time_for_all_attempts_is_kept() -> None:
    care = CarePolicy(retry_statuses=frozenset({503}), backoff_s=60.0)
    async with World(answering(BUSY), care=care, retries=10, total_timeout_s=0.1) as world:
        async with asyncio.timeout(2):
            assert (await world.get())[0] == 503


def reading(answers: list[bytes], bodies: list[bytes]) -> Any:
    async def script(wire: Wire) -> None:
        while head := await wire.head():
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            bodies.append(await wire.body(length))
            await wire.send(answers.pop(0))

    return script


async def test_a_body_that_was_kept_is_sent_whole_again() -> None:
    bodies: list[bytes] = []
    care = CarePolicy(retry_statuses=frozenset({503}), retry_all=True, body_bytes=6, backoff_s=0.0)
    async with World(reading([BUSY, BUSY, OK], bodies), care=care, retries=2) as world:
        fields = {"method": "POST", "headers": [(b"content-length", b"6")], "length": 6}
        assert await world.get(body=[b"abc", b"def"], **fields) == (200, b"ok")
        assert bodies == [b"abcdef"] * 3
        assert world.bench.records[0].bytes_in == 6


async def test_a_longer_body_is_sent_once() -> None:
    bodies: list[bytes] = []
    care = CarePolicy(retry_statuses=frozenset({503}), retry_all=True, body_bytes=5, backoff_s=0.0)
    async with World(reading([BUSY, OK], bodies), care=care, retries=2) as world:
        fields = {"method": "POST", "headers": [(b"content-length", b"6")], "length": 6}
        assert await world.get(body=[b"abc", b"def"], **fields) == (503, b"busy")
        assert bodies == [b"abcdef"]


async def test_attempts_stay_within_the_budget() -> None:
    care = CarePolicy(retry_statuses=frozenset({503}), backoff_s=0.0, budget_share=0.1, budget_per_s=0.001)
    async with World(answering(BUSY), care=care, retries=10) as world:
        for _ in range(100):
            await world.get()
        assert 105 <= world.asked[0] <= 112


# --- the circuit

_NEVER = EjectPolicy(after=0)
POLICY = BreakerPolicy(error_share=0.5, slow_s=0.0, slow_share=1.0, min_requests=10, window_s=10.0, open_s=0.2)


async def test_the_circuit_opens_within_what_is_judged_and_what_was_under_way() -> None:
    healthy = False

    async def moody(wire: Wire) -> None:
        while await wire.head():
            await wire.send(OK if healthy else BUSY)

    async with World(moody, care=CarePolicy(breaker=POLICY), eject=_NEVER) as world:
        answers = await asyncio.gather(*(world.get() for _ in range(4)))
        while (await world.get())[1] == b"busy":
            pass
        assert world.asked[0] <= 10 + len(answers)
        refused = world.bench.records[-1]
        assert (refused.status, refused.outcome) == (503, "circuit_open")
        for _ in range(3):
            await world.get()
        refusals = [record for record in world.bench.records if record.outcome == "circuit_open"]
        assert min(each.finished_s - each.started_s for each in refusals) < 0.005  # the others are the machine's
        assert dict(refused.response_headers or [])[b"retry-after"] == b"1"
        healthy, before = True, world.asked[0]
        await asyncio.sleep(POLICY.open_s)
        results = await asyncio.gather(*(world.get() for _ in range(20)))
        assert world.asked[0] == before + 1, "exactly one trial"
        assert [status for status, _ in results].count(200) == 1
        assert await world.get() == (200, b"ok")
        assert world.idle


async def test_clients_that_leave_do_not_open_it() -> None:
    async with World(silent, care=CarePolicy(breaker=POLICY), eject=_NEVER) as world:
        tasks = [asyncio.create_task(world.get()) for _ in range(30)]
        await until(lambda: world.asked[0] == 30)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        guard = world.bench.forwarder.guards.of(world.up, world._care)
        assert guard.breaker is not None
        assert guard.breaker.phase == "closed"
        assert all(not world.bench.forwarder.balancer.state(world.up, one).in_flight for one in world.up.targets)


# --- the ceiling


async def test_no_more_than_the_ceiling_reach_the_upstream_and_the_rest_waits_or_is_refused() -> None:
    most = now = 0

    async def counts(wire: Wire) -> None:
        nonlocal most, now
        while await wire.head():
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.02)
            now -= 1
            await wire.send(OK)

    async with World(counts, care=CarePolicy(max_concurrency=3, max_queue=5, queue_timeout_s=2.0)) as world:
        results = await asyncio.gather(*(world.get() for _ in range(20)))
        assert sorted(status for status, _ in results) == [200] * 8 + [503] * 12
        assert most == 3
        assert {record.outcome for record in world.bench.records} == {"ok", "upstream_busy"}
        assert world.idle


# --- hedges


def slow_for(first: int, delay_s: float) -> Any:
    turn = 0

    async def script(wire: Wire) -> None:
        nonlocal turn
        while await wire.head():
            turn += 1
            if turn <= first:
                await asyncio.sleep(delay_s)
            await wire.send(OK)

    return script


async def test_a_late_answer_is_overtaken_and_its_connection_closed() -> None:
    async with World(silent, answering(OK), care=CarePolicy(hedge_s=0.03)) as world:
        async with asyncio.timeout(3):
            for _ in range(6):
                assert await world.get() == (200, b"ok")
        assert sum(world.asked) <= 12
        assert world.idle
        await until(lambda: world.targets[0].live == 0)


async def test_a_prompt_answer_is_not_hedged_and_a_body_never() -> None:
    async with World(answering(OK), answering(OK), care=CarePolicy(hedge_s=0.5)) as world:
        for _ in range(4):
            await world.get()
        assert sum(world.asked) == 4


async def test_a_hedge_that_fails_leaves_the_first_to_answer() -> None:
    async with World(slow_for(99, 0.1), answering(BUSY), care=CarePolicy(hedge_s=0.02)) as world:
        results = [await world.get() for _ in range(2)]
        assert (200, b"ok") in results
        assert world.idle


async def test_who_leaves_takes_both_attempts_along() -> None:
    async with World(silent, silent, care=CarePolicy(hedge_s=0.01)) as world:
        task = asyncio.create_task(world.get())
        await until(lambda: sum(world.asked) == 2)
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: all(up.live == 0 for up in world.targets))
        assert all(not world.bench.forwarder.balancer.state(world.up, one).in_flight for one in world.up.targets)


async def test_who_leaves_after_a_bad_answer_of_two_takes_it_along() -> None:
    """The 500 has an unread body, so it holds its connection; the other target never answers."""

    async def bad(wire: Wire) -> None:
        while await wire.head():
            await release.wait()
            await wire.send(b"HTTP/1.1 500 Oh\r\ncontent-length: 9\r\n\r\n")
            sent.set()
            await wire.left()

    release, sent = asyncio.Event(), asyncio.Event()
    async with World(bad, silent, care=CarePolicy(hedge_s=0.02), retries=0) as world:
        asking = asyncio.create_task(world.get())
        await until(lambda: world.asked == [1, 1])
        release.set()
        await sent.wait()
        states = [world.bench.forwarder.balancer.state(world.up, one) for one in world.up.targets]
        await until(lambda: states[0].standing.failures == 1)  # its head has come
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert world.idle
        await until(lambda: not any(up.live for up in world.targets))
