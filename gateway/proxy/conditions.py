"""`when`: which requests a plugin's setting is for. A setting without it never comes here.

A request is judged once, when the plugin's turn comes in the access phase; its later hooks find the same answer,
whatever was edited in between. A setting that is not for a request does not let a less specific one step in. Conditions
of different kinds all have to hold; of one kind, any of them, but of header fields each.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from gateway.plugins.base import Forward, Plugin
from gateway.proxy.errors import AmbiguousPath
from gateway.proxy.exchange import Answer, Exchange
from gateway.proxy.expressions import compiled
from gateway.proxy.match import Index
from gateway.proxy.snapshot import RouteSpec, When

Test = Callable[[Exchange], bool]
MAX_REMEMBERED = 4096  # addresses


class Conditional:
    """A plugin that takes part in some requests only. Has its hooks, and always `access`, to judge early."""

    def __init__(self, plugin: Plugin, when: When) -> None:
        self.plugin, self.name = plugin, plugin.name
        self._tests = _tests(when)
        self._hooks = plugin.hooks()
        self.dry_run = plugin.dry_run

    def hooks(self) -> tuple[str, ...]:
        return ("access", *(hook for hook in self._hooks if hook != "access"))

    def access(self, exchange: Exchange) -> Answer | Awaitable[Answer | None] | None:
        """Raises AmbiguousPath where another reading of the path would be judged otherwise."""
        holds = exchange.notes[self] = all(test(exchange) for test in self._tests)
        return self.plugin.access(exchange) if holds and "access" in self._hooks else None

    async def forward(self, exchange: Exchange, onwards: Forward) -> None:
        await (self.plugin.forward(exchange, onwards) if self.holds(exchange) else onwards(exchange))

    def response(self, exchange: Exchange) -> Awaitable[None] | None:
        return self.plugin.response(exchange) if self.holds(exchange) else None

    def body(self, exchange: Exchange, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        return self.plugin.body(exchange, chunks) if self.holds(exchange) else chunks

    def log(self, exchange: Exchange) -> None:
        if self.holds(exchange):
            self.plugin.log(exchange)

    def where_it_holds(self, collect: Callable[[Exchange], None]) -> Callable[[Exchange], None]:
        """A log hook for the requests that the setting is for."""

        def hook(exchange: Exchange) -> None:
            if self.holds(exchange):
                collect(exchange)

        return hook

    def holds(self, exchange: Exchange) -> bool:
        """Judged late only where a plugin before this one has refused the request."""
        holds = exchange.notes.get(self)
        if holds is None:
            try:
                holds = all(test(exchange) for test in self._tests)
            except AmbiguousPath:
                holds = False
            exchange.notes[self] = holds
        return bool(holds)


def judge(when: When, exchange: Exchange) -> bool:
    """For pages that explain a request. Raises AmbiguousPath."""
    return all(test(exchange) for test in _tests(when))


def _tests(when: When) -> list[Test]:
    """The cheap ones first."""
    tests: list[Test] = []
    if methods := when.methods:
        tests.append(lambda exchange: exchange.method in methods)
    if groups := when.groups:
        tests.append(lambda exchange: exchange.consumer is not None and not groups.isdisjoint(exchange.consumer.groups))
    tests += [_header(name, pattern) for name, pattern in when.headers]
    if when.networks:
        tests.append(_address(when.networks))
    if when.paths:
        tests.append(_path(when.paths))
    return tests


def _header(name: str, pattern: str) -> Test:
    """Some value of the field holds the pattern. "": the field is there."""
    key, search = name.encode("latin-1"), compiled(pattern).search

    def holds(exchange: Exchange) -> bool:
        return any(field == key and search(value.decode("latin-1")) for field, value in exchange.headers)

    return holds


def _address(networks: tuple[str, ...]) -> Test:
    parsed = [ip_network(text) for text in networks]
    known: dict[str, bool] = {}

    def judged(text: str) -> bool:
        try:
            address = ip_address(text.partition("%")[0])
        except ValueError:  # a unix socket
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in parsed)

    def holds(exchange: Exchange) -> bool:
        text = exchange.client_ip
        if text not in known:
            if len(known) >= MAX_REMEMBERED:
                known.clear()
            known[text] = judged(text)
        return known[text]

    return holds


def _path(paths: tuple[str, ...]) -> Test:
    """By the very rules that find a route."""
    spec = RouteSpec(0, "", (), paths, frozenset(), (), (), ())
    index: Index[Any] = Index([(spec, spec)])

    def holds(exchange: Exchange) -> bool:
        odd = b"" if exchange.plain else exchange.raw_path
        return index.match("", exchange.path, odd, "GET", [], b"") is not None

    return holds
