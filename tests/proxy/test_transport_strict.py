"""Answers that are not valid, or not whole: each is UpstreamBroke, and its connection is never used again."""

from __future__ import annotations

import asyncio

import pytest

from gateway.proxy.errors import BadRequest, UpstreamBroke
from gateway.proxy.messages import POSTED_BYTES
from tests.proxy.sending import Body, counters, fetch, post, read, request, transport_to
from tests.upstream import OK, Wire, answering, once, serving, until

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

INVALID_HEADS = {
    "te and cl": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "cl and te": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "te twice": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "te list": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "te unknown": b"HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "te identity": b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nabc",
    "te in 1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "te in 304 and cl": b"HTTP/1.1 304 N\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n",
    "cl differing": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "cl repeated": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na",
    "cl list": b"HTTP/1.1 200 OK\r\ncontent-length: 1, 2\r\n\r\na",
    "cl signed": b"HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\na",
    "cl negative": b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\na",
    "cl empty": b"HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\na",
    "cl overflow": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\na",
    "obs-fold": b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n",
    "fold before the first field": b"HTTP/1.1 200 OK\r\n x: a\r\ncontent-length: 0\r\n\r\n",
    "lf after status": b"HTTP/1.1 200 OK\ncontent-length: 0\r\n\r\n",
    "lf after field": b"HTTP/1.1 200 OK\r\ncontent-length: 0\n\r\n",
    "lf at the end": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\n",
    "cr in a value": b"HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 0\r\n\r\n",
    "nul in a value": b"HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n",
    "space before colon": b"HTTP/1.1 200 OK\r\ncontent-length : 0\r\n\r\n",
    "space in a name": b"HTTP/1.1 200 OK\r\nx y: b\r\ncontent-length: 0\r\n\r\n",
    "no name": b"HTTP/1.1 200 OK\r\n: b\r\ncontent-length: 0\r\n\r\n",
    "http 2.0": b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "http 0.9": b"HTTP/0.9 200 OK\r\ncontent-length: 0\r\n\r\n",
    "http 1.2": b"HTTP/1.2 200 OK\r\ncontent-length: 0\r\n\r\n",
    "status below 100": b"HTTP/1.1 099 OK\r\ncontent-length: 0\r\n\r\n",
    "not http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "101 unasked": b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    "100 with a body": b"HTTP/1.1 100 C\r\ncontent-length: 3\r\n\r\nabc" + OK,
    "200 fields too many": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 201 + b"\r\n",
    "one field too large": b"HTTP/1.1 200 OK\r\na: " + b"b" * 65600 + b"\r\n\r\n",
    "head too large": b"HTTP/1.1 200 OK\r\n" + (b"a: " + b"b" * 1000 + b"\r\n") * 80 + b"\r\n",
    "head without end": b"HTTP/1.1 200 OK\r\na: " + b"b" * 200_000,
    "name without end": b"HTTP/1.1 200 OK\r\n" + b"b" * 200_000,
    "interim answers without end": b"HTTP/1.1 100 C\r\n\r\n" * 10_000,
}


@pytest.mark.parametrize("answer", INVALID_HEADS.values(), ids=INVALID_HEADS.keys())
async def test_an_invalid_head_is_no_answer(answer: bytes) -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(answer)
        await wire.left()

    async with serving(script) as upstream, transport_to(upstream) as transport:
        with pytest.raises(UpstreamBroke):
            await fetch(transport)
        assert counters(transport) == (0, 0, 0, 0)
        await until(lambda: upstream.live == 0)
        assert upstream.connections == 1


async def test_a_head_at_the_limits_passes() -> None:
    head = b"HTTP/1.1 200 OK\r\n" + (b"a: " + b"b" * 300 + b"\r\n") * 199 + b"content-length: 2\r\n\r\nok"
    async with serving(answering(head)) as upstream, transport_to(upstream) as transport:
        assert await fetch(transport) == (200, b"ok")


