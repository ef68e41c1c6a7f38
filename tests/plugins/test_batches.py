"""The `batch` phase: in batches, one call at a time, bounded, and never in a request's way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.plugins import batches as module
from gateway.plugins.base import Plugin
from gateway.plugins.batches import Batches
from gateway.proxy.exchange import Answer, Exchange
from gateway.proxy.record import Record
from gateway.proxy.snapshot import When
from tests.proxy.exchanges import finished
from tests.proxy.gatewaying import Bench, NoConfig, route, setting, table, upstream


class Sink:
    """A plugin of the phase. `gate` shut: its calls wait."""

    name = "sink"

    def __init__(self, most: int = 1000, delay_s: float = 0.01) -> None:
        self.batch_max, self.batch_delay_s = most, delay_s
        self.given: list[list[str]] = []
        self.at_once = self.most_at_once = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails = False

    async def batch(self, records: Sequence[Record]) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.gate.wait()
            if self.fails:
                raise OSError("nobody there")
            self.given.append([record.request_id for record in records])
        finally:
            self.at_once -= 1

    @property
    def ids(self) -> list[str]:
        return [id_ for batch in self.given for id_ in batch]


class World:
    def __init__(self) -> None:
        self.lost: list[tuple[str, int]] = []
        self.batches = Batches(lambda name, count: self.lost.append((name, count)))

    @property
    def dropped(self) -> int:
        return sum(count for _, count in self.lost)


@pytest.fixture
def world() -> World:
    return World()


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def requests(count: int) -> list[Exchange]:
    return [finished(id=f"r{number}") for number in range(count)]


async def test_what_comes_together_is_handed_over_together(world: World) -> None:
    sink = Sink(delay_s=0.05)
    log = world.batches.collector(sink)
    for exchange in requests(30):
        log(exchange)
    await until(lambda: sink.given)
    assert sink.given == [[f"r{number}" for number in range(30)]]
    assert world.lost == []


async def test_a_full_batch_does_not_wait(world: World) -> None:
    sink = Sink(most=10, delay_s=3600)
    log = world.batches.collector(sink)
    for exchange in requests(25):
        log(exchange)
    await until(lambda: len(sink.given) == 3)
    assert [len(batch) for batch in sink.given] == [10, 10, 5]
    assert sink.most_at_once == 1


async def test_one_call_at_a_time_and_what_comes_meanwhile_follows(world: World) -> None:
    sink = Sink(most=5)
    sink.gate.clear()
    log = world.batches.collector(sink)
    for exchange in requests(5):
        log(exchange)
    await until(lambda: sink.at_once)
    for exchange in requests(12):
        log(exchange)
    sink.gate.set()
    await until(lambda: len(sink.ids) == 17)
    assert sink.most_at_once == 1


async def test_beyond_the_bound_is_dropped_and_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 20)
    sink = Sink(most=5)
    sink.gate.clear()
    log = world.batches.collector(sink)
    for exchange in requests(5):
        log(exchange)
    await until(lambda: sink.at_once)
    for exchange in requests(30):
        log(exchange)
    assert world.dropped == 10
    sink.gate.set()
    await until(lambda: len(sink.ids) == 25)
    assert world.lost[0] == ("sink", 1)


async def test_a_batch_that_fails_is_counted_and_the_next_is_tried(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink(most=5)
    sink.fails = True
    log = world.batches.collector(sink)
    for exchange in requests(10):
        log(exchange)
    await until(lambda: world.dropped == 10)
    assert [record.message for record in caplog.records] == ["sink lost 5 records: OSError: nobody there"]  # once
    sink.fails = False
    log(finished(id="later"))
    await until(lambda: sink.ids == ["later"])


async def test_the_end_hands_over_what_waits(world: World) -> None:
    sink = Sink(delay_s=3600)
    world.batches.collector(sink)(finished(id="last"))
    await world.batches.aclose()
    assert sink.ids == ["last"]


async def test_the_end_waits_for_nobody_for_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.05)
    sink = Sink(most=5, delay_s=3600)
    sink.gate.clear()
    log = world.batches.collector(sink)
    for exchange in requests(12):
        log(exchange)
    await world.batches.aclose()
    assert sink.given == []
    assert world.dropped == 12
    assert sink.at_once == 0


class Counter(Plugin):
    """A plugin whose batch hook is sync."""

    name = "counter"
    Config = NoConfig
    batch_delay_s = 0.01
    seen: list[str] = []

    def batch(self, records: Sequence[Record]) -> None:
        self.seen += [f"{record.method} {record.path.decode()} {record.status}" for record in records]


class Ok(Plugin):
    name = "ok"
    Config = NoConfig

    def access(self, exchange: Exchange) -> Answer:
        return Answer(200, body=b"ok")


async def test_through_a_pipeline_and_only_where_its_when_holds() -> None:
    Counter.seen = []
    settings = [setting(Ok), setting(Counter, number=2, when=When(methods=frozenset({"POST"})))]
    async with Bench(table([route("r", "/*")], [upstream("up")], [Ok, Counter], settings)) as bench:
        for method in ("GET", "POST", "GET"):
            await bench.get("/x", method=method)
        await until(lambda: Counter.seen)
    assert Counter.seen == ["POST /x 200"]


def test_a_route_without_the_phase_has_no_log_hook() -> None:
    routing = table([route("r", "/*")], [upstream("up")], [Ok, Counter], [setting(Ok)])
    match = routing.index.match("", "/x", b"", "GET", [], b"")
    assert match is not None
    assert match.value.single is not None
    assert match.value.single.chain_for(0).log == ()
