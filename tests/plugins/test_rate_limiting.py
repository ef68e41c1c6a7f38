from __future__ import annotations

import re
from dataclasses import replace

import pytest

from gateway.plugins import rate_limiting
from gateway.plugins.dryruns import DryRun, note
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


@pytest.mark.parametrize("algorithm", ["token-bucket", "leaky-bucket", "sliding-window", "fixed-window"])
@pytest.mark.parametrize(
    ("field", "seconds"),
    [("second", 1), ("minute", 60), ("hour", 3600), ("day", 86_400), ("month", 2_592_000), ("year", 31_536_000)],
)
async def test_kongs_windows_hold_with_every_algorithm(make, exchange_of, clock, algorithm, field, seconds) -> None:
    clock.now_s -= clock.now_s % seconds
    plugin = make("rate-limiting", {field: 2, "algorithm": algorithm})
    assert [await passes(plugin, exchange_of()) for _ in range(3)] == [True, True, False]
    clock.now_s += seconds / 2 - 0.001
    assert not await passes(plugin, exchange_of())
    clock.now_s += seconds / 2 + 0.002
    assert await passes(plugin, exchange_of())


async def test_a_leaky_bucket_may_let_those_who_pass_wait(make, exchange_of, clock, monkeypatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))

    monkeypatch.setattr(rate_limiting.asyncio, "sleep", sleep)
    bucket = {"limit": 10, "window": "1s", "algorithm": "leaky-bucket", "burst": 4, "delay": True}
    plugin = make("rate-limiting", {"limits": [bucket, {"limit": 100, "window": "1m"}]})
    assert [await passes(plugin, exchange_of()) for _ in range(5)] == [True] * 4 + [False]
    assert slept == [0.1, 0.2, 0.3]
    clock.now_s += 0.25
    assert [await passes(plugin, exchange_of()) for _ in range(3)] == [True, True, False]
    assert slept[3:] == [0.15, 0.25]
    clock.now_s += 1
    assert await passes(plugin, exchange_of())
    assert len(slept) == 5


# --- cost -------------------------------------------------------------------------------------------------------------


async def test_a_request_takes_what_it_costs_or_nothing(make, exchange_of) -> None:
    plugin = make("rate-limiting", {"minute": 10, "cost": 4})
    last = exchange_of()
    assert [await passes(plugin, exchange) for exchange in (exchange_of(), exchange_of(), last)] == [True, True, False]
    plugin.response(last)
    assert headers.get(last.response_headers, b"x-ratelimit-remaining") == b"2"


@pytest.mark.parametrize(
    ("values", "left"),
    [
        ([b"3"], 7), ([b"0"], 9), ([], 8), ([b"-1"], 8), ([b"1.5"], 8), ([b"x"], 8), ([b"1", b"1"], 8),
        ([b"5"], 5), ([b"6"], 5), ([b"99999999999"], 5),
    ],
)  # fmt: skip
async def test_a_header_says_the_cost_within_bounds(make, exchange_of, values, left) -> None:
    plugin = make("rate-limiting", {"minute": 10, "cost": 2, "cost_header": "X-Cost", "max_cost": 5})
    exchange = exchange_of(headers=[(b"x-cost", value) for value in values])
    await plugin.access(exchange)
    plugin.response(exchange)
    assert headers.get(exchange.response_headers, b"x-ratelimit-remaining") == str(left).encode()


async def test_no_cost_is_more_than_the_smallest_limit_holds(make, exchange_of) -> None:
    plugin = make("rate-limiting", {"minute": 10, "hour": 50, "cost_header": "X-Cost"})
    costly = [(b"x-cost", b"1000")]
    assert [await passes(plugin, exchange_of(headers=costly)) for _ in range(2)] == [True, False]


# --- shared -----------------------------------------------------------------------------------------------------------


async def test_settings_of_one_name_count_together(make, exchange_of, limiter) -> None:
    here = make("rate-limiting", {"minute": 2, "shared": "search"})
    there = make("rate-limiting", {"minute": 2, "shared": "search"}, setting_id=8)
    apart = make("rate-limiting", {"minute": 2}, setting_id=9)
    answers = [await passes(plugin, exchange_of()) for plugin in (here, there, here, there, apart)]
    assert answers == [True, True, False, False, True]
    assert set(limiter.keys) == {"hg:rl:@search:s60000:ip:192.0.2.7", "hg:rl:9:s60000:ip:192.0.2.7"}


async def test_a_shared_limit_by_route_counts_everybody_on_all_of_its_routes(make, exchange_of, limiter) -> None:
    await make("rate-limiting", {"minute": 2, "shared": "all", "by": "route"}).access(exchange_of())
    assert limiter.keys == ["hg:rl:@all:s60000:everybody"]


# --- overrides --------------------------------------------------------------------------------------------------------

OVERRIDES = [
    {"group": "beta", "minute": 2},
    {"group": "gold", "minute": 3},
    {"consumer": "alice", "minute": 4},
    {"key_prefix": "hg_test_", "unlimited": True},
]


