"""Nobody who is slow costs memory, and nobody who is silent stays: back-pressure and deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.running import Stopwatch
from tests.server.front import Client, Front, front, hello, read_body, until

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a.test\r\n"
MB = 1024 * 1024


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def slow_reader(server: Front) -> AsyncIterator[Client]:
    """A client whose own buffers are small."""
    client = await server.connect(limit=1024)
    client.writer.transport.pause_reading()
    yield client


class Sender:
    """Answers with 100 MB, and knows how much of it was taken."""

    def __init__(self) -> None:
        self.sent, self.gone = 0, False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"]["hydragate.cycle"].on_disconnect(lambda: setattr(self, "gone", True))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % (100 * MB))]})
        for left in range(99, -1, -1):
            for part in range(16):
                chunk = os.urandom(64) * 1024
                await send({"type": "http.response.body", "body": chunk, "more_body": bool(left or part < 15)})
                self.sent += len(chunk)


async def test_a_client_that_does_not_read_costs_no_memory() -> None:
    app = Sender()
    async with front(app) as server:
        before = resident_bytes()
        async with slow_reader(server) as client:
            await client.send(GET)
            await until(lambda: any(connection.write_paused for connection in server.listener.connections))
            assert app.sent < 20 * MB  # what the kernel holds for both sides
            assert resident_bytes() - before < 15 * MB
            client.writer.transport.resume_reading()
            assert len((await client.answer()).body) == 100 * MB


async def test_a_client_that_takes_nothing_is_dropped() -> None:
    app = Sender()
    async with front(app, write_timeout_s=0.1) as server, slow_reader(server) as client:
        await client.send(GET)
        await until(lambda: app.gone)
        await until(lambda: not server.listener.connections and not server.listener.requests)


async def test_requests_sent_ahead_without_reading_answers_stop_being_read() -> None:
    answered = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal answered
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 10_000})
        answered += 1

    async with front(app) as server, slow_reader(server) as client:
        client.writer.write(GET * 20_000)
        await until(lambda: any(connection.write_paused for connection in server.listener.connections))
        assert answered < 2_000  # of the 200 MB that were asked for


async def test_an_upload_waits_for_a_slow_application() -> None:
    go, largest, total = asyncio.Event(), 0, 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal largest, total
        await go.wait()
        more = True
        while more:
            message = await receive()
            largest, total, more = (
                max(largest, len(message["body"])),
                total + len(message["body"]),
                message["more_body"],
            )
            await asyncio.sleep(0)
        await hello(scope, receive, send)

    async with front(app) as server:
        client = await server.connect()
        before = resident_bytes()
        client.writer.write(POST + b"Content-Length: %d\r\n\r\n" % (50 * MB))
        sent = 0

        async def upload() -> None:
            nonlocal sent
            chunk = bytes(MB)
            for _ in range(50):
                await client.send(chunk)
                sent += MB

        uploading = asyncio.create_task(upload())
        await until(lambda: any(cycle.held > 65536 for cycle in server.listener.requests))
        assert sent < 20 * MB
        go.set()
        assert (await client.answer()).status == 200
        await uploading
        assert total == 50 * MB
        assert largest < MB
        assert resident_bytes() - before < 25 * MB  # the client's part of it included


async def test_a_silent_client_is_closed_silently() -> None:
    async with front(hello, head_timeout_s=0.1) as server:
        assert await (await server.connect()).rest() == b""
        assert server.refusals == []


@pytest.mark.parametrize("start", [b"G", b"GET / HTTP/1.1\r\nHost: a"])
async def test_a_head_that_does_not_end_is_a_408(start: bytes) -> None:
    async with front(hello, head_timeout_s=0.1) as server:
        client = await server.connect()
        assert (await client.ask(start)).json()["code"] == "request_timeout"
        assert await client.rest() == b""


async def test_a_head_that_trickles_is_a_408_all_the_same() -> None:
    async with front(hello, head_timeout_s=0.2) as server:
        client = await server.connect()

        async def trickle() -> None:
            await client.send(b"GET / HTTP/1.1\r\nX: ")
            while not client.writer.transport.is_closing():
                client.writer.write(b"a")
                await asyncio.sleep(0.01)

        trickling = asyncio.create_task(trickle())
        assert (await client.answer()).status == 408
        trickling.cancel()


async def test_an_idle_connection_is_closed() -> None:
    async with front(hello, keepalive_timeout_s=0.1) as server:
        client = await server.connect()
        assert (await client.ask(GET)).status == 200
        assert await client.rest() == b""
        assert server.refusals == []


async def test_a_body_that_stops_is_a_408_and_an_abort_once_answering() -> None:
    gone = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal gone
        if scope["path"] == "/started":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        gone += 1

    async with front(app, body_timeout_s=0.1) as server:
        client = await server.connect()
        assert (await client.ask(POST + b"Content-Length: 5\r\n\r\nab")).json()["code"] == "request_timeout"
        started = await server.connect()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await started.ask(POST.replace(b"/ ", b"/started ") + b"Content-Length: 5\r\n\r\nab")
        await until(lambda: gone == 2)


async def test_a_body_the_application_does_not_take_is_not_the_clients_delay() -> None:
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        while (await receive())["more_body"]:
            pass
        await hello(scope, receive, send)

    async with front(app, body_timeout_s=0.1) as server:
        client = await server.connect()
        uploading = asyncio.create_task(client.send(POST + b"Content-Length: 9000000\r\n\r\n" + bytes(9_000_000)))
        await until(lambda: any(cycle.held > 65536 for cycle in server.listener.requests))
        strikes_s = server.listener.loop.time() + 0.3  # the deadline that must not strike is long over by then
        await until(lambda: server.listener.loop.time() > strikes_s)
        go.set()
        assert (await client.answer()).status == 200
        await uploading


async def drip(client: Client, data: bytes = b"a", every_s: float = 0.01) -> None:
    """For as long as the server takes it."""
    while not client.writer.transport.is_closing():
        client.writer.write(data)
        await asyncio.sleep(every_s)


async def swallow(scope: Any, receive: Any, send: Any) -> None:
    if await read_body(receive):
        await hello(scope, receive, send)


async def test_a_body_that_trickles_is_a_408() -> None:
    async with front(swallow, body_timeout_s=0.3, min_body_bytes_per_s=10_000) as server:
        client = await server.connect()
        await client.send(POST + b"Content-Length: 100000\r\n\r\n")
        dripping = asyncio.create_task(drip(client))
        assert (await client.answer()).json()["code"] == "request_timeout"
        dripping.cancel()


async def test_bytes_of_framing_buy_no_time() -> None:
    async with front(swallow, body_timeout_s=0.3, min_body_bytes_per_s=2_000) as server:
        client = await server.connect()
        await client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        dripping = asyncio.create_task(
            drip(client, b"1;" + b"x" * 30 + b"\r\na\r\n")
        )  # 3,700 bytes a second, 100 of them body
        assert (await client.answer()).json()["code"] == "request_timeout"
        dripping.cancel()


async def test_a_fast_start_buys_no_more_than_the_grace() -> None:
    async with front(swallow, body_timeout_s=0.3, min_body_bytes_per_s=1_000) as server:
        client = await server.connect()
        await client.send(POST + b"Content-Length: 200000\r\n\r\n" + bytes(50_000))  # 50 s, if they were saved up
        dripping = asyncio.create_task(drip(client, every_s=0.1))
        assert (await client.answer()).json()["code"] == "request_timeout"
        dripping.cancel()


async def test_a_slow_body_above_the_rate_arrives() -> None:
    async with front(swallow, body_timeout_s=0.3, min_body_bytes_per_s=100) as server:
        client = await server.connect()
        await client.send(POST + b"Content-Length: 400\r\n\r\n")
        for _ in range(40):
            await client.send(b"0123456789")
            await asyncio.sleep(0.02)
        assert (await client.answer()).status == 200


async def test_line_breaks_before_a_head_buy_no_time() -> None:
    """Each pair is a blank line that may stand there, and each first half the beginning of a head."""
    async with front(hello, keepalive_timeout_s=60, head_timeout_s=0.3) as server:
        client = await server.connect()
        assert (await client.ask(GET)).status == 200
        watch = Stopwatch()
        for _ in range(1000):
            if server.refusals or not server.listener.connections:
                break
            for half in (b"\r", b"\n"):
                client.writer.write(half)
                await asyncio.sleep(0.01)
        assert watch.s < 3


async def narrow_reader(server: Front) -> socket.socket:
    """A client that asked, and whose kernel holds some kB, so that the server learns of each few that are read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, server.address)
    await asyncio.get_running_loop().sock_sendall(sock, GET)
    return sock


