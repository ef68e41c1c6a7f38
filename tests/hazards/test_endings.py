"""However an exchange ends: plugins' generators are closed, the connection is given back, one record is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from gateway import runtime
from gateway.handler import ProxyHandler, ProxyRequest
from gateway.plugins.base import Plugin
from gateway.proxy.exchange import Exchange
from gateway.views import ProxyResponse, proxy
from tests.proxy.gatewaying import Bench, NoConfig, request, route, setting, table, target, upstream
from tests.upstream import OK, Wire, answering, serving, until

STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n"


class Outer(Plugin):
    """Says in the exchange that its generator has ended, as one that keeps an answer must before it is logged."""

    name = "outer"
    Config = NoConfig

    async def body(self, exchange: Exchange, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            await asyncio.sleep(0)
            exchange.notes.setdefault("ended", []).append(self.name)

    def log(self, exchange: Exchange) -> None:
        exchange.notes.setdefault("ended", []).append("log")


class Inner(Outer):
    name = "inner"

    def log(self, exchange: Exchange) -> None: ...


class Spoiler(Plugin):
    """A mistake in a plugin that only shows when the record is made."""

    name = "spoiler"
    Config = NoConfig

    def log(self, exchange: Exchange) -> None:
        exchange.credential = object()  # type: ignore[assignment]


class Split(Plugin):
    name = "split"
    Config = NoConfig

    def response(self, exchange: Exchange) -> None:
        assert exchange.response_headers is not None
        exchange.response_headers.append((b"x", b"a\r\nb: c"))


async def streaming(wire: Wire) -> None:
    await wire.head()
    await wire.send(STREAM)
    await wire.left()


@pytest.mark.parametrize("cancel_again", [False, True])
async def test_bodies_of_plugins_are_closed_before_the_log_when_the_client_leaves(cancel_again: bool) -> None:
    settings = [setting(Outer), setting(Inner, number=2)]
    async with serving(streaming) as up:
        routing = table([route("r")], [upstream("up", target(up.port))], [Outer, Inner], settings)
        async with Bench(routing) as bench:
            exchange = request("/")
            await bench.pipeline.handle(exchange)
            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)
                if message.get("body"):
                    await asyncio.Event().wait()

            sending = asyncio.create_task(ProxyHandler()._send(ProxyResponse(exchange, bench.pipeline), send, None))
            await until(lambda: len(sent) == 3)
            sending.cancel()
            if cancel_again:  # while the plugins' generators end
                await asyncio.sleep(0)
                sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert exchange.notes["ended"][-1] == "log"
            if not cancel_again:
                assert exchange.notes["ended"] == ["outer", "inner", "log"]
            assert (bench.records, exchange.outcome, bench.pipeline.in_flight) == ([exchange], "client_closed", 0)
            await until(lambda: not up.live)


async def test_a_record_that_cannot_be_made_still_gives_the_connection_back() -> None:
    from gateway.proxy.record import record_of

    async with serving(streaming) as up:
        routing = table([route("r")], [upstream("up", target(up.port))], [Spoiler], [setting(Spoiler)])
        async with Bench(routing) as bench:
            bench.pipeline._record = record_of  # type: ignore[assignment]  # what the journal calls first
            exchange = request("/")
            await bench.pipeline.handle(exchange)
            await bench.pipeline.finish(exchange, "client_closed")
            await until(lambda: not up.live)
            up_spec = routing.snapshot.upstreams["up"]
            assert bench.forwarder.balancer.state(up_spec, up_spec.targets[0]).in_flight == 0


async def test_an_answer_the_server_refuses_is_our_failure_not_the_clients() -> None:
    async with serving(answering(OK)) as up:
        routing = table([route("r")], [upstream("up", target(up.port))], [Split], [setting(Split)])
        async with Bench(routing) as bench:
            exchange = request("/")
            await bench.pipeline.handle(exchange)

            async def send(message: Any) -> None:
                raise ValueError("A header of the answer holds a line break or NUL.")

            with pytest.raises(ValueError, match="line break"):
                await ProxyHandler()._send(ProxyResponse(exchange, bench.pipeline), send, None)
    assert exchange.outcome == "internal_error"


async def test_a_client_that_leaves_does_not_cut_the_start_of_the_runtime_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a server without life cycle of ours the first request starts it; half a start could not be repeated."""
    begun, go, started = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def start() -> None:
        begun.set()
        await go.wait()
        started.set()

    monkeypatch.setattr(runtime, "current", lambda: SimpleNamespace(started=False, start=start))
    scope = {
        "type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"", "scheme": "http",
        "headers": [], "client": None, "server": None,
    }  # fmt: skip
    first = asyncio.create_task(proxy(ProxyRequest(scope)))
    await begun.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    go.set()
    await asyncio.wait_for(started.wait(), 5)
