"""One client socket: back-pressure both ways, and a watch on a client that takes nothing. Knows no HTTP."""

from __future__ import annotations

import asyncio
import fcntl
import select
import socket
import struct
import sys
import termios
from contextlib import suppress
from math import inf

from gateway.proxy.outbox import Outbox

_JOIN_BELOW_BYTES = 16 * 1024
_RESET = struct.pack("ii", 1, 0)
#: Its end can be seen past bytes that nobody has read. Not on macOS.
_HUNG_UP = getattr(select, "POLLRDHUP", 0)


class Wire(asyncio.Protocol):
    """The subclass sets `_transport` when it is connected."""

    __slots__ = (
        "_closing", "_outbox", "_read_paused", "_transport", "_unsent", "_writable", "_write_deadline_s", "_write_rate",
        "_write_timeout_s", "loop", "write_paused",
    )  # fmt: skip

    _transport: asyncio.Transport

    def __init__(
        self, loop: asyncio.AbstractEventLoop, outbox: Outbox, write_timeout_s: float, min_bytes_per_s: int = 0
    ) -> None:
        self.loop, self._outbox = loop, outbox
        self.write_paused = False
        self._write_timeout_s = write_timeout_s
        self._write_rate = min_bytes_per_s
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

    def hung_up(self) -> bool:
        """While reading is paused, the loop does not look; so whether the client has left has to be asked for."""
        if not self._read_paused or not _HUNG_UP:
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), _HUNG_UP)
        return bool(poll.poll(0))

    # ---- writing

    def write(self, parts: list[bytes], size: int) -> None:
        """In one write, now. Large bodies go as they are: uvloop gathers, so they are not copied for it."""
        self._outbox.flush()
        if size < _JOIN_BELOW_BYTES:
            self._transport.write(b"".join(parts) if len(parts) > 1 else parts[0])
        else:
            self._transport.writelines(parts)

    def post(self, parts: list[bytes], size: int) -> None:
        """What nothing follows for the time being: if it is small, it waits for others of this turn."""
        if size < _JOIN_BELOW_BYTES:
            self._outbox.post(self._transport, b"".join(parts))
        else:
            self.write(parts, size)

    async def drain(self) -> None:
        """Until the client has taken enough, or the connection has ended."""
        if self.write_paused and not self._closing:
            if self._writable is None or self._writable.done():
                self._writable = self.loop.create_future()
            await self._writable

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        self._write_deadline_s = inf
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def stalled(self, now_s: float) -> bool:
        """True if the client takes what is written too slowly, or not at all. For the sweep: it looks now and then.

        What the kernel holds counts as well: it takes more from us only when much of its own is acknowledged, so a
        client at some kB/s would look like one that takes nothing.
        """
        unsent = self._transport.get_write_buffer_size()
        if not unsent:
            self._write_deadline_s = inf
            return False
        unsent += _in_the_kernel(self._transport.get_extra_info("socket"))
        latest_s = now_s + self._write_timeout_s
        if self._write_deadline_s == inf:
            self._write_deadline_s = latest_s
        elif (taken := self._unsent - unsent) > 0:
            bought_s = self._write_deadline_s + taken / self._write_rate if self._write_rate else latest_s
            self._write_deadline_s = min(bought_s, latest_s)
        self._unsent = unsent
        return now_s >= self._write_deadline_s

    # ---- ends

    def half_close(self) -> None:
        self._outbox.flush()
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """Closes when what was written is out."""
        self._outbox.flush()
        self._closing = True
        self._transport.close()

    def cut(self, reset: bool) -> None:
        """Closes now. With a reset the client cannot take it for the end of an answer, as HTTP/1.0 would."""
        self._outbox.flush()
        self._closing = True
        if reset and not self._transport.is_closing():
            sock: socket.socket = self._transport.get_extra_info("socket")
            with suppress(OSError):  # the client was faster
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()


def _in_the_kernel(sock: socket.socket) -> int:
    """Bytes that the peer has not acknowledged. Linux only; elsewhere the kernel's part is not seen."""
    if not sys.platform.startswith("linux"):
        return 0
    try:
        (size,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))
    except OSError:
        return 0
    return int(size)