async def sip(sock: socket.socket, size: int, gone: Callable[[], bool], for_s: float = 1.5) -> int:
    """Reads so much 50 times a second; how much it was."""
    taken, end_s = 0, asyncio.get_running_loop().time() + for_s
    with sock:
        while not gone() and asyncio.get_running_loop().time() < end_s:
            await asyncio.sleep(0.02)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                taken += len(sock.recv(size))
    return taken


@pytest.mark.parametrize("rate", [0, 1_000_000])
async def test_a_reader_below_the_rate_is_dropped(rate: int) -> None:
    """Without a rate any byte counts."""
    app = Sender()
    async with front(app, write_timeout_s=0.5, min_answer_bytes_per_s=rate) as server:
        assert await sip(await narrow_reader(server), 2_000, lambda: app.gone) > 10_000
        assert app.gone == bool(rate)
        await until(lambda: app.gone)


async def test_a_slow_reader_is_seen_through_the_kernels_buffer() -> None:
    """The kernel takes nothing more from us for long, although the client reads all the time."""
    app = Sender()
    async with front(app, write_timeout_s=0.5, min_answer_bytes_per_s=1_000) as server:
        sock = await narrow_reader(server)
        await until(lambda: any(connection.write_paused for connection in server.listener.connections))
        sent = app.sent
        taken = await sip(sock, 1_000, lambda: app.gone)
        assert taken > 10_000
        assert app.sent == sent
        await until(lambda: app.gone)


