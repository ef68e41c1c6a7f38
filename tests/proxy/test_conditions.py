"""`when`: a plugin takes part in the requests its setting is for, in all of its phases, and in no others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.plugins.base import Plugin
from gateway.proxy.conditions import Conditional
from gateway.proxy.errors import AmbiguousPath, Reject
from gateway.proxy.exchange import Answer, Consumer, Exchange
from gateway.proxy.headers import get_all
from gateway.proxy.paths import is_plain, normalise
from gateway.proxy.snapshot import When
from tests.proxy.gatewaying import NOTHING, Bench, NoConfig, request, route, setting, table, upstream


class Stamp(Plugin):
    """Leaves its name in every phase."""

    name = "stamp"
    Config = NoConfig

    def access(self, exchange: Exchange) -> None:
        exchange.notes["access"] = True

    async def response(self, exchange: Exchange) -> None:
        assert exchange.response_headers is not None
        exchange.response_headers.append((b"x-stamped", b"1"))

    async def body(self, exchange: Exchange, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk.upper()

    def log(self, exchange: Exchange) -> None:
        exchange.notes["log"] = True


class Late(Plugin):
    """Has no access hook."""

    name = "late"
    Config = NoConfig

    def response(self, exchange: Exchange) -> None:
        assert exchange.response_headers is not None
        exchange.response_headers.append((b"x-stamped", b"1"))


class Strip(Plugin):
    """Takes away what the conditions after it look at."""

    name = "strip"
    Config = NoConfig

    def access(self, exchange: Exchange) -> Answer:
        exchange.headers.clear()
        return Answer(200, body=b"ok")


class Refuse(Plugin):
    name = "refuse"
    Config = NoConfig

    def access(self, exchange: Exchange) -> None:
        raise Reject(403, "acl_denied", "No.")


def judged(when: When, target: str = "/", *, groups: set[str] | None = None, peer: str = "", **fields: Any) -> bool:
    exchange = request(target, **fields)
    raw = exchange.raw_path
    exchange.plain = is_plain(raw)
    exchange.path = normalise(raw)
    exchange.client_ip = peer or exchange.client_ip
    exchange.consumer = None if groups is None else Consumer(1, "a", groups=frozenset(groups))
    plugin = Stamp(NoConfig(), NOTHING)
    Conditional(plugin, when).access(exchange)
    return "access" in exchange.notes


@pytest.mark.parametrize(
    ("when", "fields", "holds"),
    [
        (When(methods=frozenset({"POST"})), {"method": "POST"}, True),
        (When(methods=frozenset({"POST"})), {}, False),
        (When(headers=(("x-beta", ""),)), {"headers": [(b"x-beta", b"")]}, True),
        (When(headers=(("x-beta", ""),)), {}, False),
        (When(headers=(("x-beta", "^(a|b)$"),)), {"headers": [(b"x-beta", b"c"), (b"x-beta", b"b")]}, True),
        (When(headers=(("x-beta", "^(a|b)$"),)), {"headers": [(b"x-beta", b"ab")]}, False),
        (When(headers=(("x-a", ""), ("x-b", ""))), {"headers": [(b"x-a", b"")]}, False),
        (When(groups=frozenset({"gold"})), {"groups": {"gold", "eu"}}, True),
        (When(groups=frozenset({"gold"})), {"groups": {"eu"}}, False),
        (When(groups=frozenset({"gold"})), {}, False),
        (When(networks=("10.0.0.0/8", "2001:db8::/32")), {"peer": "10.1.2.3"}, True),
        (When(networks=("10.0.0.0/8", "2001:db8::/32")), {"peer": "2001:db8::7"}, True),
        (When(networks=("10.0.0.0/8",)), {"peer": "::ffff:10.1.2.3"}, True),
        (When(networks=("10.0.0.0/8",)), {"peer": "192.0.2.1"}, False),
        (When(networks=("0.0.0.0/0", "::/0")), {"peer": "unix"}, False),
        (When(paths=("/users/*", "/me")), {"target": "/users/7"}, True),
        (When(paths=("/users/*", "/me")), {"target": "/me?a=1"}, True),
        (When(paths=("/users/{id}",)), {"target": "/users/7/x"}, False),
        (When(paths=("~^/v[0-9]+/",)), {"target": "/v2/x"}, True),
        (When(paths=("/users",)), {"target": "/%75sers"}, True),
        (When(methods=frozenset({"GET"}), paths=("/a",)), {"target": "/b"}, False),
    ],
)
def test_all_kinds_have_to_hold_and_of_each_any(when: When, fields: dict[str, Any], holds: bool) -> None:
    assert judged(when, **fields) is holds


def test_a_path_that_may_be_read_otherwise_is_refused_rather_than_let_pass() -> None:
    with pytest.raises(AmbiguousPath):
        judged(When(paths=("/admin/*",)), "/x%2f..%2fadmin/y")


@pytest.mark.parametrize(("target", "holds"), [("/in/x", True), ("/out/x", False)])
async def test_every_phase_follows_and_asks_once(target: str, holds: bool) -> None:
    rule = setting(Stamp, number=2, when=When(paths=("/in/*",), headers=(("x-a", ""),)))
    routing = table([route("r", "/*")], [upstream("up")], [Stamp, Strip], [rule, setting(Strip, number=3)])
    async with Bench(routing) as bench:
        exchange, body = await bench.get(target, headers=[(b"x-a", b"1")])
    assert exchange.response_headers is not None
    assert bool(get_all(exchange.response_headers, b"x-stamped")) is holds
    assert body == (b"OK" if holds else b"ok")
    assert ("access" in exchange.notes, "log" in exchange.notes) == (holds, holds)


@pytest.mark.parametrize("first", [[], [Refuse]])
@pytest.mark.parametrize(("method", "holds"), [("POST", True), ("GET", False)])
async def test_one_without_an_access_hook_is_judged_too(first: list[type[Plugin]], method: str, holds: bool) -> None:
    rule = setting(Late, number=2, when=When(methods=frozenset({"POST"})))
    plugins = [*first, Late, Strip]
    others = [setting(plugin, number=9 + n) for n, plugin in enumerate([*first, Strip])]
    async with Bench(table([route("r", "/*")], [upstream("up")], plugins, [rule, *others])) as bench:
        exchange, _ = await bench.get("/x", method=method)
    assert exchange.response_headers is not None
    assert bool(get_all(exchange.response_headers, b"x-stamped")) is holds


def test_a_setting_without_conditions_costs_nothing() -> None:
    routing = table([route("r", "/*")], [upstream("up")], [Stamp], [setting(Stamp)])
    branch = routing.index.match("", "/x", b"", "GET", [], b"").value.choose(lambda: 0.5)  # type: ignore[union-attr]
    assert [type(hook.__self__) for hook in branch.chain_for(0).access] == [Stamp]  # type: ignore[attr-defined]
