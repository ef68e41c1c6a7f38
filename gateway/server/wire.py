"""One client socket: back-pressure both ways, and a watch on a client that takes nothing. Knows no HTTP."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from math import inf

_JOIN_BELOW_BYTES = 16 * 1024
_RESET = struct.pack("ii", 1, 0)


class Wire(asyncio.Protocol):
    """The subclass sets `_transport` when it is connected."""

    __slots__ = (
        "_closing", "_read_paused", "_transport", "_unsent", "_writable", "_write_deadline_s", "_write_timeout_s",
        "loop", "write_paused",
    )  # fmt: skip

    _transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, write_timeout_s: float) -> None:
        self.loop = loop
        self.write_paused = False
        self._write_timeout_s = write_timeout_s
        self._write_deadline_s = inf
        self._writable: asyncio.Future[None] | None = None
        self._unsent = 0
        self._read_paused = False
        self._closing = False

    # ---- reading

    def pause_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._read_paused:
            self._read_paused = False
            self._transport.resume_reading()

    # ---- writing

    def write(self, parts: list[bytes], size: int) -> None:
        """In one write. Large bodies go as they are: uvloop gathers, so they are not copied for it."""
        if size < _JOIN_BELOW_BYTES:
            self._transport.write(b"".join(parts) if len(parts) > 1 else parts[0])
        else:
            self._transport.writelines(parts)

    async def drain(self) -> None:
        """Until the client has taken enough, or the connection has ended."""
        if self.write_paused and not self._closing:
            if self._writable is None or self._writable.done():
                self._writable = self.loop.create_future()
            await self._writable

    def pause_writing(self) -> None:
        self.write_paused = True
        self._watch_writes()

    def resume_writing(self) -> None:
        self.write_paused = False
        if not self._closing:
            self._write_deadline_s = inf
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def _watch_writes(self) -> None:
        self._unsent = self._transport.get_write_buffer_size()
        self._write_deadline_s = self.loop.time() + self._write_timeout_s

    def stalled(self, now_s: float) -> bool:
        """True if what is written has waited too long without the client taking a byte."""
        if self._write_deadline_s == inf:
            return False
        if self._transport.get_write_buffer_size() < self._unsent:
            self._watch_writes()
            return False
        return now_s >= self._write_deadline_s

    # ---- ends

    def half_close(self) -> None:
        self._watch_writes()
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """Closes when what was written is out."""
        self._closing = True
        self._watch_writes()
        self._transport.close()

    def cut(self, reset: bool) -> None:
        """Closes now. With a reset the client cannot take it for the end of an answer, as HTTP/1.0 would."""
        self._closing = True
        if reset and not self._transport.is_closing():
            sock: socket.socket = self._transport.get_extra_info("socket")
            with suppress(OSError):  # the client was faster
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()