INVALID_BODIES = {
    "chunk size not hex": CHUNKED + b"xyz\r\na\r\n0\r\n\r\n",
    "chunk size 0x": CHUNKED + b"0x1\r\na\r\n0\r\n\r\n",
    "chunk size negative": CHUNKED + b"-1\r\na\r\n0\r\n\r\n",
    "chunk size with space": CHUNKED + b"1 \r\na\r\n0\r\n\r\n",
    "chunk size overflow": CHUNKED + b"fffffffffffffffff\r\na\r\n0\r\n\r\n",
    "chunk size missing": CHUNKED + b"\r\na\r\n0\r\n\r\n",
    "chunk longer than its size": CHUNKED + b"1\r\nab\r\n0\r\n\r\n",
    "lf after chunk size": CHUNKED + b"1\na\r\n0\r\n\r\n",
    "lf after chunk": CHUNKED + b"1\r\na\n0\r\n\r\n",
    "lf after last chunk": CHUNKED + b"1\r\na\r\n0\n\n",
    "chunk extension without end": CHUNKED + b"1;" + b"x" * 500_000,
    "trailer without end": CHUNKED + b"1\r\na\r\n0\r\nx: " + b"y" * 500_000,
    "trailers too many": CHUNKED + b"1\r\na\r\n0\r\n" + b"x: y\r\n" * 300 + b"\r\n",
    "trailer frames the body": CHUNKED + b"1\r\na\r\n0\r\ncontent-length: 9\r\n\r\n",
}

CUT_SHORT = {
    "content-length": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc",
    "content-length, nothing": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n",
    "in a chunk": CHUNKED + b"9\r\nabc",
    "between chunks": CHUNKED + b"3\r\nabc\r\n",
    "in the last chunk": CHUNKED + b"3\r\nabc\r\n0\r\n",
    "in trailers": CHUNKED + b"3\r\nabc\r\n0\r\nx: y\r\n",
}


@pytest.mark.parametrize("answer", [*INVALID_BODIES.values(), *CUT_SHORT.values()], ids=[*INVALID_BODIES, *CUT_SHORT])
@pytest.mark.parametrize("head_first", [False, True])
async def test_a_body_that_breaks_off_never_ends_normally(answer: bytes, head_first: bool) -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        if head_first:
            head, _, rest = answer.partition(b"\r\n\r\n")
            await wire.send(head + b"\r\n\r\n")
            await seen.wait()
            await wire.send(rest)
        else:
            await wire.send(answer)

    seen = asyncio.Event()
    async with serving(script) as upstream, transport_to(upstream) as transport:
        with pytest.raises(UpstreamBroke):
            await fetch(transport, on_head=seen.set)
        await until(lambda: counters(transport) == (0, 0, 0, 0))


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\na: b\r\n"])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_fresh_connection_that_dies_is_not_retried_here(start: bytes, reset: bool) -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(start)
        if reset:
            wire.reset()

    async with serving(script) as upstream, transport_to(upstream) as transport:
        for sent, safe in ((request(), True), (request("DELETE"), True), (request("POST"), False), (post(b"a"), False)):
            with pytest.raises(UpstreamBroke) as caught:
                await fetch(transport, sent)
            assert caught.value.safe_to_retry is safe
        assert upstream.connections == 4
        assert counters(transport) == (0, 0, 0, 0)


async def test_a_body_ended_by_reset_is_not_complete() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        await seen.wait()
        wire.reset()

    seen = asyncio.Event()
    async with serving(script) as upstream, transport_to(upstream) as transport:
        response = await transport.handle_async_request(request())
        seen.set()
        with pytest.raises(UpstreamBroke) as caught:
            await read(response)
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        assert not caught.value.safe_to_retry


