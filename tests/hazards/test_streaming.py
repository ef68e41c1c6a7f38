"""What flows while it is made: events, long polls, ranges, hints, trailers; and nobody left who would read it."""

from __future__ import annotations

import asyncio
import socket
import statistics
import struct
import time
from collections.abc import Callable

import pytest

from tests.e2e.gateway import wait_until
from tests.hazards.conftest import MB, Hardened
from tests.running import Stopwatch
from tests.upstream import Script, Wire, answering, once, serving, until

GET = b"GET /raw/x HTTP/1.1\r\nHost: a.test\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n"


async def connect(hardened: Hardened) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", hardened.port)


async def whole(hardened: Hardened, script: Script, request: bytes) -> tuple[bytes, list[bytes]]:
    """All bytes of the answer, the connection closed by it; and the heads that the upstream was sent."""
    async with serving(script, port=hardened.raw_port) as up:
        reader, writer = await connect(hardened)
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await writer.wait_closed()
    return answer, up.heads


@pytest.mark.parametrize("framing", ["chunked", "until close"])
async def test_an_event_leaves_within_5_ms_of_its_arrival(hardened: Hardened, framing: str) -> None:
    """Upstream and client share one clock here; half of the way each is the kernel's."""
    sent_s: list[float] = []
    taken = asyncio.Event()

    async def events(wire: Wire) -> None:
        await wire.head()
        await wire.send(EVENTS + (b"transfer-encoding: chunked\r\n\r\n" if framing == "chunked" else b"\r\n"))
        for number in range(200):
            event = b"data: %d\n\n" % number
            sent_s.append(time.perf_counter())
            await wire.send(b"%x\r\n%b\r\n" % (len(event), event) if framing == "chunked" else event)
            await asyncio.wait_for(taken.wait(), 5)
            taken.clear()
        if framing == "chunked":
            await wire.send(b"0\r\n\r\n")

    async with serving(events, port=hardened.raw_port):
        reader, writer = await connect(hardened)
        writer.write(GET + b"Accept: text/event-stream\r\nConnection: close\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"content-type: text/event-stream" in head
        delays_ms = []
        for number in range(200):
            event = await asyncio.wait_for(reader.readuntil(b"\n\n"), 5)
            delays_ms.append((time.perf_counter() - sent_s[-1]) * 1000)
            assert event.endswith(b"data: %d\n\n" % number)
            taken.set()
        await reader.read()
        writer.close()
        await writer.wait_closed()
    assert statistics.median(delays_ms) < 5, sorted(delays_ms)[-10:]


async def test_a_long_poll_is_answered_when_there_is_something(hardened: Hardened) -> None:
    """Longer than any limit of the front on slow clients: waiting for an answer is not the client's delay."""
    asked, something = asyncio.Event(), asyncio.Event()

    async def poll(wire: Wire) -> None:
        await wire.head()
        asked.set()
        await something.wait()
        await wire.send(OK)

    async with serving(poll, port=hardened.raw_port):
        reader, writer = await connect(hardened)
        writer.write(GET + b"Connection: close\r\n\r\n")
        await asyncio.wait_for(asked.wait(), 5)
        await asyncio.sleep(4.5)  # it is time itself that must do nothing here
        something.set()
        assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"\r\n\r\nok")
        writer.close()
        await writer.wait_closed()


async def test_a_range_request_passes_both_ways(hardened: Hardened) -> None:
    partial = (
        b'HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 2-4/10\r\naccept-ranges: bytes\r\netag: "v1"\r\n'
        b"content-length: 3\r\n\r\n234"
    )
    fields = b'Range: bytes=2-4\r\nIf-Range: "v1"\r\n'
    answer, heads = await whole(hardened, once(partial), GET + fields + b"Connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 206 ")
    assert b"content-range: bytes 2-4/10\r\n" in answer
    assert b"content-length: 3\r\n" in answer
    assert answer.endswith(b"\r\n\r\n234")
    assert b'range: bytes=2-4\r\nif-range: "v1"\r\n' in heads[0]


async def test_an_unsatisfiable_range_keeps_its_answer(hardened: Hardened) -> None:
    refusal = b"HTTP/1.1 416 Range Not Satisfiable\r\ncontent-range: bytes */10\r\ncontent-length: 0\r\n\r\n"
    answer, _ = await whole(hardened, once(refusal), GET + b"Range: bytes=90-\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 416 ")
    assert b"content-range: bytes */10\r\n" in answer


