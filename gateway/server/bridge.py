"""A TLS connection carried to and from a plain socket, so that whoever wants a socket of its own need not know TLS."""

from __future__ import annotations

import asyncio
import socket
from typing import cast


class Side(asyncio.Protocol):
    """One end: what it receives the other's transport sends, and no faster than that can."""

    transport: asyncio.Transport
    other: Side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.other.transport.write(data)

    def eof_received(self) -> None:
        """Whoever has ended has left: TLS knows no half of a connection, and this one closes, too."""
        self.other.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if error is None:
            self.other.transport.close()
        else:
            self.other.transport.abort()

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.other.transport.resume_reading()


_beginning: set[asyncio.Task[None]] = set()  # a loop forgets tasks that nobody holds


def bridge(loop: asyncio.AbstractEventLoop, outside: asyncio.Transport, inside: socket.socket) -> None:
    """Takes both. What comes from `outside` meanwhile waits in the kernel."""
    outside.pause_reading()
    task = loop.create_task(_begin(loop, outside, inside))
    _beginning.add(task)
    task.add_done_callback(_beginning.discard)


async def _begin(loop: asyncio.AbstractEventLoop, outside: asyncio.Transport, inside: socket.socket) -> None:
    near, far = Side(), Side()
    near.other, far.other = far, near
    far.transport = outside
    outside.set_protocol(far)
    inside.setblocking(False)
    await loop.create_connection(lambda: near, sock=inside)
    if outside.is_closing():  # it has left before there was anybody to tell
        near.transport.close()
    else:
        outside.resume_reading()
