"""A client that leaves: the upstream's connection is closed at once, the row says why."""

from __future__ import annotations

import asyncio
import contextlib

from tests.e2e.gateway import Gateway, route, upstream, wait_until
from tests.running import Stopwatch
from tests.upstream import Wire, serving, until


async def test_the_upstream_is_aborted_within_a_second(gateway: Gateway) -> None:
    async def stream(wire: Wire) -> None:
        head = await wire.head()
        if b"/answer" in head:
            await wire.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        await wire.left()

    async with serving(stream) as up:
        gateway.configure({
            "format": 1, "upstreams": [upstream("up", up.port)], "routes": [route("all", "/*", "up")], "plugins": [],
        })  # fmt: skip
        for path in ("/before", "/answer"):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            await until(lambda path=path: any(path.encode() in head for head in up.heads))
            if path == "/answer":
                assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            writer.transport.abort()
            since_it_left = Stopwatch()
            await until(lambda: not up.live)
            assert since_it_left.s < 1
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
    sql = "SELECT path, status, outcome FROM usage_row ORDER BY path"

    def both() -> list[tuple[object, ...]]:
        rows = gateway.query(sql)
        return rows if len(rows) == 2 else []

    rows = await asyncio.to_thread(wait_until, both)
    assert rows == [("/answer", 200, "client_closed"), ("/before", 499, "client_closed")]
