"""httpx' own transport: what is its own, which is HTTP/2, and that httpcore loses no connection in our hands."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import pytest
import uvloop

from gateway.proxy.errors import GatewayError, UpstreamBroke, UpstreamTimeout
from gateway.proxy.pool import Timeouts
from gateway.proxy.prober import probe
from gateway.proxy.snapshot import ProbePolicy, TlsSpec
from gateway.proxy.stock import StockTransport
from gateway.proxy.transport import TargetTransport, transport_key, transport_to
from tests.proxy import gatewaying
from tests.proxy.authority import Authority
from tests.proxy.gatewaying import Bench, route, table, target, upstream
from tests.proxy.sending import Body, fetch, post, read, request, specs, timeouts
from tests.upstream import OK, Wire, answering, serving, until

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")

CA = Authority()


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return request.param()


@contextlib.asynccontextmanager
async def opened(port: int, times: Timeouts | None = None, **changes: object) -> AsyncIterator[StockTransport]:
    target, spec = specs("127.0.0.1", port, transport="httpx", **changes)
    transport = StockTransport(target, spec, timeouts=times)
    try:
        yield transport
    finally:
        await transport.aclose()


def test_an_upstream_chooses_its_transport() -> None:
    kinds = [
        specs(transport=kind, http2=http2) for kind, http2 in (("native", False), ("httpx", False), ("httpx", True))
    ]
    assert [type(transport_to(*kind)) for kind in kinds[:2]] == [TargetTransport, StockTransport]
    assert len({transport_key(upstream, target) for target, upstream in kinds}) == 3


# --- httpcore's pool, after anything


async def script(wire: Wire) -> None:
    while head := await wire.head():
        match head.split()[1]:
            case b"/cut":
                await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
                return
            case b"/reset":
                wire.reset()
                return
            case b"/silent":
                await wire.left()
            case _:
                await wire.send(OK)


# httpcore drops a connection that is being closed when its request is cancelled: rarely, one is left to the collector,
# which says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_2000_mixed_requests_leave_nothing_behind() -> None:
    rng = random.Random(7)
    gc.collect()
    async with serving(script) as upstream:
        fds = len(os.listdir("/proc/self/fd"))
        async with opened(upstream.port, timeouts(first_byte_s=0.05), max_connections=16) as transport:
            for _ in range(20):
                targets = rng.choices([b"/ok", b"/cut", b"/reset", b"/silent"], [7, 1, 1, 1], k=100)
                tasks = [asyncio.create_task(fetch(transport, request(target=target))) for target in targets]
                for task in rng.sample(tasks, 50):
                    asyncio.get_running_loop().call_later(rng.random() * 0.1, task.cancel)
                await asyncio.wait(tasks)
                for task in tasks:
                    assert task.cancelled() or task.exception() is None or isinstance(task.exception(), GatewayError)
            assert await fetch(transport) == (200, b"ok")
            generation = transport._generation
            assert generation is not None
            await until(lambda: not generation.in_flight)
            pool: Any = generation.transport._pool
            assert not pool._requests
            assert all(connection.is_idle() for connection in pool.connections)
            await until(lambda: gc.collect() >= 0 and upstream.live == len(pool.connections) <= 16)
            assert await asyncio.gather(*(fetch(transport) for _ in range(16))) == [(200, b"ok")] * 16
        await until(lambda: upstream.live == 0 and len(os.listdir("/proc/self/fd")) <= fds)


async def test_who_leaves_while_connecting_does_not_lose_the_connection() -> None:
    async with serving(answering(OK)) as upstream, opened(upstream.port, max_connections=1) as transport:
        for turns in range(30):
            task = asyncio.create_task(fetch(transport))
            for _ in range(turns):  # meet every moment of it
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert await fetch(transport) == (200, b"ok")
        await until(lambda: upstream.live == 1)


# --- HTTP/2


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Tells what it was sent; `/silent` never answers, `/endless` never ends, `/cut` says that more will come."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    path = scope["raw_path"]
    seen = [(b"x-path", path + b"?" + scope["query_string"]), (b"x-version", scope["http_version"].encode())]
    seen += [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    if path == b"/silent":
        await asyncio.Event().wait()
    if path == b"/cut":
        seen.append((b"content-length", b"9"))
    await send({"type": "http.response.start", "status": 200, "headers": seen})
    for _ in range(5 if path == b"/endless" else 0):
        await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
    if path == b"/endless":
        await asyncio.Event().wait()
    await send({"type": "http.response.body", "body": body or scope["headers"][0][1]})


@contextlib.asynccontextmanager
async def hypercorn_at(folder: Path, *, tls: bool) -> AsyncIterator[int]:
    """A real HTTP/2 server: over TLS, or to those who know that it speaks it."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.set_inheritable(True)
        config = hypercorn.config.Config()
        config.bind, config.errorlog, config.graceful_timeout = [f"fd://{os.dup(sock.fileno())}"], None, 0.1
        if tls:
            CA.server(folder)  # leaves its certificate there
            config.certfile = config.keyfile = str(folder / "upstream.pem")
        over = asyncio.Event()
        task = asyncio.create_task(
            hypercorn.asyncio.serve(application, config, shutdown_trigger=over.wait)  # type: ignore[arg-type]
        )
        try:
            yield sock.getsockname()[1]
        finally:
            over.set()
            await task


