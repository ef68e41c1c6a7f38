from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from gateway.plugins.registry import ConfigProblems
from gateway.plugins.traffic_split import TrafficSplit
from gateway.proxy.exchange import Consumer
from routes.compile import CompileError
from routes.compile import compile as compile_document
from tests.proxy.gatewaying import Bench, route, setting, table, target, upstream
from tests.upstream import answering, serving

UPSTREAMS = {name: upstream(name, target(9000)) for name in ("own", "a", "b", "c")}
HOUR = {"canary": "b", "from_percent": 1, "to_percent": 100, "duration": "1h"}


@pytest.fixture
def split(make):
    def build(config, setting_id=7) -> TrafficSplit:
        plugin = make("traffic-split", config, setting_id)
        plugin.upstreams = UPSTREAMS
        return plugin

    return build


@pytest.fixture
def led(exchange_of):
    """Where a request goes, by name."""

    def ask(plugin, **attributes) -> str:
        exchange = exchange_of(upstream=UPSTREAMS["own"], **attributes)
        plugin.access(exchange)
        return exchange.upstream.name

    return ask


def starting(clock) -> str:
    return datetime.fromtimestamp(clock(), UTC).isoformat()


def consumers(number: int):
    return [Consumer(id=one, username=f"c{one}") for one in range(1, number + 1)]


@pytest.mark.parametrize("sticky", ["none", "consumer"])
async def test_a_canary_grows_from_1_to_100_percent_within_1_percent(split, led, clock, sticky) -> None:
    start_s = clock.now_s
    plugin = split({**HOUR, "start": starting(clock), "sticky": sticky})
    everybody = consumers(20_000)
    for minute in range(0, 61, 5):
        clock.now_s = start_s + 60 * minute
        led_there = sum(led(plugin, consumer=consumer) == "b" for consumer in everybody)
        assert led_there / len(everybody) == pytest.approx((1 + 99 * minute / 60) / 100, abs=0.01)
    clock.now_s += 86_400
    assert {led(plugin, consumer=consumer) for consumer in everybody[:100]} == {"b"}


async def test_who_is_in_a_growing_canary_stays_in_it(split, led, clock) -> None:
    start_s, everybody = clock.now_s, consumers(500)
    plugin = split({**HOUR, "start": starting(clock)})
    inside: set[int] = set()
    for minute in range(0, 61, 3):
        clock.now_s = start_s + 60 * minute
        now = {consumer.id for consumer in everybody if led(plugin, consumer=consumer) == "b"}
        assert inside <= now
        assert now == {consumer.id for consumer in everybody if led(plugin, consumer=consumer) == "b"}
        inside = now
    assert len(inside) == 500


async def test_a_canary_has_nothing_before_its_start_and_shrinks_as_well(split, led, clock) -> None:
    plugin = split({"canary": "b", "from_percent": 100, "to_percent": 0, "start": starting(clock), "duration": "1m"})
    clock.now_s -= 1
    assert led(plugin) == "own"
    clock.now_s += 1
    assert led(plugin) == "b"
    clock.now_s += 60
    assert led(plugin) == "own"


async def test_a_canary_without_start_has_its_share_at_once(split, led) -> None:
    plugin = split({"canary": "b", "to_percent": 25, "sticky": "none"})
    assert Counter(led(plugin) for _ in range(1000))["b"] == pytest.approx(250, abs=3)


async def test_an_end_may_be_said_instead_of_a_duration(split) -> None:
    config = {"canary": "b", "start": "2026-03-01T20:00:00+01:00", "end": "2026-03-01T20:00:00Z"}
    ramp = split(config).config.ramp()
    assert ramp.end_s - ramp.start_s == 3600


@pytest.mark.parametrize("sticky", ["none", "consumer"])
async def test_weights_share_the_traffic(split, led, sticky) -> None:
    weights = [{"upstream": "a", "weight": 70}, {"upstream": "b", "weight": 30}, {"upstream": "c", "weight": 0}]
    plugin = split({"weights": weights, "sticky": sticky})
    counted = Counter(led(plugin, consumer=consumer) for consumer in consumers(20_000))
    assert counted.keys() == {"a", "b"}
    assert counted["a"] == pytest.approx(14_000, abs=200)


@pytest.mark.parametrize(
    ("config", "same", "other"),
    [
        ({}, {"consumer": Consumer(3, "x"), "client_ip": "192.0.2.1"}, {"consumer": Consumer(4, "y")}),
        ({"sticky": "ip"}, {"client_ip": "192.0.2.1"}, {"client_ip": "192.0.2.3"}),
        ({"sticky": "header", "sticky_name": "X-U"}, {"headers": [(b"x-u", b"1")]}, {"headers": [(b"x-u", b"2")]}),
        (
            {"sticky": "cookie", "sticky_name": "sid"},
            {"headers": [(b"cookie", b"a=b; sid=1")]},
            {"headers": [(b"cookie", b"sid=2")]},
        ),
    ],
)
async def test_callers_stay_where_they_are(split, led, config, same, other) -> None:
    """Over settings of other shuffles: always the same for one caller, not always the same for two."""
    weights = [{"upstream": "a", "weight": 1}, {"upstream": "b", "weight": 1}]
    differ = 0
    for setting_id in range(1, 40):
        plugin = split({"weights": weights, **config}, setting_id)
        assert len({led(plugin, **same) for _ in range(3)}) == 1
        differ += led(plugin, **same) != led(plugin, **other)
    assert 5 < differ < 35


