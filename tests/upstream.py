"""A raw upstream for tests: every connection runs a script of bytes, so it can misbehave in any way there is."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Wire:
    """One accepted connection, seen from the upstream."""

    def __init__(self, upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.upstream, self.reader, self.writer = upstream, reader, writer

    async def head(self) -> bytes:
        """The next request's head, also kept in `upstream.heads`; b"" when the client has left."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        self.upstream.heads.append(head)
        return head

    async def body(self, length: int) -> bytes:
        return await self.reader.readexactly(length)

    async def send(self, data: bytes) -> None:
        if self.writer.is_closing():
            raise ConnectionResetError("the client has left")
        self.writer.write(data)
        await self.writer.drain()

    async def left(self) -> None:
        """Returns when the client has closed the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    def reset(self) -> None:
        """Closes with RST instead of FIN."""
        linger = struct.pack("ii", 1, 0)
        with contextlib.suppress(OSError):  # the other side was faster
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


Script = Callable[[Wire], Awaitable[None]]


class Upstream:
    """`connections` counts those ever accepted, `live` those open now, `heads` the requests in order."""

    port = 0

    def __init__(self, script: Script) -> None:
        self.script = script
        self.connections = self.live = 0
        self.heads: list[bytes] = []
        self.failures: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.live += 1
        try:
            await self.script(Wire(self, reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        except BaseException as error:
            self.failures.append(error)
        finally:
            self.live -= 1
            self._tasks.discard(task)
            writer.close()

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert self.failures == [], "\n".join(map(repr, self.failures))


@contextlib.asynccontextmanager
async def serving(
    script: Script, *, host: str = "127.0.0.1", port: int = 0, unix_path: str = "", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Upstream]:
    upstream = Upstream(script)
    if unix_path:
        server = await asyncio.start_unix_server(upstream._serve, unix_path, ssl=tls)
    else:
        server = await asyncio.start_server(upstream._serve, host, port, ssl=tls)
        upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        await upstream.stop()
        await server.wait_closed()


def answering(*answers: bytes) -> Script:
    """Answers every request of a connection, bodies unread, with each of these in turn; the last one repeats."""

    async def script(wire: Wire) -> None:
        turn = 0
        while await wire.head():
            await wire.send(answers[min(turn, len(answers) - 1)])
            turn += 1

    return script


def once(answer: bytes) -> Script:
    """Answers one request, then closes."""

    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(answer)

    return script


async def until(condition: Callable[[], object], deadline_s: float = 5.0) -> None:
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, "the condition did not come true in time"
        await asyncio.sleep(0.005)
