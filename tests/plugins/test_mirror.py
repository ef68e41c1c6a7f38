"""Copies over real connections, beside real traffic."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.plugins.base import Resources
from gateway.plugins.mirror import Mirror
from gateway.plugins.registry import ConfigProblems, Registry
from gateway.proxy import metrics
from gateway.proxy.shadows import Shadows
from gateway.proxy.snapshot import Snapshot
from gateway.proxy.table import RoutingTable
from tests.proxy.gatewaying import NOTHING, Bench, request, route, setting, target, upstream
from tests.upstream import OK, Script, Upstream, Wire, answering, serving, until

Requests = list[tuple[bytes, bytes]]


def recording(got: Requests) -> Script:
    """Keeps heads and bodies; a body in chunks as it came."""

    async def script(wire: Wire) -> None:
        while head := await wire.head():
            length = re.search(rb"content-length: (\d+)", head)
            body = await wire.body(int(length[1])) if length else b""
            if b"transfer-encoding" in head:
                body = await wire.reader.readuntil(b"0\r\n\r\n")
            got.append((head, body))
            await wire.send(OK)

    return script


async def hanging(wire: Wire) -> None:
    await wire.head()
    await wire.left()


class Copying:
    def __init__(self, bench: Bench, shadows: Shadows) -> None:
        self.bench, self.shadows = bench, shadows

    async def ask(self, path: str = "/x", **fields: Any) -> int:
        exchange = request(path, **fields)
        await self.bench.pipeline.handle(exchange)
        await self.bench.pipeline.finish(exchange, "ok")
        return exchange.status


@asynccontextmanager
async def copying(registry, own: Upstream, other: int, **config: Any) -> AsyncIterator[Copying]:
    shadows = Shadows()
    resources = Resources(NOTHING, NOTHING, NOTHING, time.monotonic, time.time, shadow=shadows)
    plugin = setting(Mirror, config=registry.validate("mirror", {"upstream": "copy", **config}))
    upstreams = {"up": upstream("up", target(own.port)), "copy": upstream("copy", target(other))}
    routes = (route("r", "/*"),)
    table = RoutingTable(Snapshot(1, "d", upstreams, routes, (plugin,)), Registry([Mirror]), resources)
    async with Bench(table) as bench:
        try:
            yield Copying(bench, shadows)
        finally:
            await shadows.aclose()


def counted(result: str) -> float:
    value: float = metrics.MIRRORED.labels("copy", result)._value.get()
    return value


async def test_a_copy_is_the_request_as_it_goes_upstream(registry) -> None:
    sent: Requests = []
    copied: Requests = []
    async with serving(recording(sent)) as own, serving(recording(copied)) as other:
        async with copying(registry, own, other.port) as front:
            before = counted("answered")
            fields = [(b"x-a", b"1"), (b"content-length", b"5")]
            assert await front.ask("/a%20b?q=1", method="POST", headers=fields, body=[b"he", b"llo"], length=5) == 200
            await until(lambda: counted("answered") == before + 1)
        for head, body in (*sent, *copied):
            lines = head.decode().split("\r\n")
            assert lines[0] == "POST /a%20b?q=1 HTTP/1.1"
            assert "x-a: 1" in lines
            assert "content-length: 5" in lines
            assert body == b"hello"
        assert (len(sent), len(copied)) == (1, 1)


async def test_a_body_in_chunks_is_copied_with_its_length(registry) -> None:
    sent: Requests = []
    copied: Requests = []
    async with serving(recording(sent)) as own, serving(recording(copied)) as other:
        async with copying(registry, own, other.port) as front:
            before = counted("answered")
            assert await front.ask(method="PUT", body=[b"he", b"llo"]) == 200
            await until(lambda: counted("answered") == before + 1)
        head, body = copied[0]
        assert (b"content-length: 5" in head, b"transfer-encoding" in head, body) == (True, False, b"hello")


@pytest.mark.parametrize("length", [6, None])
async def test_a_body_that_is_too_large_is_sent_and_not_copied(registry, length) -> None:
    sent: Requests = []
    copied: Requests = []
    async with serving(recording(sent)) as own, serving(recording(copied)) as other:
        async with copying(registry, own, other.port, max_body_bytes=5) as front:
            before = counted("too_large")
            fields = [(b"content-length", b"6")] if length else []
            assert await front.ask(method="POST", headers=fields, body=[b"hel", b"lo!"], length=length) == 200
            assert counted("too_large") == before + 1
        ((_, body),) = sent
        assert body == (b"hello!" if length else b"3\r\nhel\r\n3\r\nlo!\r\n0\r\n\r\n")
        assert copied == []


async def test_a_mirror_that_hangs_costs_the_client_nothing_and_is_bounded(registry) -> None:
    async with serving(answering(OK)) as own, serving(hanging) as other:
        config = {"concurrency": 2, "queue": 3, "timeout_ms": 60_000}
        async with copying(registry, own, other.port, **config) as front:
            before = counted("dropped")
            assert [await front.ask() for _ in range(20)] == [200] * 20
            assert counted("dropped") == before + 15
            await until(lambda: len(other.heads) == 2)
            assert len(other.heads) == 2


async def test_copies_that_take_too_long_make_room_for_the_next(registry) -> None:
    config = {"concurrency": 1, "queue": 5, "timeout_ms": 20}
    async with (
        serving(answering(OK)) as own,
        serving(hanging) as other,
        copying(registry, own, other.port, **config) as front,
    ):
        before = counted("failed")
        assert [await front.ask() for _ in range(3)] == [200] * 3
        await until(lambda: counted("failed") == before + 3)


async def test_a_mirror_that_is_away_is_counted(registry) -> None:
    async with serving(answering(OK)) as own, copying(registry, own, 1) as front:
        before = counted("failed")
        assert await front.ask() == 200
        await until(lambda: counted("failed") == before + 1)


async def test_a_share_of_the_requests_is_copied(registry) -> None:
    async with (
        serving(answering(OK)) as own,
        serving(answering(OK)) as other,
        copying(registry, own, other.port, percent=25, queue=100) as front,
    ):
        before = counted("answered")
        for _ in range(40):
            await front.ask()
        await until(lambda: counted("answered") >= before + 9)
        await until(lambda: not front.shadows._tasks)
        assert 9 <= counted("answered") - before <= 11


@pytest.mark.parametrize(
    ("config", "path"),
    [({}, "upstream"), ({"upstream": "a", "percent": 101}, "percent"), ({"upstream": ""}, "upstream")],
)
def test_a_config_that_cannot_work_is_refused_by_field(registry, config, path) -> None:
    with pytest.raises(ConfigProblems) as caught:
        registry.validate("mirror", config)
    assert [problem[0] for problem in caught.value.problems] == [path]
