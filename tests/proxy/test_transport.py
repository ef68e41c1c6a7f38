"""The transport against upstreams that behave: framing, bodies both ways, keep-alive, TLS, sockets, upgrades."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import httpx
import pytest
import uvloop

from gateway.proxy.errors import BadRequest, ConnectFailed, GatewayError, UpstreamBroke
from gateway.proxy.transport import NO_BODY, Transports, transport_key
from tests.proxy.sending import Body, counters, fetch, post, read, request, specs, transport_to
from tests.upstream import OK, Wire, answering, once, serving, until

#: Both loops: they differ in when they write, and in how they report resets.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return request.param()


async def test_the_head_is_written_byte_for_byte() -> None:
    async with serving(answering(OK)) as upstream, transport_to(upstream) as transport:
        sent = request("GET", b"/a%2Fb//../c?q=%20&&", [(b"x-a", b"1"), (b"X-A", b"2"), (b"x-empty", b"")])
        assert await fetch(transport, sent) == (200, b"ok")
        assert upstream.heads == [
            b"GET /a%2Fb//../c?q=%20&& HTTP/1.1\r\nhost: upstream.test\r\nx-a: 1\r\nX-A: 2\r\nx-empty: \r\n\r\n"
        ]


@pytest.mark.parametrize(
    ("target", "pair"),
    [
        (b"/ HTTP/1.1\r\nx: y", (b"a", b"b")),
        (b"/a b", (b"a", b"b")),
        (b"/", (b"a", b"b\r\nc: d")),
        (b"/", (b"a", b"b\nc: d")),
        (b"/", (b"a\r", b"b")),
        (b"/", (b"a", b"b\r\n c")),
    ],
)
async def test_a_line_break_never_leaves(target: bytes, pair: tuple[bytes, bytes]) -> None:
    async with serving(answering(OK)) as upstream, transport_to(upstream) as transport:
        with pytest.raises(GatewayError):
            await fetch(transport, request(target=target, headers=[pair]))
        assert upstream.connections == 0


async def test_answer_fields_keep_order_and_repeats_in_lower_case() -> None:
    answer = b"HTTP/1.1 201 Made\r\nSet-Cookie: a\r\nX:  y \t\r\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n"
    async with serving(answering(answer)) as upstream, transport_to(upstream) as transport:
        response = await transport.handle_async_request(request())
        assert response.headers.raw == [
            (b"set-cookie", b"a"), (b"x", b"y"), (b"set-cookie", b"b"), (b"content-length", b"0"),
        ]  # fmt: skip
        assert response.headers["x"] == "y"
        assert await read(response) == b""


@pytest.mark.parametrize(
    ("answer", "body", "kept"),
    [
        (OK, b"ok", True),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nt: r\r\n\r\n",
            b"abc",
            True,
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 204 No\r\n\r\n", b"", True),
        (b"HTTP/1.1 204 No\r\ncontent-length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 304 Not\r\ncontent-length: 99\r\n\r\n", b"", True),
        (b"HTTP/1.1 304 Not\r\ntransfer-encoding: chunked\r\n\r\n", b"", True),
        (b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103 E\r\nlink: x\r\n\r\n" + OK, b"ok", True),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok", b"ok", True),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok", False),
        (b"HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 2\r\n\r\nok", b"ok", False),
        (OK + b"x", b"ok", False),
        (OK + OK, b"ok", False),
        (b"HTTP/1.1 204 No\r\ncontent-length: 5\r\n\r\n", b"", False),
        (b"HTTP/1.1 204 No\r\n\r\nhello", b"", False),
        (b"HTTP/1.1 304 Not\r\ncontent-length: 5\r\n\r\nhello", b"", False),
        (b"HTTP/1.1 304 Not\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"", False),
    ],
)
@pytest.mark.parametrize("piecewise", [False, True])
async def test_bodies_and_whether_the_connection_is_kept(
    answer: bytes, body: bytes, kept: bool, piecewise: bool
) -> None:
    async def script(wire: Wire) -> None:
        while await wire.head():
            size = 1 if piecewise else len(answer)
            for start in range(0, len(answer), size):
                await wire.send(answer[start : start + size])
                await asyncio.sleep(0)

    async with serving(script) as upstream, transport_to(upstream) as transport:
        status, received = await fetch(transport)
        assert (status, received) == (200 if body else int(answer[9:12]), body)
        if kept:
            assert counters(transport) == (1, 1, 0, 0)
            assert (await fetch(transport))[1] == body
            assert upstream.connections == 1
        else:
            await until(lambda: counters(transport) == (0, 0, 0, 0))


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", False),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", False),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", False),
    ],
)
async def test_an_answer_to_head_has_no_body(answer: bytes, kept: bool) -> None:
    async with serving(answering(answer)) as upstream, transport_to(upstream) as transport:
        assert await fetch(transport, request("HEAD")) == (200, b"")
        assert counters(transport)[:2] == ((1, 1) if kept else (0, 0))


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_body_may_end_with_the_connection(version: bytes) -> None:
    body = b"x" * 300_000
    async with (
        serving(once(b"HTTP/%b 200 OK\r\n\r\n%b" % (version, body))) as upstream,
        transport_to(upstream) as transport,
    ):
        assert await fetch(transport) == (200, body)
        assert counters(transport) == (0, 0, 0, 0)


async def test_a_small_answer_is_whole_when_its_head_is_there() -> None:
    async with serving(answering(OK)) as upstream, transport_to(upstream) as transport:
        response = await transport.handle_async_request(request())
        assert response.stream.whole() == b"ok"  # type: ignore[union-attr]
        assert counters(transport) == (1, 1, 0, 0)


async def test_httpx_reads_it_like_any_response() -> None:
    async with serving(answering(OK)) as upstream, transport_to(upstream) as transport:
        response = await transport.handle_async_request(request())
        assert await response.aread() == b"ok"
        assert response.is_closed


async def test_keep_alive_uses_the_connection_used_last() -> None:
    async with serving(answering(OK)) as upstream, transport_to(upstream) as transport:
        await asyncio.gather(*[fetch(transport) for _ in range(3)])
        assert counters(transport) == (3, 3, 0, 0)
        last = transport.pool._idle[-1]
        await fetch(transport)
        assert transport.pool._idle[-1] is last
        assert upstream.connections == 3


# --- request bodies


async def test_a_body_with_a_length_goes_as_it_is() -> None:
    received = b""

    async def script(wire: Wire) -> None:
        nonlocal received
        while await wire.head():
            received += await wire.body(6)
            await wire.send(OK)

    async with serving(script) as upstream, transport_to(upstream) as transport:
        assert await fetch(transport, post(b"abc", b"", b"def")) == (200, b"ok")
        assert received == b"abcdef"
        assert counters(transport) == (1, 1, 0, 0)


async def test_a_body_without_a_length_goes_in_chunks() -> None:
    received = b""

    async def script(wire: Wire) -> None:
        nonlocal received
        while await wire.head():
            received = await wire.reader.readuntil(b"0\r\n\r\n")
            await wire.send(OK)

    async with serving(script) as upstream, transport_to(upstream) as transport:
        sent = request("POST", headers=[(b"transfer-encoding", b"chunked")], body=Body([b"abc", b"", b"d" * 16]))
        assert await fetch(transport, sent) == (200, b"ok")
        assert received == b"3\r\nabc\r\n10\r\n" + b"d" * 16 + b"\r\n0\r\n\r\n"
        assert counters(transport) == (1, 1, 0, 0)


async def test_a_body_without_framing_is_not_sent() -> None:
    body = Body([b"abc"])
    async with serving(answering(OK)) as upstream, transport_to(upstream) as transport:
        assert await fetch(transport, request("POST", body=body)) == (200, b"ok")
        assert body.sent == 0


@pytest.mark.parametrize("chunks", [[b"ab"], [b"abcd"], [b"ab", b"cd"], []])
async def test_a_body_that_belies_its_length_closes_the_connection(chunks: list[bytes]) -> None:
    async def script(wire: Wire) -> None:
        await wire.left()

    async with serving(script) as upstream, transport_to(upstream) as transport:
        with pytest.raises(BadRequest):
            await fetch(transport, request("POST", headers=[(b"content-length", b"3")], body=Body(chunks)))
        assert counters(transport) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", b"3"), (b"transfer-encoding", b"chunked")],
        [(b"content-length", b"3"), (b"content-length", b"4")],
        [(b"content-length", b"-3")],
    ],
)
async def test_ambiguous_request_framing_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    async with serving(answering(OK)) as upstream, transport_to(upstream) as transport:
        with pytest.raises(BadRequest):
            await fetch(transport, request("POST", headers=headers, body=Body([b"abc"])))
        assert upstream.connections == 0


async def test_what_the_body_raises_comes_through_and_closes_the_connection() -> None:
    class ClientLeft(Exception):
        pass

    class Broken(httpx.AsyncByteStream):
        async def __aiter__(self):  # type: ignore[no-untyped-def]
            yield b"a"
            raise ClientLeft

    async def script(wire: Wire) -> None:
        await wire.left()

    async with serving(script) as upstream, transport_to(upstream) as transport:
        with pytest.raises(ClientLeft):
            await fetch(transport, request("POST", headers=[(b"content-length", b"9")], body=Broken()))
        assert counters(transport) == (0, 0, 0, 0)
        await until(lambda: upstream.live == 0)


class Stalled(httpx.AsyncByteStream):
    """A client that sends a little and then nothing."""

    def __init__(self) -> None:
        self.interrupted = False

    async def __aiter__(self):  # type: ignore[no-untyped-def]
        yield b"a"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.interrupted = True
            raise


@pytest.mark.parametrize("size", [2, 300_000])
async def test_an_early_answer_stops_the_body(size: int) -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.body(1)
        await wire.send(b"HTTP/1.1 413 No\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
        await wire.left()

    body = Stalled()
    async with serving(script) as upstream, transport_to(upstream) as transport:
        sent = request("POST", headers=[(b"content-length", b"9")], body=body)
        async with asyncio.timeout(3):
            assert await fetch(transport, sent) == (413, b"x" * size)
        assert body.interrupted
        assert counters(transport) == (0, 0, 0, 0)
        current = asyncio.current_task()
        assert current is not None
        assert current.cancelling() == 0


async def test_an_early_answer_survives_the_reset_that_follows_it() -> None:
    """The upstream refuses a big body and closes with data unread: the kernel answers what we still send with RST."""

    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 413 No\r\nconnection: close\r\ncontent-length: 5\r\n\r\nlarge")

    async with serving(script) as upstream, transport_to(upstream) as transport:
        for _ in range(50):
            assert await fetch(transport, post(*[b"x" * 65536] * 300)) == (413, b"large")
        await until(lambda: counters(transport) == (0, 0, 0, 0))


async def test_an_answer_unread_when_writing_fails_is_still_delivered() -> None:
    """Answer and reset arrive between two writes, unseen by the loop: the next write fails first."""
    closed = threading.Event()

    def refuse(listener: socket.socket) -> None:
        client, _ = listener.accept()
        client.recv(1)
        client.sendall(b"HTTP/1.1 413 No\r\ncontent-length: 5\r\n\r\nlarge")
        client.close()  # with bytes unread: RST
        closed.set()

    class Blocking(httpx.AsyncByteStream):
        async def __aiter__(self):  # type: ignore[no-untyped-def]
            yield b"x" * 1000
            await asyncio.sleep(0)  # lets uvloop write
            closed.wait(5)
            for _ in range(99):
                yield b"x" * 1000

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse, args=(listener,))
        thread.start()
        async with transport_to(port=listener.getsockname()[1]) as transport:
            sent = request("POST", headers=[(b"content-length", b"100000")], body=Blocking())
            assert await fetch(transport, sent) == (413, b"large")
        thread.join()


# --- memory


def reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return peak_kb()


def peak_kb() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


async def test_100_mb_each_way_pass_in_bounded_memory() -> None:
    block, blocks = b"x" * 65536, 1600

    async def script(wire: Wire) -> None:
        while await wire.head():
            left = len(block) * blocks
            while left:
                left -= len(await wire.reader.read(65536))
            await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (len(block) * blocks))
            for _ in range(blocks):
                await wire.send(block)

    async with serving(script) as upstream, transport_to(upstream) as transport:
        before_kb = reset_peak()
        response = await transport.handle_async_request(post(*[block] * blocks))
        received = 0
        async for chunk in response.stream:  # type: ignore[union-attr]
            received += len(chunk)
        await response.aclose()
        assert received == len(block) * blocks
        assert peak_kb() - before_kb < 15_000
        assert counters(transport) == (1, 1, 0, 0)


async def test_an_unread_answer_is_not_taken_from_the_upstream() -> None:
    sent = 0

    async def script(wire: Wire) -> None:
        nonlocal sent
        await wire.head()
        wire.writer.transport.set_write_buffer_limits(0)
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(1000):
            await wire.send(b"x" * 65536)
            sent += 65536

    async with serving(script) as upstream, transport_to(upstream) as transport:
        response = await transport.handle_async_request(request())
        await until(lambda: transport.pool._connections and next(iter(transport.pool._connections))._reading_paused)
        held = response.stream.unread_bytes  # type: ignore[union-attr]
        assert 128 * 1024 < held < 512 * 1024
        assert len(await read(response)) == 65536 * 1000


# --- where to


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with serving(answering(OK), unix_path=path), transport_to(host=f"unix:{path}") as transport:
        assert await fetch(transport) == (200, b"ok")


async def test_ipv6() -> None:
    async with serving(answering(OK), host="::1") as upstream, transport_to(upstream, host="::1") as transport:
        assert await fetch(transport) == (200, b"ok")


@pytest.mark.parametrize("host", ["127.0.0.1", "unix:/nowhere/at/all", "no-such-host.invalid", "x" * 300])
async def test_no_upstream_is_connect_failed_and_safe_to_retry(host: str) -> None:
    async with transport_to(host=host, port=1) as transport:
        with pytest.raises(ConnectFailed) as caught:
            await fetch(transport, post(b"abc"))
        assert caught.value.safe_to_retry
        assert counters(transport) == (0, 0, 0, 0)


# --- upgrades


async def test_101_hands_the_connection_over() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhello")
        while data := await wire.reader.read(65536):
            await wire.send(data.upper())

    async with serving(script) as upstream, transport_to(upstream) as transport:
        sent = request(headers=[(b"connection", b"upgrade"), (b"upgrade", b"echo")])
        response = await transport.handle_async_request(sent)
        assert response.status_code == 101
        stream = response.extensions["network_stream"]
        assert await stream.read() == b"hello"
        await stream.write(b"abc")
        assert await stream.read() == b"ABC"
        assert counters(transport) == (1, 0, 1, 0)
        await stream.aclose()
        assert counters(transport) == (0, 0, 0, 0)
        await until(lambda: upstream.live == 0)
        with pytest.raises(UpstreamBroke):
            await stream.write(b"abc")


async def test_the_end_of_a_tunnel_reads_as_nothing() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")

    async with serving(script) as upstream, transport_to(upstream) as transport:
        response = await transport.handle_async_request(request(headers=[(b"upgrade", b"echo")]))
        assert await response.extensions["network_stream"].read() == b""
        assert counters(transport) == (0, 0, 0, 0)


# --- all pools


async def test_pools_are_kept_while_their_key_is() -> None:
    async with serving(answering(OK)) as upstream:
        target, spec = specs(port=upstream.port)
        same_target, same_spec = specs(port=upstream.port, id=7, name="renamed", balancing="least-connections")
        _, other = specs(port=upstream.port, idle_timeout_s=9.0)
        transports = Transports()
        kept = transports.get(spec, target)
        assert transports.get(same_spec, same_target) is kept
        dropped = transports.get(other, target)
        assert dropped is not kept
        for transport in (kept, dropped):
            assert await fetch(transport) == (200, b"ok")
        transports.retain([transport_key(spec, target)])
        assert (counters(kept), counters(dropped)) == ((1, 1, 0, 0), (0, 0, 0, 0))
        assert transports.get(other, target) is not dropped
        await transports.aclose()
        await until(lambda: upstream.live == 0)


async def test_connections_in_use_outlive_the_pool() -> None:
    go = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.head()
        await go.wait()
        await wire.send(OK)
        await wire.left()

    async with serving(script) as upstream, transport_to(upstream) as transport:
        fetching = asyncio.create_task(fetch(transport))
        await until(lambda: upstream.heads)
        await transport.aclose()
        go.set()
        assert await fetching == (200, b"ok")
        assert counters(transport) == (0, 0, 0, 0)


def test_no_body_is_a_stream_like_any_other() -> None:
    async def collect() -> list[bytes]:
        return [chunk async for chunk in NO_BODY]

    assert asyncio.run(collect()) == []
