from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from gateway.plugins import bandwidth_limiting
from gateway.plugins.bandwidth_limiting import BandwidthLimiting, Pace
from gateway.plugins.registry import ConfigProblems
from gateway.proxy import headers
from tests.proxy.gatewaying import Bench, route, setting, table, target, upstream
from tests.upstream import answering, serving


async def chunked(parts: Sequence[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.fixture
def sleeping(clock, monkeypatch):
    """Time passes when somebody sleeps, and only then."""
    slept: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.now_s += seconds
        await real(0)

    monkeypatch.setattr(bandwidth_limiting.asyncio, "sleep", sleep)
    return slept


async def whole(plugin, exchange, *parts: bytes) -> bytes:
    return b"".join([piece async for piece in plugin.body(exchange, chunked(parts))])


@pytest.mark.parametrize(("burst", "seconds"), [(0, 10.0), (2_500, 8.75), (50_000, 0.0)])
async def test_an_answer_takes_its_time(make, exchange_of, clock, sleeping, burst, seconds) -> None:
    plugin, start_s = make("bandwidth-limiting", {"bytes_per_second": 2000, "burst_bytes": burst}), clock.now_s
    sent = bytes(range(256)) * 78 + bytes(32)
    assert len(sent) == 20_000
    assert await whole(plugin, exchange_of(), sent[:1], sent[1:15_000], sent[15_000:]) == sent
    assert clock.now_s - start_s == pytest.approx(seconds, rel=1e-4)
    assert all(seconds <= 0.1 + 1e-9 for seconds in sleeping), "no piece is longer than a tenth of a second"


async def test_the_burst_fills_up_again_while_nothing_is_sent(clock) -> None:
    pace = Pace(1000, 500, clock)
    assert pace.take(500) == 0
    assert pace.take(100) == pytest.approx(0.1)
    clock.now_s += 100
    assert pace.take(500) == 0
    assert pace.take(1) == pytest.approx(0.001, rel=1e-3)


async def test_answers_of_one_caller_share_the_rate(make, exchange_of, clock, sleeping, alice, bob) -> None:
    plugin = make("bandwidth-limiting", {"bytes_per_second": 2000, "by": "consumer"})
    first, second = (exchange_of(consumer=alice.consumer, credential=alice) for _ in range(2))
    start_s = clock.now_s
    await whole(plugin, first, bytes(2000))
    await whole(plugin, second, bytes(2000))
    assert clock.now_s - start_s == pytest.approx(2.0, rel=1e-4)
    assert plugin._pace(first) is plugin._pace(second)
    assert plugin._pace(first) is not plugin._pace(exchange_of(consumer=bob.consumer, credential=bob))


async def test_callers_that_are_idle_are_forgotten_when_there_are_too_many(
    make, exchange_of, clock, monkeypatch
) -> None:
    monkeypatch.setattr(bandwidth_limiting, "MAX_CALLERS", 2)
    plugin = make("bandwidth-limiting", {"bytes_per_second": 2000, "by": "ip"})
    busy = plugin._pace(exchange_of(client_ip="192.0.2.1"))
    busy.take(20_000)
    for number in range(2, 6):
        plugin._pace(exchange_of(client_ip=f"192.0.2.{number}"))
    assert plugin._pace(exchange_of(client_ip="192.0.2.1")) is busy
    assert len(plugin._paces) == 2


async def test_an_answer_keeps_its_length_and_its_bytes(registry) -> None:
    body = bytes(range(256)) * 400
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    config = registry.validate("bandwidth-limiting", {"bytes_per_second": 1 << 30})
    async with serving(answering(answer)) as up:
        settings = [setting(BandwidthLimiting, config=config)]
        routing = table([route("r", "/*")], [upstream("up", target(up.port))], [BandwidthLimiting], settings)
        async with Bench(routing) as bench:
            exchange, received = await bench.get("/x")
            assert received == body
            assert headers.get(exchange.response_headers, b"content-length") == b"102400"


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({}, "bytes_per_second"),
        ({"bytes_per_second": 5}, "bytes_per_second"),
        ({"bytes_per_second": 5000, "by": "x"}, "by"),
    ],
)
def test_a_config_that_cannot_work_is_refused_by_field(registry, config, path) -> None:
    with pytest.raises(ConfigProblems) as caught:
        registry.validate("bandwidth-limiting", config)
    assert [problem[0] for problem in caught.value.problems] == [path]
