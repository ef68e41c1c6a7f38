from __future__ import annotations

import re
from dataclasses import replace

import pytest

from gateway.plugins.registry import ConfigProblems
from gateway.proxy import headers
from gateway.proxy.errors import RedisUnavailable, Reject


async def passes(plugin, exchange) -> bool:
    try:
        await plugin.access(exchange)
    except Reject:
        return False
    return True


async def test_the_limit_passes_and_the_next_is_refused(make, exchange_of) -> None:
    plugin = make("rate-limiting", {"minute": 3})
    assert [await passes(plugin, exchange_of()) for _ in range(5)] == [True, True, True, False, False]


async def test_a_refusal_says_when_to_come_back(make, exchange_of, clock) -> None:
    plugin, exchange = make("rate-limiting", {"limits": [{"limit": 1, "window": "1m"}]}), exchange_of()
    await plugin.access(exchange_of())
    with pytest.raises(Reject) as caught:
        await plugin.access(exchange)
    plugin.response(exchange)
    wait_s = int(headers.get(exchange.response_headers, b"retry-after"))
    assert (caught.value.status, caught.value.code, caught.value.outcome) == (429, "rate_limited", "rate_limited")
    assert caught.value.detail == f"API rate limit exceeded: 1 per 60 s. Try again in {wait_s} s."
    assert exchange.detail == (
        f"rate-limiting: ip:192.0.2.7 is over 1 per 60 s (sliding-window), room again in {wait_s} s"
    )
    clock.now_s += wait_s - 1
    assert not await passes(plugin, exchange_of())
    clock.now_s += 1
    assert await passes(plugin, exchange_of())


async def test_headers_follow_the_draft_and_the_older_custom(make, exchange_of) -> None:
    limits = [{"limit": 10, "window": "1m", "algorithm": "fixed-window"}]
    limits.append({"limit": 2, "window": 3600, "algorithm": "token-bucket", "burst": 4})
    plugin, exchange = make("rate-limiting", {"limits": limits}), exchange_of(answer=[(b"ratelimit", b"theirs")])
    await plugin.access(exchange)
    plugin.response(exchange)
    assert exchange.response_headers == [
        (b"ratelimit-policy", b'"10-per-60s";q=10;w=60, "2-per-3600s";q=4;w=7200'),
        (b"ratelimit", b'"10-per-60s";r=9;t=60, "2-per-3600s";r=3;t=1800'),
        (b"x-ratelimit-limit", b"4"),
        (b"x-ratelimit-remaining", b"3"),
        (b"x-ratelimit-reset", b"1800"),
    ]


async def test_hidden_headers_leave_retry_after(make, exchange_of) -> None:
    plugin = make("rate-limiting", {"second": 1, "hide_client_headers": True})
    first, second = exchange_of(), exchange_of()
    assert [await passes(plugin, first), await passes(plugin, second)] == [True, False]
    plugin.response(first)
    plugin.response(second)
    assert first.response_headers == []
    assert [name for name, _ in second.response_headers] == [b"retry-after"]


async def test_a_refused_request_takes_nothing_from_the_other_limits(make, exchange_of) -> None:
    plugin = make("rate-limiting", {"minute": 1, "hour": 10})
    last = exchange_of()
    assert [await passes(plugin, e) for e in (exchange_of(), exchange_of(), last)] == [True, False, False]
    plugin.response(last)
    assert b'"10-per-3600s";r=9' in headers.get(last.response_headers, b"ratelimit")


@pytest.mark.parametrize(
    ("config", "attributes", "caller"),
    [
        ({}, {"consumer": "alice"}, "consumer:11"),
        ({}, {}, "ip:192.0.2.7"),
        ({"by": "key"}, {"consumer": "alice"}, "key:5"),
        ({"by": "key"}, {}, "ip:192.0.2.7"),
        ({"by": "ip"}, {"consumer": "alice"}, "ip:192.0.2.7"),
        ({"by": "ip"}, {"client_ip": "2001:db8:1:2:3:4:5:6"}, "ip:2001:db8:1:2::/64"),
        ({"by": "ip"}, {"client_ip": "::ffff:192.0.2.9"}, "ip:192.0.2.9"),
        ({"by": "ip"}, {"client_ip": ""}, "ip:"),
        ({"by": "route"}, {"consumer": "alice"}, "route:3"),
        ({"by": "header", "header_name": "X-Tenant"}, {}, "ip:192.0.2.7"),
    ],
)
async def test_who_is_counted(make, exchange_of, limiter, alice, config, attributes, caller) -> None:
    if attributes.get("consumer"):
        attributes = {"consumer": alice.consumer, "credential": alice}
    await make("rate-limiting", {"minute": 5, **config}, setting_id=9).access(exchange_of(**attributes))
    assert limiter.keys == [f"hg:rl:9:s60000:{caller}"]


