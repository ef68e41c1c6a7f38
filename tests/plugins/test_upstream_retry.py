from __future__ import annotations

import pytest

from gateway.plugins.registry import ConfigProblems
from gateway.plugins.upstream_retry import UpstreamRetry
from gateway.plugins.upstream_timeout import UpstreamTimeout
from gateway.proxy.snapshot import CarePolicy
from tests.proxy.gatewaying import Bench, route, setting, table, target, upstream
from tests.upstream import OK, Wire, answering, serving

BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy"
RETRYING = {"retries": 2, "retry_statuses": [503], "retry_backoff_ms": 0}


def routing(registry, port, config, *plugins, **changes):
    found = setting(UpstreamRetry, "route", route="r", config=registry.validate("upstream-retry", config))
    routes = [route("r", "/r"), route("plain", "/plain", id=2)]
    return table(routes, [upstream("up", target(port), **changes)], [UpstreamRetry, UpstreamTimeout], [found, *plugins])


async def test_a_route_tries_again_where_its_upstream_does_not(registry) -> None:
    async with serving(answering(BUSY, BUSY, OK)) as up, Bench(routing(registry, up.port, RETRYING)) as bench:
        exchange, body = await bench.get("/r")
        assert (exchange.status, body, exchange.tries) == (200, b"ok", 3)
    async with serving(answering(BUSY)) as up, Bench(routing(registry, up.port, RETRYING)) as bench:
        exchange, body = await bench.get("/plain")
        assert (exchange.status, body, exchange.tries) == (503, b"busy", 1)


async def test_a_route_does_not_try_again_where_its_upstream_does(registry) -> None:
    care = CarePolicy(retry_statuses=frozenset({503}), backoff_s=0)
    changes = {"retries": 3, "care": care}
    async with serving(answering(BUSY)) as up, Bench(routing(registry, up.port, {"retries": 0}, **changes)) as bench:
        assert (await bench.get("/r"))[0].tries == 1
        assert (await bench.get("/plain"))[0].tries == 4


@pytest.mark.parametrize(
    ("config", "method", "tries"),
    [
        ({}, "POST", 1),
        ({"retry_all_methods": True}, "POST", 3),
        ({"methods": ["GET"]}, "GET", 3),
        ({"methods": ["GET"]}, "HEAD", 1),
        ({"methods": ["GET"], "retry_all_methods": True}, "POST", 1),
    ],
)
async def test_which_methods_are_repeated(registry, config, method, tries) -> None:
    async with serving(answering(BUSY)) as up, Bench(routing(registry, up.port, RETRYING | config)) as bench:
        fields = [(b"content-length", b"0")] if method == "POST" else []
        assert (await bench.get("/r", method=method, headers=fields))[0].tries == tries


async def test_a_body_is_sent_again_as_far_as_it_is_kept(registry) -> None:
    async def script(wire: Wire) -> None:
        for answer in (BUSY, OK):
            await wire.head()
            assert await wire.body(5) == b"hello"
            await wire.send(answer)

    for kept, status in ((5, 200), (4, 503)):
        config = RETRYING | {"retry_body_bytes": kept}
        async with serving(script) as up, Bench(routing(registry, up.port, config)) as bench:
            fields = [(b"content-length", b"5")]
            exchange, _ = await bench.get("/r", method="PUT", headers=fields, body=[b"hel", b"lo"], length=5)
            assert exchange.status == status


async def test_it_goes_together_with_other_time_limits(registry) -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        if wire.upstream.connections == 1:
            await wire.left()
        await wire.send(OK)

    limits = registry.validate("upstream-timeout", {"first_byte_timeout_ms": 30})
    hasty = setting(UpstreamTimeout, "route", number=2, route="r", config=limits)
    config = {"retries": 1, "retry_on_timeout": True, "retry_backoff_ms": 0}
    async with serving(script) as up, Bench(routing(registry, up.port, config, hasty)) as bench:
        exchange, body = await bench.get("/r")
        assert (exchange.status, body, exchange.tries) == (200, b"ok", 2)


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"retries": 11}, "retries"),
        ({"retry_statuses": [200]}, "retry_statuses.0"),
        ({"methods": ["get"]}, "methods.0"),
    ],
)
def test_a_config_that_cannot_work_is_refused_by_field(registry, config, path) -> None:
    with pytest.raises(ConfigProblems) as caught:
        registry.validate("upstream-retry", config)
    assert [problem[0] for problem in caught.value.problems] == [path]