async def test_the_rest_of_an_answer_is_watched_too() -> None:
    """It waits for the client although the application is done with it, and no write was ever held back."""
    done = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal done
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(60_000)})
        done += 1

    async with front(app, write_timeout_s=0.3, keepalive_timeout_s=60) as server, slow_reader(server) as client:
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.writer.write(GET * 500)
        await until(lambda: done > 10)
        await until(lambda: not server.listener.connections)


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="only Linux tells of an end behind unread bytes")
@pytest.mark.parametrize("leave", ["reset", "close"])
async def test_a_client_that_leaves_behind_an_unread_body_is_noticed(leave: str) -> None:
    gone = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"]["hydragate.cycle"].on_disconnect(gone.set)
        await asyncio.wait_for(gone.wait(), 10)

    async with front(app) as server:
        client = await server.connect()
        client.writer.write(POST + b"Content-Length: 90000000\r\n\r\n" + bytes(100_000))
        await until(lambda: any(cycle.held > 65536 for cycle in server.listener.requests))
        sock = client.writer.get_extra_info("socket")
        if leave == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.abort()
        else:
            client.writer.close()
        await asyncio.wait_for(gone.wait(), 5)


async def test_a_sweep_that_fails_for_one_connection_goes_on(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    async with front(hello, keepalive_timeout_s=0.1) as server:
        broken = await server.connect()
        assert (await broken.ask(GET)).status == 200
        (connection,) = server.listener.connections
        connection._deadline_s = "never"  # type: ignore[assignment]  # whatever may be wrong one day
        other = await server.connect()
        assert (await other.ask(GET)).status == 200
        await until(lambda: not server.listener.connections)
    assert "deadlines could not be checked" in caplog.text


async def test_a_lingering_client_is_closed_in_the_end() -> None:
    async with front(hello, linger_timeout_s=0.1) as server:
        client = await server.connect()
        assert (await client.ask(b"GET / HTTP/1.1\r\n\r\n")).status == 400
        await until(lambda: not server.listener.connections)