async def test_early_hints_arrive_before_their_answer(hardened: Hardened) -> None:
    seen = asyncio.Event()

    async def hint(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nset-cookie: a=1\r\n\r\n")
        await asyncio.wait_for(seen.wait(), 5)
        await wire.send(b"HTTP/1.1 103 Early Hints\r\nlink: </b.js>\r\nlink: </c.js>\r\n\r\n" + OK)

    async with serving(hint, port=hardened.raw_port):
        reader, writer = await connect(hardened)
        writer.write(GET + b"Connection: close\r\n\r\n")
        first = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        seen.set()
        rest = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await writer.wait_closed()
    assert first == b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n"
    second, _, answer = rest.partition(b"\r\n\r\n")
    assert second == b"HTTP/1.1 103 Early Hints\r\nlink: </b.js>\r\nlink: </c.js>"
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\nok")


@pytest.mark.parametrize("interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\n"])
async def test_other_interim_answers_stay_between_two_hops(hardened: Hardened, interim: bytes) -> None:
    answer, _ = await whole(hardened, once(interim + OK), GET + b"Connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_client_of_http_1_0_gets_no_interim_answer(hardened: Hardened) -> None:
    hints = once(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + OK)
    answer, _ = await whole(hardened, hints, b"GET /raw/x HTTP/1.0\r\nHost: a.test\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_trailers_are_dropped_both_ways_also_for_those_who_ask(hardened: Hardened) -> None:
    """RFC 9110 §6.5.1 lets an intermediary drop them; merging or passing them is how fields get past a policy."""
    bodies: list[bytes] = []

    async def trailing(wire: Wire) -> None:
        await wire.head()
        bodies.append(await wire.reader.readuntil(b"0\r\n\r\n"))
        await wire.send(
            b"HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n"
        )

    request = (
        b"POST /raw/x HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nTrailer: x-admin\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: close, TE\r\n\r\n2\r\nhi\r\n0\r\nX-Admin: 1\r\nX-Consumer-Id: 1\r\n\r\n"
    )
    answer, heads = await whole(hardened, trailing, request)
    assert bodies == [b"2\r\nhi\r\n0\r\n\r\n"]
    assert not any(word in heads[0].lower() for word in (b"trailer", b"\r\nte:", b"x-admin", b"x-consumer"))
    assert b"ok" in answer
    assert b"x-sum" not in answer


async def answer_then_silence(wire: Wire) -> None:
    await wire.head()
    await wire.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
    await wire.left()


async def take_nothing(wire: Wire) -> None:
    await wire.head()
    wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await until(lambda: wire.upstream.heads[-1:] == [b"done"], 20)
    wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
    await wire.left()


async def flood(wire: Wire) -> None:
    await wire.head()
    await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (400 * MB))
    while True:
        await wire.send(bytes(MB))


@pytest.mark.parametrize(
    ("script", "request_", "mark"),
    [
        (answer_then_silence, GET + b"\r\n", b"x\r\n"),
        (answer_then_silence, GET + b"\r\n" + GET + b"\r\n", b"x\r\n"),
        (flood, GET + b"\r\n", b"\r\n\r\n"),
    ],
    ids=["while events wait", "with a request sent ahead", "while it does not read"],
)
async def test_the_upstream_is_let_go_within_a_second_when_the_client_leaves(
    hardened: Hardened, script: Script, request_: bytes, mark: bytes
) -> None:
    async with serving(script, port=hardened.raw_port) as up:
        reader, writer = await connect(hardened)
        writer.write(request_)
        await asyncio.wait_for(reader.readuntil(mark), 5)
        writer.transport.abort()
        watch = Stopwatch()
        await until(lambda: not up.live)
        assert watch.s < 1


async def test_a_client_that_leaves_an_upload_nobody_takes_is_recorded_as_gone(hardened: Hardened) -> None:
    """Its end stands behind bytes that the gateway does not read, for the upstream does not either."""

    def rows() -> int:
        sql = "SELECT count(*) FROM usage_row WHERE path = '/raw/upload' AND outcome = 'client_closed' AND status = 499"
        return int(hardened.gateway.query(sql)[0][0])

    async with serving(take_nothing, port=hardened.raw_port) as up:
        _, writer = await connect(hardened)
        writer.write(b"POST /raw/upload HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n" % (90 * MB))
        for _ in range(40):
            writer.write(bytes(MB))
        await until(lambda: up.live == 1)
        await settled(writer.transport.get_write_buffer_size)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        watch = Stopwatch()
        await asyncio.to_thread(wait_until, lambda: not hardened.gateway.get_json("/status")["requests_in_flight"])
        assert watch.s < 1.5  # a sweep, and asking
        up.heads.append(b"done")
        await asyncio.to_thread(wait_until, rows)


async def settled(value: Callable[[], int]) -> None:
    """When it has not changed for some time."""
    last, since_s = value(), time.monotonic()
    while time.monotonic() - since_s < 0.3:
        await asyncio.sleep(0.02)
        if (now := value()) != last:
            last, since_s = now, time.monotonic()


async def test_two_requests_sent_at_once_get_answers_in_order(hardened: Hardened) -> None:
    second = GET.replace(b"/x", b"/y") + b"Connection: close\r\n\r\n"
    answer, heads = await whole(hardened, answering(OK, OK.replace(b"ok", b"no")), GET + b"\r\n" + second)
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.endswith(b"no")
    assert [head.split(b" ")[1] for head in heads] == [b"/raw/x", b"/raw/y"]