def http2(tls: bool) -> dict[str, Any]:
    spec = TlsSpec(ca=CA.certificate, server_name="upstream.test")
    return {"http2": True, "protocol": "https" if tls else "http", "tls": spec}


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "known beforehand"])
async def test_http2(tmp_path: Path, tls: bool) -> None:
    async with hypercorn_at(tmp_path, tls=tls) as port, opened(port, **http2(tls)) as transport:
        sent = request(target=b"/a%2Fb?q=%20", headers=[(b"connection", b"close"), (b"x-a", b"1")])
        response = await transport.handle_async_request(sent)
        fields = list(response.headers.raw)
        assert (b"x-path", b"/a%2Fb?q=%20") in fields
        assert (b"x-version", b"2") in fields
        assert [value for name, value in fields if name == b"set-cookie"] == [b"a=1", b"b=2"]
        assert await read(response) == b"upstream.test"  # the authority, as the first field
        assert await fetch(transport, post(b"abc", b"x" * 100_000)) == (200, b"abc" + b"x" * 100_000)
        chunked = request("POST", headers=[(b"transfer-encoding", b"chunked")], body=Body([b"ab", b"c"]))
        assert await fetch(transport, chunked) == (200, b"abc")
        assert await fetch(transport, request("HEAD")) == (200, b"")
        assert await asyncio.gather(*(fetch(transport) for _ in range(20))) == [(200, b"upstream.test")] * 20
        assert transport._generation is not None
        pool: Any = transport._generation.transport._pool
        assert len(pool.connections) == 1


async def test_http2_answers_that_break_off_never_look_whole(tmp_path: Path) -> None:
    async with hypercorn_at(tmp_path, tls=True) as port, opened(port, **http2(True)) as transport:
        with pytest.raises(UpstreamBroke):
            await fetch(transport, request(target=b"/cut"))
        assert await fetch(transport) == (200, b"upstream.test")


@pytest.mark.parametrize("path", [b"/silent", b"/endless"])
async def test_http2_requests_given_up_cost_their_connection_and_nothing_else(tmp_path: Path, path: bytes) -> None:
    async with (
        hypercorn_at(tmp_path, tls=True) as port,
        opened(port, timeouts(first_byte_s=0.1, idle_s=0.1), **http2(True)) as transport,
    ):
        assert await fetch(transport) == (200, b"upstream.test")
        first = transport._generation
        with pytest.raises(UpstreamTimeout):
            await fetch(transport, request(target=path))
        assert transport._generation is not first
        assert await fetch(transport) == (200, b"upstream.test")


async def test_without_http2_at_the_other_end_it_is_http1(tmp_path: Path) -> None:
    server: ssl.SSLContext = CA.server(tmp_path)
    async with serving(answering(OK), tls=server) as upstream, opened(upstream.port, **http2(True)) as transport:
        assert await asyncio.gather(*(fetch(transport) for _ in range(3))) == [(200, b"ok")] * 3
        assert upstream.heads[0].startswith(b"GET / HTTP/1.1\r\n")


# --- in its place


async def test_the_forwarder_streams_through_it_and_counts() -> None:
    more = asyncio.Event()

    async def slow(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 6\r\n\r\nabc")
        await more.wait()
        await wire.send(b"def")

    async with serving(slow) as up:
        spec = upstream("up", target(up.port), transport="httpx")
        async with Bench(table([route("r", "/*")], [spec])) as bench:
            exchange = gatewaying.request("/a%2Fb")
            await bench.pipeline.handle(exchange)
            state = bench.forwarder.balancer.state(spec, spec.targets[0])
            assert (exchange.status, state.in_flight) == (200, 1)
            chunks = aiter(exchange.answer_body)  # type: ignore[arg-type]
            assert await anext(chunks) == b"abc"
            more.set()
            assert [chunk async for chunk in chunks] == [b"def"]
            await bench.pipeline.finish(exchange, "ok")
            assert state.in_flight == 0
    assert up.heads[0].startswith(b"GET /a%2Fb HTTP/1.1\r\n")
    assert [value for name, value in exchange.response_headers or [] if name == b"set-cookie"] == [b"a=1", b"b=2"]


async def test_the_forwarder_tries_another_target_after_it_failed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        nobody = sock.getsockname()[1]
    async with serving(answering(OK)) as up:
        spec = upstream("up", target(nobody), target(up.port, number=2), transport="httpx")
        async with Bench(table([route("r", "/*")], [spec])) as bench:
            found = [await bench.get("/x") for _ in range(4)]
    assert [(exchange.status, body) for exchange, body in found] == [(200, b"ok")] * 4
    assert max(exchange.tries for exchange, _ in found) == 2


async def test_a_client_that_leaves_ends_the_request_upstream() -> None:
    async def silent(wire: Wire) -> None:
        await wire.head()
        await wire.left()

    async with serving(silent) as up:
        spec = upstream("up", target(up.port), transport="httpx")
        async with Bench(table([route("r", "/*")], [spec])) as bench:
            task = asyncio.create_task(bench.get("/x"))
            await until(lambda: up.heads)
            task.cancel()
            await asyncio.wait([task])
            await until(lambda: not up.live)
            assert bench.forwarder.balancer.state(spec, spec.targets[0]).in_flight == 0


async def test_probes_go_the_same_way(tmp_path: Path) -> None:
    policy = ProbePolicy("http", "/x", "", 1.0, 2.0, 1, 1, ((200, 200),), b"127.0.0.1")
    async with hypercorn_at(tmp_path, tls=False) as port:
        to, spec = specs("127.0.0.1", port, transport="httpx", probe=policy, **http2(False))
        assert await probe(spec, to, policy) == ""
        to, spec = specs("127.0.0.1", 1, transport="httpx", probe=policy)
        assert "No connection to the upstream could be made." in await probe(spec, to, policy)
