"""Hundreds of clients that leave at any moment of a request: nothing stays counted, open or unexplained."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct

from tests.e2e.gateway import Gateway, route, upstream
from tests.upstream import Wire, serving

REQUESTS = [
    b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /x HTTP/1.1\r\nHost: a\r\n\r\nGET /y HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nsome of it",
    b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    b"GET /x HTTP/1.1\r\nHo",
]


async def dawdle(wire: Wire) -> None:
    """Head, silence, some of an answer, silence, the rest; or it breaks off."""
    while head := await wire.head():
        await asyncio.sleep(random.random() * 0.01)
        if head.startswith(b"POST"):
            await wire.left()
            return
        await wire.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
        await asyncio.sleep(random.random() * 0.01)
        if random.random() < 0.1 and b"/last" not in head:
            wire.reset()
            return
        await wire.send(b"20000\r\n" + b"x" * 0x20000 + b"\r\n0\r\n\r\n")


async def leave(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(random.choice(REQUESTS))
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(random.random() * 0.04):
            await reader.read(random.choice([1, 100_000]))
            await asyncio.Event().wait()
    if random.random() < 0.5:
        sock = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):  # closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def test_nothing_is_left_of_clients_that_left(gateway: Gateway) -> None:
    async with serving(dawdle) as up:
        gateway.configure({
            "format": 1, "upstreams": [upstream("up", up.port, max_connections=20)],
            "routes": [route("all", "/*", "up")], "plugins": [{"name": "rate-limiting", "config": {"hour": 1_000_000}}],
        })  # fmt: skip
        for _ in range(15):
            await asyncio.gather(*(leave(gateway.port) for _ in range(40)))

        def status(name: str) -> object:
            return gateway.get_json("/status")[name]

        async with asyncio.timeout(10):
            while await asyncio.to_thread(status, "requests_in_flight"):
                await asyncio.sleep(0.02)
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
        assert answer.startswith(b"HTTP/1.1 200")
        assert up.live <= 20
    log = (gateway.directory / "serve.log").read_text()
    assert "Traceback" not in log, log
    assert "never retrieved" not in log, log
