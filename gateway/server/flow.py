"""How a WebSocket's application and its client wait for each other. daphne and autobahn buffer without end both ways.

From the client: what was delivered and not taken is counted, and above a mark its socket is not read. To the client:
Twisted says when its buffer is full and when it is empty again.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

HIGH, LOW = 256 * 1024, 64 * 1024
LOOK_S = 0.5
_OVER = frozenset({7, 8})  # Linux: TCP_CLOSE, TCP_CLOSE_WAIT
#: A message takes memory beyond its bytes.
OVERHEAD = 256
REASON_BYTES = 123


class Flow:
    """In a scope as the extension `hydragate.flow`."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._unread_bytes = 0
        self._paused = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._on_left: Callable[[], None] | None = None
        self.reason = ""  # the client's, when it has closed
        self.on_end: Callable[[], None] = lambda: None  # called when the connection has ended

    def begin(self) -> None:
        """The protocol has its transport."""
        self._protocol.transport.registerProducer(self, True)

    # --- from the client

    def came(self, size: int) -> None:
        self._unread_bytes += size + OVERHEAD
        if self._unread_bytes > HIGH and not self._paused:
            self._paused = True
            self._protocol.transport.pauseProducing()
            asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def took(self, size: int) -> None:
        self._unread_bytes -= size + OVERHEAD
        if self._paused and self._unread_bytes < LOW:
            self._paused = False
            self._protocol.transport.resumeProducing()

    @contextmanager
    def noticing(self, left: Callable[[], None]) -> Iterator[None]:
        """Within, `left` is called when the client leaves; while its socket is not read, that cannot be seen."""
        self._on_left = left
        try:
            yield
        finally:
            self._on_left = None

    def left(self, reason: str = "") -> None:
        self.reason = reason
        self._writable.set()
        if self._on_left is not None:
            self._on_left()

    def _look(self) -> None:
        """Whoever is not read from is not seen to leave: so look at the connection's state now and then."""
        transport = self._protocol.transport
        if not self._paused or not transport.connected:
            return
        if _is_over(transport.socket):
            transport.abortConnection()
        else:
            asyncio.get_running_loop().call_later(LOOK_S, self._look)

    # --- to the client

    async def drained(self) -> None:
        """Returns when the client has taken nearly all that was sent to it, or has left."""
        await self._writable.wait()

    def close(self, code: int | None, reason: str) -> None:
        """Any code that may be sent; None: a close frame without one."""
        protocol = self._protocol
        if protocol.state == protocol.STATE_OPEN:
            protocol.sendCloseFrame(code=code, reasonUtf8=_fitting(reason) if code else None, isReply=False)

    # --- IPushProducer: what the transport tells

    def pauseProducing(self) -> None:
        self._writable.clear()

    def resumeProducing(self) -> None:
        self._writable.set()

    def stopProducing(self) -> None:
        self._writable.set()


def _is_over(sock: socket.socket) -> bool:
    """Reset, or ended by the client. That of a client whose bytes fill our buffer cannot arrive; a reset can."""
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        return True
    if sock.family == socket.AF_UNIX or not hasattr(socket, "TCP_INFO"):
        return False
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _OVER


def _fitting(reason: str) -> bytes:
    """As much of it as a close frame holds (RFC 6455 §5.5), in whole characters."""
    return reason.encode()[:REASON_BYTES].decode(errors="ignore").encode()


class NoFlow:
    """On other servers: they have their own."""

    reason = ""

    def took(self, size: int) -> None: ...

    @contextmanager
    def noticing(self, left: Callable[[], None]) -> Iterator[None]:
        yield

    async def drained(self) -> None: ...

    def close(self, code: int | None, reason: str) -> None: ...
