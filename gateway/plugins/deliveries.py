"""Bytes to a server that confirms nothing: over a connection of their own, until the server has ended its side of it.

A server that ends its side after we have ended ours has read everything, or knows why not and says so by a reset or an
alert. So TLS is done here, on asyncio's plain streams: asyncio's own closes without hearing what the other side says to
that, such as that it does not take our certificate (TLS 1.3 tells it after the handshake).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import TypeVar

CHUNK_BYTES = 65_536
T = TypeVar("T")


async def delivered(
    data: bytes, address: str, port: int, context: ssl.SSLContext | None = None, name: str = ""
) -> None:
    """`name`: whose certificate it must be. Raises OSError, of TLS too. The deadline is the caller's."""
    reader, writer = await asyncio.open_connection(address, port)
    try:
        if context is not None:
            await _Secured(reader, writer, context, name).deliver(data)
            return
        writer.write(data)
        await writer.drain()
        writer.write_eof()
        while await reader.read(CHUNK_BYTES):
            pass
    finally:
        writer.transport.abort()


class _Secured:
    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext, name: str
    ) -> None:
        self._reader, self._writer = reader, writer
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=name)

    async def deliver(self, data: bytes) -> None:
        await self._done(self._tls.do_handshake)
        left = memoryview(data)
        while left:
            left = left[self._tls.write(left[:CHUNK_BYTES]) :]
            await self._flush()
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()  # that we have ended. It may return before the other side has said so, too
        with contextlib.suppress(ssl.SSLZeroReturnError, ssl.SSLEOFError):  # the latter: without saying so, as many do
            while await self._done(lambda: self._tls.read(CHUNK_BYTES)):
                pass

    async def _done(self, step: Callable[[], T]) -> T:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                await self._flush()
                if said := await self._reader.read(CHUNK_BYTES):
                    self._in.write(said)
                else:
                    self._in.write_eof()
            except ssl.SSLError:
                self._writer.write(self._out.read())  # why we do not trust it
                raise
            else:
                await self._flush()
                return done

    async def _flush(self) -> None:
        if said := self._out.read():
            self._writer.write(said)
            await self._writer.drain()
