from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.plugins.base import Plugin
from gateway.plugins.concurrency_limiting import ConcurrencyLimiting, ConcurrencyLimitingConfig
from gateway.plugins.registry import ConfigProblems
from gateway.proxy.errors import Reject, UpstreamError
from gateway.proxy.exchange import Consumer, Exchange
from gateway.proxy.headers import get
from tests.proxy.gatewaying import Bench, NoConfig, request, route, setting, table, target, upstream
from tests.upstream import OK, Wire, answering, serving, until


def passes(plugin: Any, exchange: Exchange) -> bool:
    try:
        plugin.access(exchange)
    except Reject:
        return False
    return True


def test_the_next_is_refused_until_one_has_ended(make, exchange_of) -> None:
    plugin = make("concurrency-limiting", {"max_in_flight": 2, "retry_after_s": 7})
    first, second, third = exchange_of(), exchange_of(), exchange_of()
    assert [passes(plugin, exchange) for exchange in (first, second)] == [True, True]
    with pytest.raises(Reject) as caught:
        plugin.access(third)
    assert (caught.value.status, caught.value.code) == (429, "concurrency_limited")
    assert caught.value.headers == ((b"retry-after", b"7"),)
    assert third.detail == "concurrency-limiting: ip:192.0.2.7 has 2 requests under way"
    plugin.log(third)  # counted for nothing
    assert not passes(plugin, exchange_of())
    plugin.log(first)
    plugin.log(first)
    assert [passes(plugin, exchange_of()) for _ in range(2)] == [True, False]


def test_the_refusal_can_be_worded(make, exchange_of) -> None:
    plugin = make("concurrency-limiting", {"max_in_flight": 1, "error_code": 503, "error_message": "Busy."})
    plugin.access(exchange_of())
    with pytest.raises(Reject) as caught:
        plugin.access(exchange_of())
    assert (caught.value.status, caught.value.detail) == (503, "Busy.")


@pytest.mark.parametrize(
    ("by", "other", "together"),
    [
        ("consumer", {"consumer": Consumer(2, "bob")}, False),
        ("consumer", {"client_ip": "198.51.100.1"}, True),
        ("ip", {"consumer": Consumer(2, "bob")}, True),
        ("ip", {"client_ip": "198.51.100.1"}, False),
        ("key", {"client_ip": "198.51.100.1"}, False),
        ("route", {"consumer": Consumer(2, "bob"), "client_ip": "198.51.100.1"}, True),
    ],
)
def test_callers_are_told_apart(make, exchange_of, by, other, together) -> None:
    plugin = make("concurrency-limiting", {"max_in_flight": 1, "by": by})
    ann = {"consumer": Consumer(1, "ann"), "client_ip": "192.0.2.7"}
    plugin.access(exchange_of(**ann))
    assert passes(plugin, exchange_of(**ann | other)) == (not together)


def test_nothing_is_kept_of_callers_that_are_gone(make, exchange_of) -> None:
    plugin = make("concurrency-limiting", {"max_in_flight": 1})
    for number in range(100):
        exchange = exchange_of(client_ip=f"192.0.2.{number}")
        plugin.access(exchange)
        plugin.log(exchange)
    assert plugin.resources.under_way == {}


def test_an_edit_of_the_setting_forgets_nothing(make, exchange_of) -> None:
    before = make("concurrency-limiting", {"max_in_flight": 1})
    under_way = exchange_of()
    before.access(under_way)
    after = ConcurrencyLimiting(ConcurrencyLimitingConfig(max_in_flight=1), before.resources, before.setting_id)
    assert not passes(after, exchange_of())
    before.log(under_way)
    assert passes(after, exchange_of())


# --- whatever ends a request frees its place --------------------------------------------------------------------------


class Broken(Plugin):
    """Runs after it."""

    name = "zz-broken"
    Config = NoConfig

    def response(self, exchange: Exchange) -> None:
        if get(exchange.headers, b"x-break") is not None:
            raise RuntimeError("a mistake in a plugin")


def bench(port: int) -> Bench:
    settings = [
        setting(ConcurrencyLimiting, config=ConcurrencyLimitingConfig(max_in_flight=1)),
        setting(Broken, number=2),
    ]
    only = [upstream("up", target(port), retries=0, first_byte_timeout_s=0.2)]
    return Bench(table([route("r")], only, [ConcurrencyLimiting, Broken], settings))


async def silent(wire: Wire) -> None:
    await wire.head()
    await wire.left()


async def cut(wire: Wire) -> None:
    await wire.head()
    await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nhalf")
    wire.reset()


@pytest.mark.parametrize(
    ("script", "fields", "status"),
    [(answering(OK), [], 200), (silent, [], 504), (answering(OK), [(b"x-break", b"1")], 500)],
)
async def test_an_answer_or_an_error_does(script, fields, status) -> None:
    async with serving(script) as up, bench(up.port) as running:
        for _ in range(3):
            exchange, _ = await running.get("/", headers=fields)
            assert exchange.status == status


async def test_no_upstream_does() -> None:
    async with bench(1) as running:
        assert [(await running.get("/"))[0].status for _ in range(3)] == [502] * 3


async def test_an_answer_counts_until_its_last_byte_and_a_cut_one_ends() -> None:
    async with serving(cut) as up, bench(up.port) as running:
        exchange = request("/")
        await running.pipeline.handle(exchange)
        assert (await running.get("/"))[0].status == 429  # the first is still being read
        assert not isinstance(exchange.answer_body, bytes)
        with pytest.raises(UpstreamError):
            async for _ in exchange.answer_body:
                pass
        await running.pipeline.finish(exchange, "upstream_broke")
        assert (await running.get("/broken-off", headers=[(b"x-break", b"1")]))[0].status == 500


async def test_a_client_that_leaves_does() -> None:
    async with serving(silent) as up, bench(up.port) as running:
        exchange = request("/")
        handling = asyncio.create_task(running.pipeline.handle(exchange))
        await until(lambda: up.heads)
        refused, body = await running.get("/")
        assert (refused.status, refused.outcome) == (429, "rejected")
        assert b"At most 1 requests at the same time" in body
        handling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handling
        await running.pipeline.finish(exchange, "client_closed")
        assert (await running.get("/"))[0].status == 504  # it got through


@pytest.mark.parametrize("config", [
    {}, {"max_in_flight": 0}, {"max_in_flight": 1, "by": "header"}, {"max_in_flight": 1, "error_code": 200},
])  # fmt: skip
def test_what_cannot_work_is_refused(registry, config) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("concurrency-limiting", config)
