from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.plugins.registry import ConfigProblems
from gateway.plugins.upstream_timeout import UpstreamTimeout
from tests.proxy.gatewaying import Bench, route, setting, table, target, upstream
from tests.upstream import OK, Wire, answering, serving


async def silent(wire: Wire) -> None:
    await wire.head()
    await wire.left()


async def halting(wire: Wire) -> None:
    await wire.head()
    await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab")
    await wire.left()


def routing(registry, port, config, **changes):
    return table(
        [route("hasty", "/hasty"), route("plain", "/plain", id=2)], [upstream("up", target(port), **changes)],
        [UpstreamTimeout],
        [setting(UpstreamTimeout, "route", route="hasty", config=registry.validate("upstream-timeout", config))],
    )  # fmt: skip


@pytest.mark.parametrize("field", ["first_byte_timeout_ms", "total_timeout_ms"])
async def test_a_route_may_have_less_patience_than_its_upstream(registry, field) -> None:
    changes = {"first_byte_timeout_s": 60.0, "retries": 0}
    async with serving(silent) as up, Bench(routing(registry, up.port, {field: 30}, **changes)) as bench:
        exchange, _ = await bench.get("/hasty")
        assert (exchange.status, exchange.outcome, exchange.tries) == (504, "upstream_timeout", 1)


async def test_a_route_may_have_more_patience_than_its_upstream(registry) -> None:
    changes = {"first_byte_timeout_s": 0.001, "retries": 0}

    async def late(wire: Wire) -> None:
        await wire.head()
        if wire.upstream.connections == 1:  # the plain route's: it waits in vain
            await wire.left()
        await wire.send(OK)

    async with (
        serving(late) as up,
        Bench(routing(registry, up.port, {"first_byte_timeout_ms": 5000}, **changes)) as bench,
    ):
        assert (await bench.get("/plain"))[0].status == 504
        assert (await bench.get("/hasty"))[1] == b"ok"


async def test_between_two_pieces_of_an_answer(registry) -> None:
    async with serving(halting) as up, Bench(routing(registry, up.port, {"idle_timeout_ms": 30})) as bench:
        with pytest.raises(Exception, match="in time"):
            await bench.get("/hasty")


async def test_targets_and_their_health_are_the_upstreams(registry) -> None:
    async with serving(answering(OK)) as up:
        plain = routing(registry, up.port, {"first_byte_timeout_ms": 900})
        async with Bench(plain) as bench:
            for path in ("/hasty", "/plain", "/hasty", "/plain"):
                assert (await bench.get(path))[1] == b"ok"
            (report,) = bench.forwarder.balancer.reports()
            assert (report.upstream, report.in_flight) == ("up", 0)
            assert up.connections == 2, "one for each set of time limits"


async def test_an_upstream_is_changed_once_and_again_when_another_takes_its_place(make, exchange_of) -> None:
    plugin, configured = make("upstream-timeout", {"idle_timeout_ms": 7}), upstream("up", target(1))
    found = []
    for one in (configured, configured, replace(configured, retries=9)):
        exchange = exchange_of(upstream=one)
        plugin.access(exchange)
        found.append(exchange.upstream)
    assert found[0] is found[1]
    assert found[2] is not found[0]
    assert [(one.idle_timeout_s, one.connect_timeout_s, one.retries, one.name) for one in found] == [
        (0.007, 1.0, 1, "up"), (0.007, 1.0, 1, "up"), (0.007, 1.0, 9, "up"),
    ]  # fmt: skip
    assert found[0].base is configured


@pytest.mark.parametrize(
    ("config", "path"),
    [({}, ""), ({"connect_timeout_ms": 0}, "connect_timeout_ms"), ({"read_timeout": 5}, "read_timeout")],
)
def test_a_config_that_cannot_work_is_refused_by_field(registry, config, path) -> None:
    with pytest.raises(ConfigProblems) as caught:
        registry.validate("upstream-timeout", config)
    assert path in [problem[0] for problem in caught.value.problems]