async def test_bytes_on_an_idle_connection_close_it() -> None:
    late = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(OK)
        await late.wait()
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
        await wire.left()

    async with serving(script) as upstream, transport_to(upstream) as transport:
        assert await fetch(transport) == (200, b"ok")
        late.set()
        await until(lambda: counters(transport) == (0, 0, 0, 0))
        assert await fetch(transport) == (200, b"ok")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_bytes_after_an_answer_are_never_the_next_one(method: str) -> None:
    """Also when they wait in the socket, unseen by the loop, while the next request looks for a connection."""

    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(OK)
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
        await wire.left()

    async with serving(script) as upstream, transport_to(upstream) as transport:
        for _ in range(50):
            assert await fetch(transport, request(method)) == (200, b"ok")


@pytest.mark.parametrize(
    ("head", "behind", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\n", b"", False),
        (b"HTTP/1.0 200 OK\r\n", b"", False),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison", False),
    ],
)
async def test_a_long_body_is_passed_on_as_it_is_and_ends_where_it_said(head: bytes, behind: bytes, kept: bool) -> None:
    """Behind its first packet it is not parsed any more: it may look like anything."""
    body = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n\0" * 50_000

    async def script(wire: Wire) -> None:
        while await wire.head():
            await wire.send(head + b"content-length: %d\r\n\r\n" % len(body) + body[:7])
            await wire.send(body[7:-5])
            await wire.send(body[-5:] + behind)

    async with serving(script) as upstream, transport_to(upstream) as transport:
        for _ in range(3):
            assert await fetch(transport) == (200, body)
            await until(lambda: counters(transport) == ((1, 1, 0, 0) if kept else (0, 0, 0, 0)))
        assert upstream.connections == (1 if kept else 3)


async def test_a_long_body_that_breaks_off_is_not_complete() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n" + b"x" * 10)
        await wire.send(b"x" * 989)

    async with serving(script) as upstream, transport_to(upstream) as transport:
        with pytest.raises(UpstreamBroke):
            await fetch(transport)
        assert counters(transport) == (0, 0, 0, 0)


class Here(Body):
    """A body that is all there."""

    def at_once(self, most: int) -> bytes | None:
        whole = b"".join(self.chunks)
        return whole if len(whole) <= most else None


@pytest.mark.parametrize("size", [0, 1, 10_000, POSTED_BYTES, POSTED_BYTES + 1, 100_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_there_already_arrives_as_any_other(size: int, chunked: bool) -> None:
    text = b"x" * size
    got = []

    async def script(wire: Wire) -> None:
        while await wire.head():
            if chunked:
                parts = []
                while length := int(await wire.reader.readuntil(b"\r\n"), 16):
                    parts.append((await wire.body(length + 2))[:-2])
                await wire.body(2)
                got.append(b"".join(parts))
            else:
                got.append(await wire.body(size))
            await wire.send(OK)

    framing = (b"transfer-encoding", b"chunked") if chunked else (b"content-length", b"%d" % size)
    async with serving(script) as upstream, transport_to(upstream) as transport:
        for _ in range(2):
            body = Here([text])
            assert await fetch(transport, request("POST", headers=[framing], body=body)) == (200, b"ok")
            assert body.sent == (0 if size <= POSTED_BYTES else 1)
        assert upstream.connections == 1
    assert got == [text, text]


async def test_a_body_of_another_length_is_not_sent() -> None:
    async with serving(answering(OK)) as upstream, transport_to(upstream) as transport:
        with pytest.raises(BadRequest):
            await fetch(transport, request("POST", headers=[(b"content-length", b"3")], body=Here([b"four"])))
        assert await fetch(transport) == (200, b"ok")
        assert len(upstream.heads) == 1


async def test_the_answer_before_an_invalid_one_stands() -> None:
    async with serving(once(OK + b"garbage\r\n\r\n")) as upstream, transport_to(upstream) as transport:
        assert await fetch(transport) == (200, b"ok")
        assert counters(transport) == (0, 0, 0, 0)
