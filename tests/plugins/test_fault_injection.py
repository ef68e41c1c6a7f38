from __future__ import annotations

import asyncio
from random import Random
from statistics import fmean, pstdev

import pytest

from gateway.plugins.fault_injection import DelayConfig, FaultInjection, FaultInjectionConfig, delay_s
from gateway.plugins.registry import ConfigProblems
from gateway.proxy.errors import Reject
from gateway.proxy.snapshot import EjectPolicy
from tests.proxy.gatewaying import Bench, request, route, setting, table, target, upstream
from tests.upstream import OK, answering, serving, until

ALWAYS = {"abort": {"percentage": 100, "status": 500}}


def test_a_failure_is_worded_and_explained(make, exchange_of) -> None:
    exchange = exchange_of()
    with pytest.raises(Reject) as caught:
        make("fault-injection", {"abort": {"percentage": 100, "status": 429, "message": "Too bad."}}).access(exchange)
    assert (caught.value.status, caught.value.code, caught.value.detail) == (429, "fault_injected", "Too bad.")
    assert exchange.detail == "fault-injection: failed"


def test_so_many_fail_as_the_percentage_says(make, exchange_of) -> None:
    plugin = make("fault-injection", {"abort": {"percentage": 20}})
    plugin._random = Random(1)
    failed = 0
    for _ in range(2000):
        try:
            plugin.access(exchange_of())
        except Reject:
            failed += 1
    assert 340 < failed < 460  # 400 ± 3 standard deviations


@pytest.mark.parametrize(("fields", "fails"), [([(b"x-fail", b"")], True), ([(b"x-other", b"x-fail")], False)])
def test_a_trigger_asks_for_it(make, exchange_of, fields, fails) -> None:
    plugin, exchange = make("fault-injection", {**ALWAYS, "trigger": "X-Fail"}), exchange_of(headers=fields)
    if fails:
        with pytest.raises(Reject):
            plugin.access(exchange)
    else:
        assert plugin.access(exchange) is None


@pytest.mark.parametrize(
    ("config", "mean_s", "deviation_s"),
    [
        ({"duration_ms": 500}, 0.5, 0.0),
        ({"duration_ms": 500, "distribution": "uniform", "spread_ms": 300}, 0.5, 0.6 / 12**0.5),
        ({"duration_ms": 500, "distribution": "normal", "spread_ms": 50}, 0.5, 0.05),
        ({"duration_ms": 500, "distribution": "exponential"}, 0.5, 0.5),
    ],
)
def test_delays_are_distributed_as_asked_for(config, mean_s, deviation_s) -> None:
    random = Random(7)
    drawn = [delay_s(DelayConfig.model_validate(config), random) for _ in range(4000)]
    assert fmean(drawn) == pytest.approx(mean_s, rel=0.05)
    assert pstdev(drawn) == pytest.approx(deviation_s, rel=0.1)


@pytest.mark.parametrize("config", [
    {"duration_ms": 60_000, "distribution": "exponential"},
    {"duration_ms": 1, "distribution": "normal", "spread_ms": 60_000},
])  # fmt: skip
def test_no_delay_is_longer_than_a_minute_or_negative(config) -> None:
    random = Random(7)
    drawn = [delay_s(DelayConfig.model_validate(config), random) for _ in range(1000)]
    assert min(drawn) >= 0
    assert max(drawn) == 60


async def test_what_is_injected_is_no_targets_fault() -> None:
    config = FaultInjectionConfig.model_validate({
        "abort": {"percentage": 100, "status": 502}, "delay": {"percentage": 100, "duration_ms": 20},
        "trigger": "x-fail",
    })  # fmt: skip
    settings = [setting(FaultInjection, config=config)]
    async with serving(answering(OK)) as up:
        fragile = upstream("up", target(up.port), eject=EjectPolicy(1, 60.0, 60.0, 1.0, frozenset(), frozenset()))
        async with Bench(table([route("r")], [fragile], [FaultInjection], settings)) as bench:
            failed = [(await bench.get("/", headers=[(b"x-fail", b"1")]))[0] for _ in range(5)]
            fine, _ = await bench.get("/")
    assert {(exchange.status, exchange.target, exchange.tries, exchange.outcome) for exchange in failed} == {
        (502, "", 0, "rejected")
    }
    assert failed[0].detail == "fault-injection: waited 20 ms, then failed"
    assert failed[0].finished_s - failed[0].started_s >= 0.02
    assert (fine.status, len(up.heads)) == (200, 1)


async def test_a_wait_ends_with_its_client_and_has_a_ceiling() -> None:
    config = FaultInjectionConfig.model_validate(
        {"delay": {"percentage": 100, "duration_ms": 60_000}, "max_delayed": 1}
    )
    settings = [setting(FaultInjection, config=config)]
    async with serving(answering(OK)) as up:
        routing = table([route("r")], [upstream("up", target(up.port))], [FaultInjection], settings)
        async with Bench(routing) as bench:
            waiting = request("/")
            handling = asyncio.create_task(bench.pipeline.handle(waiting))
            await until(lambda: waiting.detail)
            at_once, _ = await bench.get("/")
            handling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await handling
            await bench.pipeline.finish(waiting, "client_closed")
            next_one = asyncio.create_task(bench.pipeline.handle(held := request("/")))
            await until(lambda: held.detail)  # its place is free again
            next_one.cancel()
            await asyncio.gather(next_one, return_exceptions=True)
    assert (at_once.status, at_once.detail) == (200, "")
    assert (waiting.status, waiting.detail) == (499, "fault-injection: waited 60000 ms")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "a percentage"),
        ({"abort": {"percentage": 101}}, "less than or equal to 100"),
        ({"abort": {"percentage": 1, "status": 200}}, "greater than or equal to 400"),
        ({"delay": {"percentage": 1, "duration_ms": 60_001}}, "less than or equal to 60000"),
        ({"delay": {"percentage": 1, "distribution": "uniform"}}, "these need it"),
        ({"delay": {"percentage": 1, "spread_ms": 5}}, "spread_ms goes with"),
        ({"abort": {"percentage": 1}, "trigger": "a b"}, "pattern"),
    ],
)
def test_what_cannot_work_is_refused(registry, config, said) -> None:
    with pytest.raises(ConfigProblems) as caught:
        registry.validate("fault-injection", config)
    assert said in str(caught.value)
