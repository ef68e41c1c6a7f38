"""Nobody who is slow costs memory, and nobody who is silent stays: back-pressure and deadlines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.server.front import Client, Front, front, hello, until

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


async def test_a_lingering_client_is_closed_in_the_end() -> None:
    async with front(hello, linger_timeout_s=0.1) as server:
        client = await server.connect()
        assert (await client.ask(b"GET / HTTP/1.1\r\n\r\n")).status == 400
        await until(lambda: not server.listener.connections)