async def test_blue_and_green_switch_by_one_field(split, led) -> None:
    assert led(split({"blue": "a", "green": "b"})) == "a"
    assert led(split({"blue": "a", "green": "b", "active": "green"})) == "b"


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({}, "own"),
        ({"headers": [(b"x-beta", b"yes")]}, "b"),
        ({"headers": [(b"x-beta", b"no")]}, "own"),
        ({"headers": [(b"cookie", b"beta=anything")]}, "c"),
        ({"headers": [(b"cookie", b"beta=1"), (b"x-beta", b"yes")]}, "b"),
        ({"consumer": Consumer(11, "alice")}, "a"),
        ({"consumer": Consumer(0, "alice")}, "own"),
    ],
)
async def test_some_requests_always_go_one_way(split, led, attributes, name) -> None:
    pins = [
        {"upstream": "b", "header": "X-Beta", "value": "yes"},
        {"upstream": "c", "cookie": "beta"},
        {"upstream": "a", "consumer": "alice"},
    ]
    assert led(split({"canary": "b", "to_percent": 0, "pins": pins}), **attributes) == name


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({}, ""),
        ({"canary": "a", "blue": "b", "green": "c"}, ""),
        ({"blue": "a"}, ""),
        ({"weights": [{"upstream": "a", "weight": 0}]}, ""),
        ({"canary": "a", "sticky": "header"}, ""),
        ({"canary": "a", "duration": "1h"}, ""),
        ({"canary": "a", "start": "2026-01-01T00:00:00Z", "end": "2025-01-01T00:00:00Z"}, ""),
        ({"canary": "a", "start": "2026-01-01T00:00:00Z", "end": "2027-01-01T00:00:00Z", "duration": 9}, ""),
        ({"canary": "a", "start": "2026-01-01T00:00:00"}, "start"),
        ({"canary": "a", "start": "tomorrow"}, "start"),
        ({"blue": "a", "green": "b", "start": "2026-01-01T00:00:00Z"}, ""),
        ({"canary": "a b"}, "canary"),
        ({"canary": "a", "to_percent": 101}, "to_percent"),
        ({"canary": "a", "pins": [{"upstream": "b"}]}, "pins.0"),
        ({"canary": "a", "pins": [{"upstream": "b", "header": "x", "cookie": "y"}]}, "pins.0"),
        ({"canary": "a", "pins": [{"upstream": "", "header": "x"}]}, "pins.0.upstream"),
    ],
)
def test_a_config_that_cannot_work_is_refused_by_field(registry, config, path) -> None:
    with pytest.raises(ConfigProblems) as caught:
        registry.validate("traffic-split", config)
    assert [problem[0] for problem in caught.value.problems] == [path]


def document(config, *names):
    upstreams = [{"name": name, "targets": [{"host": "10.0.0.1", "port": 80}]} for name in names]
    routes = [{"name": "r", "paths": ["/*"], "upstreams": [{"name": "own"}]}]
    plugins = [{"name": "traffic-split", "route": "r", "config": config}]
    return {"format": 1, "upstreams": upstreams, "routes": routes, "plugins": plugins}


def test_every_upstream_it_names_must_exist(registry) -> None:
    config = {
        "weights": [{"upstream": "own"}, {"upstream": "gone"}],
        "pins": [{"upstream": "lost", "consumer": "alice"}],
    }
    with pytest.raises(CompileError) as caught:
        compile_document(document(config, "own"), registry)
    assert [(problem.field, problem.message) for problem in caught.value.problems] == [
        (("config", "weights", 1, "upstream"), "There is no upstream 'gone'."),
        (("config", "pins", 0, "upstream"), "There is no upstream 'lost'."),
    ]
    compile_document(document(config, "own", "gone", "lost"), registry)


async def test_a_request_goes_there_and_follows_what_discovery_finds(registry) -> None:
    ok = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%s"
    async with serving(answering(ok % b"1")) as first, serving(answering(ok % b"2")) as second:
        config = registry.validate("traffic-split", {"blue": "a", "green": "own", "active": "blue"})
        chosen = upstream("a", target(first.port))
        routing = table(
            [route("r", "/*", to=[("own", 1)])], [upstream("own", target(1)), chosen], [TrafficSplit],
            [setting(TrafficSplit, config=config)],
        )  # fmt: skip
        async with Bench(routing) as bench:
            exchange, body = await bench.get("/x")
            assert (exchange.status, body, exchange.upstream.name) == (200, b"1", "a")
            routing.retarget(lambda one: replace(one, targets=(target(second.port),)) if one.name == "a" else one)
            assert (await bench.get("/x"))[1] == b"2"
