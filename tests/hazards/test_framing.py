"""Messages keep their shape on the way through: lengths, chunks, trailers, 1xx, HEAD, 204 and 304, equal fields."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.e2e.gateway import Gateway, free_port, route, upstream
from tests.upstream import Script, Wire, answering, once, serving


async def exchange(gateway: Gateway, port: int, script: Script, request: bytes) -> tuple[bytes, bytes, list[bytes]]:
    """(head, rest) as the client received them up to the end of the connection, and what the upstream was sent."""
    async with serving(script, port=port) as up:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await writer.wait_closed()
    head, _, rest = answer.partition(b"\r\n\r\n")
    return head, rest, up.heads


@pytest.fixture(scope="module")
def port(gateway: Gateway) -> int:
    """Where every test's upstream listens in turn."""
    port = free_port()
    gateway.configure({
        "format": 1, "upstreams": [upstream("up", port)], "routes": [route("all", "/*", "up")], "plugins": [],
    })  # fmt: skip
    return port


GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
HEAD = GET.replace(b"GET", b"HEAD", 1)
COOKIES = b"HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 2\r\n\r\nok"


@pytest.mark.parametrize(
    ("answer", "request_", "has", "hasnt", "body"),
    [
        (COOKIES, GET, [b"set-cookie: a=1\r\nset-cookie: b=2", b"content-length: 2"], [b"transfer-encoding"], b"ok"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x\r\n\r\n2\r\nok\r\n0\r\nx: 1\r\n\r\n", GET,
         [b" 200 "], [b"trailer"], b"ok"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", GET, [b" 200 "], [], b"until the end"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n", HEAD, [b"content-length: 5000"], [], b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", GET, [b" 204 "], [b"content-length", b"content-type"], b""),
        (b"HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n", GET, [b" 304 ", b"etag: x"], [b"content-length"], b""),
        (b"HTTP/1.1 102 Processing\r\nx: y\r\n\r\n" + COOKIES, GET, [b" 200 "], [b"102"], b"ok"),
        (b"HTTP/1.1 200 OK\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\ncontent-length: 0\r\n\r\n", GET,
         [b" 200 "], [b"x-hop", b"keep-alive"], b""),
    ],
)  # fmt: skip
async def test_an_answers_shape(
    gateway: Gateway, port: int, answer: bytes, request_: bytes, has: list[bytes], hasnt: list[bytes], body: bytes
) -> None:
    head, rest, _ = await exchange(gateway, port, once(answer), request_)
    assert all(field in head for field in has), head
    assert not any(field in head.lower() for field in hasnt), head
    assert payload(head, rest) == body


def payload(head: bytes, rest: bytes) -> bytes:
    """The body without its framing, which each connection has of its own: a length, or chunks."""
    if b"transfer-encoding: chunked" not in head:
        return rest
    body, left = b"", rest
    while left != b"0\r\n\r\n":
        size, _, left = left.partition(b"\r\n")
        body, left = body + left[: int(size, 16)], left[int(size, 16) + 2 :]
    return body


async def test_a_chunk_is_passed_on_when_it_comes(gateway: Gateway, port: int) -> None:
    seen = asyncio.Event()

    async def two(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        await asyncio.wait_for(seen.wait(), 5)  # the head went through before any byte of the body
        seen.clear()
        await wire.send(b"3\r\none\r\n")
        await asyncio.wait_for(seen.wait(), 5)
        await wire.send(b"3\r\ntwo\r\n0\r\n\r\n")

    async with serving(two, port=port):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(GET)
        assert b"transfer-encoding: chunked" in await reader.readuntil(b"\r\n\r\n")
        seen.set()
        assert await reader.readuntil(b"one\r\n") == b"3\r\none\r\n"
        seen.set()
        assert await reader.read() == b"3\r\ntwo\r\n0\r\n\r\n"
        writer.close()
        await writer.wait_closed()


async def test_a_request_body_arrives_with_its_length_or_in_chunks(gateway: Gateway, port: int) -> None:
    bodies: list[bytes] = []

    async def collect(wire: Wire) -> None:
        head = await wire.head()
        if b"content-length: 5\r\n" in head:
            bodies.append(await wire.body(5))
        else:
            assert b"transfer-encoding: chunked\r\n" in head
            bodies.append(await wire.reader.readuntil(b"0\r\n\r\n"))
        await wire.send(COOKIES)

    post = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    await exchange(gateway, port, collect, post + b"Content-Length: 5\r\n\r\nhello")
    await exchange(
        gateway, port, collect, post + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-trailer: 1\r\n\r\n"
    )
    assert bodies[0] == b"hello"
    assert b"hello" in bodies[1]
    assert b"x-trailer" not in bodies[1]


async def test_continue_is_said_when_the_body_is_wanted(gateway: Gateway, port: int) -> None:
    async def take(wire: Wire) -> None:
        await wire.head()
        await wire.body(5)
        await wire.send(COOKIES)

    async with serving(take, port=port) as up:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
        )
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(b"hello")
        assert b"200 OK" in await reader.read()
        writer.close()
        await writer.wait_closed()
    assert b"expect" not in up.heads[0].lower()


async def test_a_cut_answer_never_looks_whole(gateway: Gateway, port: int) -> None:
    cut = once(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
    async with serving(cut, port=port):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(GET)
        answer = b""
        with contextlib.suppress(ConnectionResetError):  # what a client may see, too
            while chunk := await asyncio.wait_for(reader.read(65536), 5):
                answer += chunk
        writer.close()
    assert b"hello" in answer
    assert not answer.endswith(b"0\r\n\r\n")


async def test_two_requests_on_one_connection_are_answered_in_order(gateway: Gateway, port: int) -> None:
    pipelined = GET.replace(b"Connection: close\r\n", b"") + GET
    head, rest, heads = await exchange(gateway, port, answering(COOKIES), pipelined)
    assert head.startswith(b"HTTP/1.1 200")
    assert rest.count(b"HTTP/1.1 200") == 1
    assert len(heads) == 2
