from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.plugins.periods import period
from gateway.plugins.registry import ConfigProblems
from gateway.proxy import headers
from gateway.proxy.errors import RedisUnavailable, Reject


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


async def passes(plugin, exchange) -> bool:
    try:
        await plugin.access(exchange)
    except Reject:
        return False
    return True


@pytest.mark.parametrize(
    ("unit", "reset_day", "now", "start", "end"),
    [
        ("day", 1, "2026-03-01T00:00:00", "2026-03-01", "2026-03-02"),
        ("day", 9, "2026-02-28T23:59:59", "2026-02-28", "2026-03-01"),
        ("month", 1, "2026-02-14T12:00:00", "2026-02-01", "2026-03-01"),
        ("month", 1, "2026-12-31T23:59:59", "2026-12-01", "2027-01-01"),
        ("month", 15, "2026-01-14T23:59:59", "2025-12-15", "2026-01-15"),
        ("month", 15, "2026-01-15T00:00:00", "2026-01-15", "2026-02-15"),
        ("month", 28, "2026-03-01T00:00:00", "2026-02-28", "2026-03-28"),
    ],
)
def test_periods_of_the_calendar(unit, reset_day, now, start, end) -> None:
    assert period(unit, at(now), reset_day) == (unit, at(start), at(end))


async def test_a_month_is_used_up_and_begins_anew(make, exchange_of, alice, clock) -> None:
    clock.now_s = at("2026-02-14T23:59:50")
    plugin = make("quota", {"month": 2, "reset_day": 15})
    caller = {"consumer": alice.consumer, "credential": alice}
    assert [await passes(plugin, exchange_of(**caller)) for _ in range(3)] == [True, True, False]
    clock.now_s += 9.9
    assert not await passes(plugin, exchange_of(**caller))
    clock.now_s += 0.1
    assert [await passes(plugin, exchange_of(**caller)) for _ in range(3)] == [True, True, False]


async def test_a_refusal_says_when_it_is_full_again(make, exchange_of, alice, clock) -> None:
    clock.now_s = at("2026-02-14T12:00:00.5")
    plugin = make("quota", {"day": 1, "month": 100})
    exchange = exchange_of(consumer=alice.consumer, credential=alice)
    await plugin.access(exchange)
    with pytest.raises(Reject) as caught:
        await plugin.access(exchange)
    plugin.response(exchange)
    assert (caught.value.status, caught.value.code) == (429, "quota_exceeded")
    assert caught.value.detail == "Your quota of 1 per day is used up. It is full again at 2026-02-15T00:00:00Z."
    assert exchange.detail == "quota: consumer:11 has used 1 per day, full again at 2026-02-15T00:00:00Z"
    assert headers.get(exchange.response_headers, b"retry-after") == b"43200"
    assert headers.get(exchange.response_headers, b"ratelimit-policy") == (
        b'"1-per-day";q=1;w=86400, "100-per-month";q=100;w=2419200'
    )
    assert b'"1-per-day";r=0;t=43200, "100-per-month";r=99' in headers.get(exchange.response_headers, b"ratelimit")


async def test_counters_are_named_by_setting_period_and_caller(make, exchange_of, alice, limiter, clock) -> None:
    clock.now_s = at("2026-02-14T12:00:00")
    exchange = exchange_of(consumer=alice.consumer, credential=alice)
    await make("quota", {"day": 9, "month": 9, "reset_day": 20}, setting_id=4).access(exchange)
    await make("quota", {"day": 9, "by": "key"}).access(exchange)
    assert limiter.keys == [
        "hg:quota:4:day:20260214:consumer:11", "hg:quota:4:month:20260120:consumer:11", "hg:quota:7:day:20260214:key:5",
    ]  # fmt: skip


async def test_hidden_headers_leave_retry_after(make, exchange_of) -> None:
    plugin, exchange = make("quota", {"day": 1, "hide_client_headers": True}), exchange_of()
    assert [await passes(plugin, exchange_of()), await passes(plugin, exchange)] == [True, False]
    plugin.response(exchange)
    assert [name for name, _ in exchange.response_headers] == [b"retry-after"]


async def test_without_redis(make, exchange_of, limiter) -> None:
    limiter.down = True
    with pytest.raises(RedisUnavailable):
        await make("quota", {"day": 1, "on_error": "deny"}).access(exchange_of())
    allowing, counting = make("quota", {"day": 1, "on_error": "allow"}), make("quota", {"day": 1})
    assert [await passes(allowing, exchange_of()) for _ in range(2)] == [True, True]
    assert [await passes(counting, exchange_of()) for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("config", "path"),
    [({}, ""), ({"day": 0}, "day"), ({"month": 5, "reset_day": 29}, "reset_day"), ({"day": 1, "by": "ip"}, "by")],
)
def test_a_config_that_cannot_work_is_refused_by_field(registry, config, path) -> None:
    with pytest.raises(ConfigProblems) as caught:
        registry.validate("quota", config)
    assert [problem[0] for problem in caught.value.problems] == [path]