async def test_a_header_is_counted_by_value_and_never_shown(make, exchange_of, limiter) -> None:
    plugin = make("rate-limiting", {"minute": 1, "by": "header", "header_name": "X-Tenant"})
    answers = [await passes(plugin, exchange_of(headers=[(b"x-tenant", value)])) for value in (b"a", b"b", b"a")]
    assert answers == [True, True, False]
    assert all(re.fullmatch(r"hg:rl:7:s60000:header:[0-9a-f]{32}", key) for key in limiter.keys)


async def test_two_settings_do_not_share_counters_but_an_edited_one_keeps_its_own(make, exchange_of) -> None:
    first, other = make("rate-limiting", {"minute": 1}), make("rate-limiting", {"minute": 1}, setting_id=8)
    edited = make("rate-limiting", {"minute": 2})
    assert [await passes(plugin, exchange_of()) for plugin in (first, other, edited, edited)] == [
        True, True, True, False,
    ]  # fmt: skip


async def test_consumers_are_counted_apart(make, exchange_of, alice, bob) -> None:
    plugin = make("rate-limiting", {"minute": 1})
    callers = [alice, bob, alice, replace(alice, id=99)]  # the last: another key of the same consumer
    assert [await passes(plugin, exchange_of(consumer=c.consumer, credential=c)) for c in callers] == [
        True, True, False, False,
    ]  # fmt: skip


async def test_without_redis_deny_is_a_503_of_our_own(make, exchange_of, limiter) -> None:
    limiter.down = True
    plugin, exchange = make("rate-limiting", {"minute": 1, "on_error": "deny"}), exchange_of()
    with pytest.raises(RedisUnavailable):
        await plugin.access(exchange)
    plugin.response(exchange)
    assert exchange.response_headers == []


async def test_without_redis_allow_lets_through_and_promises_nothing(make, exchange_of, limiter) -> None:
    limiter.down = True
    plugin, exchange = make("rate-limiting", {"minute": 1, "on_error": "allow"}), exchange_of()
    assert [await passes(plugin, exchange_of()), await passes(plugin, exchange)] == [True, True]
    plugin.response(exchange)
    assert exchange.response_headers == []


async def test_without_redis_each_worker_counts_by_default(make, exchange_of, limiter) -> None:
    limiter.down = True
    plugin = make("rate-limiting", {"minute": 1})
    assert [await passes(plugin, exchange_of()) for _ in range(2)] == [True, False]


async def test_status_and_sentence_can_be_chosen(make, exchange_of) -> None:
    plugin = make("rate-limiting", {"minute": 1, "error_code": 503, "error_message": "Slow down."})
    await plugin.access(exchange_of())
    with pytest.raises(Reject) as caught:
        await plugin.access(exchange_of())
    assert (caught.value.status, caught.value.detail, caught.value.outcome) == (503, "Slow down.", "rate_limited")


@pytest.mark.parametrize(
    ("window", "seconds"), [("60s", 60), ("1m", 60), ("2h", 7200), ("1d", 86_400), ("30", 30), (5, 5), (1.5, 1.5)]
)
def test_windows_can_be_written_for_people(registry, window, seconds) -> None:
    config = registry.validate("rate-limiting", {"limits": [{"limit": 1, "window": window}]})
    assert config.all_limits()[0].window_s == seconds


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({}, ""),
        ({"minute": 0}, "minute"),
        ({"minute": 1_000_001}, "minute"),
        ({"limits": [{"limit": 1, "window": "soon"}]}, "limits.0.window"),
        ({"limits": [{"limit": 1, "window": 0.5}]}, "limits.0.window"),
        ({"limits": [{"limit": 1, "window": "32d"}]}, "limits.0.window"),
        ({"limits": [{"limit": 1, "window": 1, "burst": 2}]}, "limits.0"),
        ({"limits": [{"limit": 1, "window": 60}], "minute": 1}, ""),
        ({"minute": 1, "by": "header"}, ""),
        ({"minute": 1, "header_name": "X-A"}, ""),
        ({"minute": 1, "by": "header", "header_name": "x y"}, "header_name"),
        ({"minute": 1, "error_code": 200}, "error_code"),
        ({"minute": 1, "policy": "redis"}, "policy"),
    ],
)
def test_a_config_that_cannot_work_is_refused_by_field(registry, config, path) -> None:
    with pytest.raises(ConfigProblems) as caught:
        registry.validate("rate-limiting", config)
    assert [problem[0] for problem in caught.value.problems] == [path]