@pytest.mark.parametrize(
    ("changes", "passing"),
    [
        ({}, 4),  # a consumer's go before its groups'
        ({"username": "carol"}, 2),  # the first group that fits
        ({"username": "carol", "groups": frozenset({"gold"})}, 3),
        ({"username": "carol", "groups": frozenset()}, 1),
        ({"id": 0, "groups": frozenset()}, 1),  # a name only a token says
    ],
)
async def test_some_callers_have_other_limits(make, exchange_of, alice, changes, passing) -> None:
    plugin = make("rate-limiting", {"minute": 1, "overrides": OVERRIDES})
    consumer = replace(alice.consumer, **changes)
    answers = [
        await passes(plugin, exchange_of(consumer=consumer, credential=replace(alice, consumer=consumer)))
        for _ in range(6)
    ]
    assert answers == [True] * passing + [False] * (6 - passing)


async def test_a_keys_override_goes_first_and_may_lift_all_limits(make, exchange_of, alice, limiter) -> None:
    plugin = make("rate-limiting", {"minute": 1, "overrides": OVERRIDES})
    testing = replace(alice, hint="hg_test_wxyz")
    exchange = exchange_of(consumer=alice.consumer, credential=testing)
    assert [await passes(plugin, exchange) for _ in range(9)] == [True] * 9
    plugin.response(exchange)
    assert exchange.response_headers == []
    assert limiter.keys == []
    token = replace(testing, kind="jwt")  # what looks like a key's beginning is not one
    exchange = exchange_of(consumer=alice.consumer, credential=token)
    assert [await passes(plugin, exchange) for _ in range(5)] == [True] * 4 + [False]
    assert await passes(plugin, exchange_of())
    assert not await passes(plugin, exchange_of())


async def test_headers_tell_of_the_callers_own_limits(make, exchange_of, alice) -> None:
    plugin = make("rate-limiting", {"minute": 1, "overrides": [{"consumer": "alice", "hour": 9}]})
    exchange = exchange_of(consumer=alice.consumer, credential=alice)
    await plugin.access(exchange)
    plugin.response(exchange)
    assert headers.get(exchange.response_headers, b"ratelimit-policy") == b'"9-per-3600s";q=9;w=3600'


# --- dry run ----------------------------------------------------------------------------------------------------------


async def test_a_dry_run_counts_and_tells_and_refuses_nobody(make, exchange_of) -> None:
    plugin, first, second = make("rate-limiting", {"minute": 1, "dry_run": True}), exchange_of(), exchange_of()
    assert plugin.dry_run
    for exchange in (first, second):
        await DryRun(plugin).access(exchange)
        plugin.response(exchange)
        note(exchange)
    assert [headers.get(e.response_headers, b"x-ratelimit-dry-run") for e in (first, second)] == [b"pass", b"refuse"]
    assert headers.get(second.response_headers, b"retry-after") is None
    assert headers.get(second.response_headers, b"x-ratelimit-remaining") == b"0"
    assert first.detail == ""
    assert re.fullmatch(
        r"Dry run: rate-limiting would refuse \(429 rate_limited\): "
        r"ip:192\.0\.2\.7 is over 1 per 60 s \(sliding-window\), room again in \d+ s",
        second.detail,
    )


async def test_a_dry_run_refuses_nobody_without_redis_either(make, exchange_of, limiter) -> None:
    limiter.down = True
    for on_error in ("deny", "allow", "local"):
        plugin = make("rate-limiting", {"minute": 1, "dry_run": True, "on_error": on_error})
        for _ in range(3):
            await DryRun(plugin).access(exchange_of())


@pytest.mark.parametrize(
    ("window", "seconds"),
    [("60s", 60), ("1m", 60), ("2h", 7200), ("1d", 86_400), ("4w", 2_419_200), ("30", 30), (5, 5), (1.5, 1.5)],
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
        ({"limits": [{"limit": 1, "window": "367d"}]}, "limits.0.window"),
        ({"limits": [{"limit": 1_000_000, "window": "366d", "algorithm": "leaky-bucket"}]}, "limits.0"),
        ({"limits": [{"limit": 5, "window": 5, "delay": True}]}, "limits.0"),
        ({"limits": [{"limit": 5, "window": "2m", "algorithm": "leaky-bucket", "delay": True}]}, "limits.0"),
        ({"year": 1_000_000, "algorithm": "token-bucket"}, ""),
        ({"minute": 5, "cost": 6}, ""),
        ({"minute": 5, "max_cost": 6}, ""),
        ({"minute": 5, "cost": 3, "overrides": [{"group": "g", "minute": 2}]}, ""),
        ({"minute": 5, "overrides": [{"minute": 5}]}, "overrides.0"),
        ({"minute": 5, "overrides": [{"group": "g", "consumer": "c", "minute": 5}]}, "overrides.0"),
        ({"minute": 5, "overrides": [{"group": "g"}]}, "overrides.0"),
        ({"minute": 5, "overrides": [{"group": "g", "unlimited": True, "day": 1}]}, "overrides.0"),
        ({"minute": 5, "shared": "a:b"}, "shared"),
        ({"limits": [{"limit": 5, "window": 5, "algorithm": "period"}]}, "limits.0.algorithm"),
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
