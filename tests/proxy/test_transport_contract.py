"""What every transport must do, whichever the upstream asks for: one contract, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from gateway.proxy.errors import (
    BadRequest,
    ConnectFailed,
    GatewayError,
    UpstreamBroke,
    UpstreamBusy,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.proxy.snapshot import TlsSpec
from gateway.proxy.transport import Timeouts, Transport, transport_to
from tests.proxy.authority import Authority
from tests.proxy.sending import Body, post, read, request, specs, timeouts
from tests.upstream import OK, Upstream, Wire, answering, once, serving, until

Opener = Callable[..., contextlib.AbstractAsyncContextManager[Transport]]


@pytest.fixture(params=["native", "httpx"])
def opened(request: pytest.FixtureRequest) -> Opener:
    """`async with opened(upstream) as transport`; fields of the spec and `times` by name."""

    @contextlib.asynccontextmanager
    async def open_(
        upstream: Upstream | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        times: Timeouts | None = None,
        **changes: object,
    ) -> AsyncIterator[Transport]:
        port = port or (upstream.port if upstream else 0)
        target, spec = specs(host, port, transport=request.param, **changes)
        transport = transport_to(target, spec, times)
        try:
            yield transport
        finally:
            await transport.aclose()

    return open_


async def fetch(transport: Transport, sent: httpx.Request | None = None) -> tuple[int, bytes]:
    response = await transport.handle_async_request(sent or request())
    return response.status_code, await read(response)


def idle_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- requests


async def test_target_and_fields_go_as_they_are(opened: Opener) -> None:
    fields = [(b"x-a", b"1"), (b"x-a", b"2"), (b"cookie", b"s=1"), (b"x-b", "é".encode("latin-1"))]
    async with serving(answering(OK)) as upstream, opened(upstream) as transport:
        await fetch(transport, request(target=b"/a%2Fb//c/../d?q=%7B&q=a+b", headers=fields))
    head = upstream.heads[0].split(b"\r\n")
    assert head[0] == b"GET /a%2Fb//c/../d?q=%7B&q=a+b HTTP/1.1"
    assert head[1:-2] == [b"host: upstream.test", *(name + b": " + value for name, value in fields)]


async def echo(wire: Wire) -> None:
    """Answers with the body it was sent, chunk by chunk."""
    while head := (await wire.head()).lower():
        body = b""
        if b"transfer-encoding: chunked" in head:
            while size := int(await wire.reader.readuntil(b"\n"), 16):
                body += await wire.body(size)
                await wire.reader.readuntil(b"\n")
            await wire.reader.readuntil(b"\n")
        elif b"content-length: " in head:
            body = await wire.body(int(head.partition(b"content-length: ")[2].split()[0]))
        half = len(body) // 2
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part)
        await wire.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")


@pytest.mark.parametrize("chunks", [[b"abc"], [b"a", b"", b"bc" * 50_000], [b""]])
@pytest.mark.parametrize("chunked", [True, False])
async def test_bodies_go_up_and_come_down(opened: Opener, chunks: list[bytes], chunked: bool) -> None:
    sent = (
        request("POST", headers=[(b"transfer-encoding", b"chunked")], body=Body(chunks)) if chunked else post(*chunks)
    )
    async with serving(echo) as upstream, opened(upstream) as transport:
        assert await fetch(transport, sent) == (200, b"".join(chunks))
        assert await fetch(transport) == (200, b"")
        assert upstream.connections == 1


@pytest.mark.parametrize("chunks", [[b"abc"], [b"abcdef"]])
async def test_a_body_of_another_length_than_said_is_refused(opened: Opener, chunks: list[bytes]) -> None:
    sent = request("POST", headers=[(b"content-length", b"5")], body=Body(chunks))
    async with serving(echo) as upstream, opened(upstream) as transport:
        with pytest.raises(BadRequest):
            await fetch(transport, sent)
        await until(lambda: upstream.live == 0)


async def test_what_the_body_raises_comes_out_as_it_is(opened: Opener) -> None:
    class Failing(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"a"
            raise ZeroDivisionError

    sent = request("POST", headers=[(b"content-length", b"2")], body=Failing())
    async with serving(echo) as upstream, opened(upstream) as transport:
        with pytest.raises(ZeroDivisionError):
            await fetch(transport, sent)
        await until(lambda: upstream.live == 0)


async def test_a_line_break_in_a_field_is_never_sent(opened: Opener) -> None:
    async with serving(answering(OK)) as upstream, opened(upstream) as transport:
        with pytest.raises(GatewayError):
            await fetch(transport, request(headers=[(b"x-a", b"1\r\nx-b: 2")]))
        assert not any(upstream.heads)


# --- answers


async def test_fields_come_back_as_pairs_in_lower_case(opened: Opener) -> None:
    answer = b"HTTP/1.1 203 Who\r\nSet-Cookie: a=1\r\nX-A: b\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok"
    async with serving(answering(answer)) as upstream, opened(upstream) as transport:
        response = await transport.handle_async_request(request())
        assert response.status_code == 203
        assert list(response.headers.raw) == [
            (b"set-cookie", b"a=1"), (b"x-a", b"b"), (b"set-cookie", b"b=2"), (b"content-length", b"2"),
        ]  # fmt: skip
        assert await read(response) == b"ok"
        await fetch(transport)
    assert b"cookie" not in upstream.heads[1]


@pytest.mark.parametrize(
    ("method", "answer", "status"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", 200),
        ("HEAD", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", 200),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", 304),
        ("GET", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", 404),
    ],
)
async def test_answers_without_a_body(opened: Opener, method: str, answer: bytes, status: int) -> None:
    async with serving(answering(answer)) as upstream, opened(upstream) as transport:
        for _ in range(2):
            assert await fetch(transport, request(method)) == (status, b"")
        assert upstream.connections == 1


async def test_a_body_that_ends_with_its_connection(opened: Opener) -> None:
    async with serving(once(b"HTTP/1.1 200 OK\r\n\r\nall of it")) as upstream, opened(upstream) as transport:
        for _ in range(2):
            assert await fetch(transport) == (200, b"all of it")


async def test_an_answer_is_streamed(opened: Opener) -> None:
    more = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc")
        await more.wait()
        await wire.send(b"def")

    async with serving(script) as upstream, opened(upstream) as transport:
        response = await transport.handle_async_request(request())
        chunks = aiter(response.stream)  # type: ignore[arg-type]
        assert await anext(chunks) == b"abc"
        more.set()
        assert await anext(chunks) == b"def"
        assert await anext(chunks, None) is None
        await response.aclose()


# --- failures


@pytest.fixture
def nobody() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


async def test_nobody_there(opened: Opener, nobody: int) -> None:
    async with opened(port=nobody) as transport:
        for sent in (request(), post(b"a")):
            with pytest.raises(ConnectFailed) as caught:
                await fetch(transport, sent)
            assert caught.value.safe_to_retry


CUT = [
    b"",
    b"HTTP/1.1 200 OK\r\ncontent-le",
    b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\nabc\r\n",
    b"nonsense\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
]


@pytest.mark.parametrize("answer", CUT)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_breaks_off_or_is_no_http_never_looks_whole(opened: Opener, answer: bytes, method: str) -> None:
    async with serving(once(answer)) as upstream, opened(upstream) as transport:
        with pytest.raises(UpstreamBroke) as caught:
            await fetch(transport, request(method))
        response_began = answer in CUT[2:5]
        assert caught.value.safe_to_retry == (method == "GET") or response_began
        await until(lambda: upstream.live == 0)


async def test_a_reset_is_an_upstream_that_broke(opened: Opener) -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
        wire.reset()

    async with serving(script) as upstream, opened(upstream) as transport:
        with pytest.raises(UpstreamBroke):
            await fetch(transport)


async def silent(wire: Wire) -> None:
    await wire.head()
    await wire.left()


async def stalling(wire: Wire) -> None:
    await wire.head()
    await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
    await wire.left()


async def trickling(wire: Wire) -> None:
    await wire.head()
    await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n")
    while True:
        await wire.send(b"x")
        await asyncio.sleep(0.01)


async def unreading(wire: Wire) -> None:
    await wire.head()
    wire.reader._transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.Event().wait()


LARGE = post(b"x" * 20_000_000)


@pytest.mark.parametrize(
    ("script", "sent", "limits", "phase"),
    [
        (silent, request(), {"first_byte_s": 0.05}, "first_byte"),
        (silent, post(b"abc"), {"first_byte_s": 0.05}, "first_byte"),
        (stalling, request(), {"idle_s": 0.05}, "idle"),
        (unreading, LARGE, {"idle_s": 0.05}, "send"),
        (silent, request(), {"total_s": 0.05}, "total"),
        (trickling, request(), {"total_s": 0.1}, "total"),
    ],
)
async def test_each_phase_has_its_limit(
    opened: Opener, script: object, sent: httpx.Request, limits: dict[str, float], phase: str
) -> None:
    async with serving(script) as upstream, opened(upstream, times=timeouts(**limits)) as transport:  # type: ignore[arg-type]
        with pytest.raises(UpstreamTimeout) as caught:
            await fetch(transport, sent)
        assert caught.value.phase == phase
        assert caught.value.safe_to_retry == (sent.method == "GET") or phase in ("idle", "total")


async def test_the_deadline_of_all_attempts_holds(opened: Opener) -> None:
    sent = request()
    sent.extensions["deadline_s"] = asyncio.get_running_loop().time() + 0.05
    async with serving(silent) as upstream, opened(upstream) as transport:
        with pytest.raises(UpstreamTimeout) as caught:
            await fetch(transport, sent)
        assert caught.value.phase == "total"


async def test_requests_beyond_the_limit_wait_and_then_are_refused(opened: Opener) -> None:
    async with (
        serving(silent) as upstream,
        opened(upstream, max_connections=2, times=timeouts(pool_s=0.05)) as transport,
    ):
        held = [asyncio.create_task(fetch(transport)) for _ in range(2)]
        await until(lambda: len(upstream.heads) == 2)
        with pytest.raises(UpstreamBusy) as caught:
            await fetch(transport)
        assert caught.value.safe_to_retry
        for task in held:
            task.cancel()
        await asyncio.wait(held)
        assert upstream.connections == 2


# --- what is left


@pytest.mark.parametrize("script", [silent, stalling, unreading])
async def test_a_cancelled_request_leaves_nothing(opened: Opener, script: object) -> None:
    async with serving(script) as upstream, opened(upstream) as transport:  # type: ignore[arg-type]
        task = asyncio.create_task(fetch(transport, LARGE if script is unreading else None))
        await until(lambda: upstream.heads)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if script is not unreading:  # who does not read does not see it
            await until(lambda: upstream.live == 0)


async def test_closed_early_the_connection_is_closed_too(opened: Opener) -> None:
    async with serving(stalling) as upstream, opened(upstream) as transport:
        for started in (True, False):
            response = await transport.handle_async_request(request())
            if started:
                await anext(aiter(response.stream))  # type: ignore[arg-type]
            await response.stream.aclose()  # type: ignore[union-attr]
            await response.stream.aclose()  # type: ignore[union-attr]
        await until(lambda: upstream.live == 0 and upstream.connections == 2)


async def test_after_anything_at_any_moment_it_serves_as_before(opened: Opener) -> None:
    async def script(wire: Wire) -> None:
        while head := await wire.head():
            if b"/cut" in head:
                await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
                return
            if b"/silent" in head:
                await wire.left()
            await wire.send(OK)

    rng = random.Random(7)
    gc.collect()
    async with serving(script) as upstream:
        before = idle_descriptors()
        async with opened(upstream, max_connections=8, times=timeouts(first_byte_s=0.05, pool_s=5.0)) as transport:
            for _ in range(20):
                targets = rng.choices([b"/ok", b"/cut", b"/silent"], [8, 1, 1], k=40)
                tasks = [asyncio.create_task(fetch(transport, request(target=target))) for target in targets]
                for task in rng.sample(tasks, 20):
                    asyncio.get_running_loop().call_later(rng.random() * 0.1, task.cancel)
                await asyncio.wait(tasks)
                for task in tasks:
                    assert task.cancelled() or task.exception() is None or isinstance(task.exception(), UpstreamError)
            await until(lambda: upstream.live <= 8)
            assert await asyncio.gather(*(fetch(transport) for _ in range(8))) == [(200, b"ok")] * 8
        await until(lambda: upstream.live == 0 and idle_descriptors() <= before)


async def test_closing_ends_what_is_idle_and_lets_the_rest_finish(opened: Opener) -> None:
    more = asyncio.Event()

    async def script(wire: Wire) -> None:
        while head := await wire.head():
            if b"/slow" in head:
                await more.wait()
            await wire.send(OK)

    async with serving(script) as upstream, opened(upstream) as transport:
        slow = asyncio.create_task(fetch(transport, request(target=b"/slow")))
        await until(lambda: upstream.heads)
        await fetch(transport)
        transport.close()
        more.set()
        assert await slow == (200, b"ok")
        await until(lambda: upstream.live == 0)
        assert await fetch(transport) == (200, b"ok")  # of a request that had it in hand already
        await until(lambda: upstream.live == 0)


# --- where to


async def test_a_unix_socket(opened: Opener, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with serving(answering(OK), unix_path=path), opened(host=f"unix:{path}") as transport:
        assert await fetch(transport) == (200, b"ok")


async def test_ipv6(opened: Opener) -> None:
    async with serving(answering(OK), host="::1") as upstream, opened(upstream, host="::1") as transport:
        assert await fetch(transport) == (200, b"ok")


async def test_tls_with_all_that_belongs_to_it(opened: Opener, tmp_path: Path) -> None:
    ca, clients = Authority(), Authority("clients")
    certificate, key = clients.issue("gateway.test")
    asked: list[str | None] = []
    server = ca.server(tmp_path, clients=clients)
    server.sni_callback = lambda _socket, name, _context: asked.append(name)
    tls = TlsSpec(server_name="upstream.test", ca=ca.certificate, certificate=certificate, key=key)
    async with serving(answering(OK), tls=server) as upstream:
        async with opened(upstream, protocol="https", tls=tls) as transport:
            assert await fetch(transport) == (200, b"ok")
        async with opened(upstream, protocol="https") as transport:
            with pytest.raises(ConnectFailed) as caught:
                await fetch(transport)
    assert asked[0] == "upstream.test"
    assert isinstance(_root(caught.value), ssl.SSLCertVerificationError)


def _root(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
