"""Three thousand clients that reset their connections at every moment; then a thousand that do not."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct

from tests.e2e.gateway import wait_until
from tests.hazards.conftest import Hardened
from tests.upstream import Wire, serving

ABORTS, AFTERWARDS, AT_ONCE = 3000, 1000, 60
BODY = bytes(300_000)
REQUESTS = [
    b"GET /raw/x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /raw/x HTTP/1.1\r\nHost: a\r\n\r\nGET /raw/y HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /raw/x HTTP/1.1\r\nHo",
    b"POST /raw/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nsome of it",
    b"POST /raw/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    b"POST /raw/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
]
LAST = b"GET /raw/last HTTP/1.1\r\nHost: a\r\n\r\n"


async def serve(wire: Wire) -> None:
    while head := await wire.head():
        if head.startswith(b"POST"):
            await wire.left()
            return
        if b"/last" in head:
            await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            continue
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(BODY))
        await asyncio.sleep(0)
        await wire.send(BODY)


async def abort(port: int, chance: random.Random) -> None:
    """Before the request is whole, while it waits, in the middle of the answer or behind it."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock, contextlib.suppress(ConnectionError, TimeoutError):
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing is a reset
        await loop.sock_sendall(sock, chance.choice(REQUESTS))
        async with asyncio.timeout(chance.random() * 0.02):
            left = chance.choice([0, 1, 1000, 100_000, 400_000])
            while left > 0:
                left -= len(await loop.sock_recv(sock, min(left, 65536))) or left


async def ask(port: int, times: int) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    good = 0
    for _ in range(times):
        writer.write(LAST)
        good += (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        await reader.readexactly(2)
    writer.close()
    await writer.wait_closed()
    return good


async def test_a_thousand_are_served_after_three_thousand_aborts(hardened: Hardened) -> None:
    """And nothing is left of those that went: connections, tasks, descriptors, requests, the upstream's connections."""
    chance = random.Random(1)
    async with serving(serve, port=hardened.raw_port) as up:
        assert await ask(hardened.port, 10) == 10
        before, descriptors = await asyncio.to_thread(hardened.front), hardened.descriptors()
        for _ in range(ABORTS // AT_ONCE):
            await asyncio.gather(*(abort(hardened.port, chance) for _ in range(AT_ONCE)))
        assert sum(await asyncio.gather(*(ask(hardened.port, AFTERWARDS // 10) for _ in range(10)))) == AFTERWARDS
        await asyncio.to_thread(wait_until, lambda: hardened.front()["connections"] == before["connections"])
        after = await asyncio.to_thread(hardened.gateway.get_json, "/status")
        assert after["requests_in_flight"] == 0
        assert after["front"]["requests"] == before["requests"]
        assert after["front"]["tasks"] <= before["tasks"] + 2  # Redis' and PostgreSQL's own come and go
        assert [target["in_flight"] for target in after["targets"]] == [0] * len(after["targets"])
        assert up.live <= 10 + 1  # idle ones of the ten who asked last
        assert hardened.descriptors() <= descriptors + 10 + 5
        assert up.connections < ABORTS + 100
    log = (hardened.gateway.directory / "serve.log").read_text()
    assert "Traceback" not in log, log
    assert "never retrieved" not in log, log
