"""What a soak asks, what its upstream does about it, and what the client must see: a function for each kind of it.

Each returns "" if it ended as it should, else what happened instead.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.upstream import Wire

BODY = b"x" * 1000
BIG_BYTES = 2_000_000
SLOW_READ_S = 1.5
PATIENCE_S = 15.0

Ask = Callable[["Client"], Awaitable[str]]


async def behave(wire: Wire) -> None:
    """The upstream: what it does is in the path."""
    while head := await wire.head():
        path = head.split(b" ", 2)[1]
        if path.startswith(b"/cut"):
            await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n" + BODY[:400])
            wire.reset()
            return
        if path.startswith(b"/hang"):
            await wire.left()
            return
        if path.startswith(b"/error"):
            await wire.send(b"HTTP/1.1 500 Oh\r\ncontent-length: 4\r\n\r\noops")
        elif path.startswith(b"/big"):
            await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % BIG_BYTES)
            for _ in range(BIG_BYTES // 50_000):
                await wire.send(b"x" * 50_000)
        else:
            await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n" + BODY)


class Client:
    """Keeps a few connections for what goes well, as real clients do; what misbehaves gets one of its own."""

    def __init__(self, port: int, key: str = "") -> None:
        self.port, self.key = port, key
        self._idle: list[Any] = []

    def request(self, path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: soak\r\napikey: {self.key}\r\n\r\n".encode()

    @asynccontextmanager
    async def connection(self) -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()

    def _kept(self) -> Any:
        """The one used last, unless the other side has closed it."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return None

    async def status(self, path: str) -> tuple[int, bytes]:
        """Status and whole body, over a kept connection."""
        reader, writer = self._kept() or await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(self.request(path))
            status, length, close = await read_head(reader)
            body = await reader.readexactly(length)
        except BaseException:
            writer.transport.abort()
            raise
        if close:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return status, body


async def read_head(reader: asyncio.StreamReader) -> tuple[int, int, bool]:
    """Status, length of the body, whether the connection ends with it."""
    lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    fields = dict(line.split(b": ", 1) for line in lines[1:] if line)
    return int(lines[0].split()[1]), int(fields.get(b"content-length", 0)), fields.get(b"connection") == b"close"


async def well(client: Client) -> str:
    status, body = await client.status("/ok")
    return "" if (status, body) == (200, BODY) else f"{status} with {len(body)} bytes"


def answered(path: str, *wanted: int) -> Ask:
    async def ask(client: Client) -> str:
        status, _ = await client.status(path)
        return "" if status in wanted else f"{status} instead of {wanted[0]}"

    return ask


async def leaves(client: Client) -> str:
    """Resets the connection in the middle of an answer."""
    async with client.connection() as (reader, writer):
        writer.write(client.request("/big"))
        await reader.read(10_000)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    return ""


async def is_cut(client: Client) -> str:
    """Must not look whole."""
    async with client.connection() as (reader, writer):
        writer.write(client.request("/cut"))
        try:
            status, length, _ = await read_head(reader)
            await reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return ""
    return "" if status == 502 else f"{status}, a whole answer of {length} bytes"


async def reads_slowly(client: Client) -> str:
    async with client.connection() as (reader, writer):
        writer.write(client.request("/big"))
        status, length, _ = await read_head(reader)
        if (status, length) != (200, BIG_BYTES):
            return f"{status} with {length} bytes"
        for _ in range(10):
            await reader.readexactly(BIG_BYTES // 10)
            await asyncio.sleep(SLOW_READ_S / 10)
    return ""


#: With its share of all requests. The rest goes well; publishing goes its own way.
FAULTS: dict[str, Ask] = {
    "client leaves": leaves,
    "upstream cuts the answer": is_cut,
    "upstream hangs": answered("/hang", 504),
    "client reads slowly": reads_slowly,
    "upstream refuses": answered("/refused", 502, 503),
    "upstream says 500": answered("/error", 500),
}
