"""A cache between a client and a real upstream that says what a table tells it to, at a time of our own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from email.utils import formatdate
from typing import Any

from gateway.plugins.base import Plugin, Resources
from gateway.plugins.registry import Registry
from gateway.plugins.response_cache import ResponseCache, ResponseCacheConfig
from gateway.plugins.store import Store
from gateway.proxy.exchange import Exchange
from gateway.proxy.headers import Pairs, get, get_all
from gateway.proxy.snapshot import Snapshot
from gateway.proxy.table import RoutingTable
from tests.proxy.gatewaying import NOTHING, Bench, request, route, setting, target, upstream
from tests.upstream import Wire

T0 = 1_790_000_040.0
#: After how much time, what the client asks, what the origin says (None: it is not asked), what the client gets, and
#: what the origin was asked with.
Step = tuple[float, str, str | None, str] | tuple[float, str, str | None, str, str]


class Clock:
    def __init__(self) -> None:
        self.now_s = T0

    def __call__(self) -> float:
        return self.now_s


def pairs(text: str) -> list[tuple[bytes, bytes]]:
    found = (line.partition(":") for line in text.split(" | ") if line)
    return [(name.strip().encode(), value.strip().encode()) for name, _, value in found]


class Origin:
    """Says each of `answers` once: `200 | name: value | …`; the body is `#1`, `#2` and so on by the request's number,
    or what `text` says. `date` is the clock's, or left out if it is `none`."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.answers, self.heads = clock, [], []
        self.answers: list[str]
        self.heads: list[str]

    async def script(self, wire: Wire) -> None:
        while head := await wire.head():
            self.heads.append(head.decode("latin-1"))
            said = self.answers.pop(0) if self.answers else "599"
            await wire.send(self._raw(said, f"#{len(self.heads)}", head.startswith(b"HEAD ")))
            if "connection: close" in said:
                return

    def _raw(self, said: str, body: str, to_head: bool) -> bytes:
        status, _, rest = said.partition(" | ")
        fields = pairs(rest)
        body = (get(fields, b"text") or body.encode()).decode()
        date = get(fields, b"date") or formatdate(self.clock(), usegmt=True).encode()
        fields = [pair for pair in fields if pair[0] not in (b"text", b"date")]
        lines = [f"HTTP/1.1 {status} X".encode(), *(b"%b: %b" % pair for pair in fields)]
        if date != b"none":
            lines.append(b"date: " + date)
        bodiless = status in ("204", "304")
        unframed = "transfer-encoding" in said or "connection: close" in said or bodiless
        if not unframed and get(fields, b"content-length") is None:
            lines.append(b"content-length: %d" % len(body))
        text = body.encode()
        if "transfer-encoding: chunked" in said:
            text = b"%x\r\n%b\r\n0\r\n\r\n" % (len(text), text)
        return b"\r\n".join([*lines, b"", b"" if bodiless or to_head else text])


class Cached(Bench):
    """A bench with one cached route for all paths, and whatever `plugins` stand beside it."""

    def __init__(
        self,
        port: int,
        clock: Clock | None = None,
        store: Store | None = None,
        plugins: Sequence[tuple[type[Plugin], Any]] = (),
        **config: Any,
    ) -> None:
        clock = clock or Clock()
        self.clock, self.store = clock, store or Store(wall=clock)
        config = {"strategy": "memory"} | config
        chosen = [(ResponseCache, ResponseCacheConfig.model_validate(config)), *plugins]
        settings = [setting(plugin, number=n + 1, config=value) for n, (plugin, value) in enumerate(chosen)]
        up = upstream("up", target(port))
        snapshot = Snapshot(7, "digest", {"up": up}, (route("r"),), tuple(settings))
        resources = Resources(NOTHING, NOTHING, NOTHING, time.monotonic, clock, store=self.store)
        order = sorted((plugin for plugin, _ in chosen), key=lambda plugin: PLACES.get(plugin.name, 0))
        super().__init__(RoutingTable(snapshot, Registry(order), resources))

    async def __aexit__(self, *reason: object) -> None:
        await self.store.aclose()
        await super().__aexit__(*reason)

    async def ask(self, line: str) -> tuple[Exchange, bytes]:
        """`GET /path | name: value | host: a`: method and path may be left out."""
        words, _, rest = line.partition(" | ")
        method, _, path = words.partition(" ")
        fields = pairs(rest)
        host = get(fields, b"host") or b"api.test"
        fields = [pair for pair in fields if pair[0] != b"host"]
        return await self.get(path or "/x", method=method or "GET", headers=fields, host=host)


PLACES = {"response-cache": 5, "request-transformer": 6, "response-transformer": 7}


def check(expected: str, exchange: Exchange, body: bytes) -> None:
    """`200 #1 | age: 5 | cache-status: ~hit | -etag`: status, body, fields, a part of a field, none of that name."""
    head, _, rest = expected.partition(" | ")
    status, _, text = head.partition(" ")
    fields: Pairs = exchange.response_headers or []
    said = (exchange.status, body, fields)
    assert exchange.status == int(status), said
    if text:
        assert body == (b"" if text == "''" else text.encode()), said
    for line in rest.split(" | ") if rest else []:
        if line.startswith("-"):
            assert get(fields, line[1:].encode()) is None, said
            continue
        name, _, value = line.partition(": ")
        found = b", ".join(get_all(fields, name.encode())).decode()
        assert value[1:] in found if value.startswith("~") else found == value, said


async def play(bench: Cached, origin: Origin, steps: Sequence[Step]) -> None:
    for number, (after_s, asked, said, expected, *sent) in enumerate(steps):
        bench.clock.now_s += after_s
        before = len(origin.heads)
        origin.answers = [] if said is None else said.split(" || ")
        exchange, body = await bench.ask(asked)
        times = 0 if said is None else len(said.split(" || "))
        asked_now = origin.heads[before:]
        assert len(asked_now) == times, f"step {number}: the origin was asked {len(asked_now)} times"
        check(expected, exchange, body)
        for line in sent[0].split(" | ") if sent else []:
            absent, line = line.startswith("-"), line.removeprefix("-")
            assert (line in asked_now[0].lower()) is not absent, f"step {number}: {asked_now[0]}"


__all__ = ["Cached", "Clock", "Origin", "Step", "check", "pairs", "play", "request"]
