"""One HTTP/1.1 client connection: bytes to and from an upstream, one request at a time, strict about every answer.

    pool ── exchange(answer, head, body) ──► Connection ──► socket
                                                │ Reader
    consumer ◄── async for ── UpstreamAnswer ◄──┘

No task is ever started: a request body is pumped by the caller, who is interrupted when an answer (or the end of the
connection) comes first. What the reader refuses is UpstreamBroke.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import AsyncIterable
from math import inf
from typing import Protocol

import httptools

from .answer import UpstreamAnswer
from .errors import UpstreamBroke, UpstreamError, UpstreamTimeout
from .messages import at_once, framed, wrong_length
from .outbox import Outbox
from .reading import Reader, Violation

#: Reading stops while this much of an answer waits for its consumer. One read (256 kB) may come on top.
HIGH_WATER_BYTES = 128 * 1024


class Owner(Protocol):
    """What a connection tells its pool. Called between awaits, never re-entered."""

    outbox: Outbox

    def released(self, connection: Connection) -> None: ...
    def closed(self, connection: Connection) -> None: ...
    def watch(self, deadline_s: float) -> None: ...


class Connection(Reader, asyncio.Protocol):
    """Idle while `answer` is None. `deadline_s` (loop time) is when the pool's sweep calls `expire`."""

    transport: asyncio.Transport

    def __init__(self, owner: Owner, first_byte_s: float, idle_s: float) -> None:
        super().__init__()
        self.owner, self.first_byte_s, self.idle_s = owner, first_byte_s, idle_s
        self.loop = asyncio.get_running_loop()
        self.connected = self.closed = False
        self.used = False  # has carried an answer before: may die under the next request (keep-alive race)
        self.deadline_s, self.phase = inf, ""
        self._poll = select.poll()
        self._reading_paused = self._writing_paused = False
        self._interruption: asyncio.Timeout | None = None  # there while a body is being sent
        self._drained: asyncio.Future[None] | None = None

    # --- the pool's side

    async def exchange(
        self, answer: UpstreamAnswer, head: bytes, body: AsyncIterable[bytes] | None, length: int | None
    ) -> None:
        """Sends one request; returns when the head of its answer is there. Otherwise the connection is closed.

        `length` None: the body is sent in chunks. Raises UpstreamBroke, UpstreamTimeout, and what `body` raises.
        """
        self._expect(answer)
        answer.connection = self
        try:
            if body is None:
                self.owner.outbox.post(self.transport, head)
            elif (whole := at_once(body)) is not None:
                self.owner.outbox.post(self.transport, head + framed(whole, length))
                self.moved_bytes += len(whole)
            else:
                self.transport.write(head)
                await self._pump(body, length)
            if not answer.status and answer.error is None:
                self._due("first_byte", self.first_byte_s)
                await answer.wait()
        except BaseException:
            if self.answer is answer:  # else it is closed, or serves another request already
                self.close()
            raise
        if answer.error is not None:
            raise answer.error.again()

    def quiet(self) -> bool:
        """False if something waits to be read: an end or a stray byte that the loop has not seen yet."""
        if self.closed:
            return False  # its descriptor may be another's by now
        return not self._poll.poll(0)

    def waits_for_client(self) -> bool:
        """It is the client that does not take an answer, or does not send a body."""
        return self._reading_paused or (self._interruption is not None and not self._writing_paused)

    def expire(self, now_s: float) -> None:
        phase = self.phase
        if self.answer is not None and now_s >= self.answer.total_deadline_s:
            phase = "total"
        error = UpstreamTimeout()
        error.phase = phase
        self.fail(error)

    def fail(self, error: UpstreamError) -> None:
        """Ends the answer under way, if there is one, and the connection."""
        answer = self.answer
        self.close()
        if answer is not None and not answer.complete:
            answer.error, answer.connection = error, None
            self._notify(answer)

    def close(self) -> None:
        if not self.closed:
            self.closed, self.answer, self._parser = True, None, None
            self.deadline_s = inf
            self.resume_writing()  # whoever waits to write finds it closed
            if self.connected:
                self.transport.abort()
            self.owner.closed(self)

    # --- the request body

    async def _pump(self, body: AsyncIterable[bytes], length: int | None) -> None:
        """Sends the body until its end, or until an answer or a failure comes first: then the rest is not sent."""
        self._due("", inf)  # waiting for the client's bytes is the client's side's business, except for `total`
        try:
            async with asyncio.timeout(None) as self._interruption:
                await self._send_body(body, length)
        except TimeoutError:
            if self._interruption is None or not self._interruption.expired():
                raise
            return  # interrupted, `_interruption` stays: this connection has half a request on it
        self._interruption = None

    async def _send_body(self, body: AsyncIterable[bytes], length: int | None) -> None:
        left = inf if length is None else length
        write = self.transport.write
        if left:
            async for chunk in body:
                if not chunk:
                    continue
                left -= len(chunk)
                if left < 0:
                    break
                if self.transport.is_closing():
                    return
                self.moved_bytes += len(chunk)
                write(chunk if length is not None else b"%x\r\n%b\r\n" % (len(chunk), chunk))
                if self._writing_paused:
                    await self._drain()
                if not left:
                    break
        if self.transport.is_closing():
            return
        if length is None:
            write(b"0\r\n\r\n")
        elif left:
            raise wrong_length()

    async def write(self, data: bytes) -> None:
        """For a tunnel."""
        if self.closed:
            raise UpstreamBroke
        self.transport.write(data)
        if self._writing_paused:
            await self._drain()

    async def _drain(self) -> None:
        self._due("send", self.idle_s)
        self._drained = self.loop.create_future()
        try:
            await self._drained
        finally:
            self._drained = None
        self._due("", inf)

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.connected = transport, True  # type: ignore[assignment]
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        if self.closed:  # its opener gave up
            self.transport.abort()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        answer = self.answer
        if answer is None:  # nobody asked: what follows an answer is not to be trusted
            self.close()
            return
        try:
            self._read(answer, data)
        except httptools.HttpParserUpgrade as upgrade:
            self._open_tunnel(answer, data[upgrade.args[0] :])
        except (httptools.HttpParserError, Violation) as error:
            self._broken(answer, error)
            return
        if answer.complete:
            self._finish(answer)
        elif answer.status:
            if answer.unread_bytes > HIGH_WATER_BYTES:
                self._pause_reading()
            else:
                self._due("idle", inf if self._tunnel else self.idle_s)
        if answer.status:
            self._notify(answer)

    def eof_received(self) -> None:
        answer = self.answer
        if answer is not None and answer.status and self._until_close:
            answer.complete = True
            self._keep_alive = False
            self._finish(answer)
            self._notify(answer)
        else:
            self.fail(UpstreamBroke())

    def connection_lost(self, error: Exception | None) -> None:
        self.connected = False
        if error is not None and self.answer is not None and not self.answer.status:
            self._read_last_words()
        broke = UpstreamBroke()
        broke.__cause__ = error
        self.fail(broke)

    # --- ends and deadlines

    def _finish(self, answer: UpstreamAnswer) -> None:
        """The answer is complete on the wire; what is unread of it belongs to the consumer."""
        self.answer = answer.connection = self._parser = None
        if self._keep_alive and self._interruption is None and self.connected and not self.closed:
            self.used = True
            self.resume_reading()
            self.owner.released(self)
        else:
            self.close()

    def _broken(self, answer: UpstreamAnswer, error: Exception) -> None:
        """The parser stopped. After a complete answer that only means: do not use this connection again."""
        if answer.complete:
            self._keep_alive = False
            self._finish(answer)
            self._notify(answer)
            return
        broke = UpstreamBroke("The upstream sent an invalid answer.")
        cause = error.__context__ if isinstance(error.__context__, Violation) else error
        cause.__context__ = None
        broke.__cause__ = cause.with_traceback(None)  # whose frames hold us, and the answer that holds it
        self.fail(broke)

    def _notify(self, answer: UpstreamAnswer) -> None:
        """Wakes the consumer, or whoever still sends the body."""
        answer.wake()
        interruption = self._interruption
        if interruption is not None and interruption.when() is None and not interruption.expired():
            interruption.reschedule(self.loop.time())

    def _open_tunnel(self, answer: UpstreamAnswer, data: bytes) -> None:
        """101: from here on the bytes are another protocol's, and so are the time limits."""
        self._tunnel = self._until_close = True
        answer.complete, answer.total_deadline_s = False, inf
        if data:
            self.on_body(data)

    def _read_last_words(self) -> None:
        """An upstream that refuses a body answers, closes, and resets what we still send: writing fails while its
        answer waits unread in the socket, which is still open here. (RFC 9112 §9.6; not through TLS.)
        """
        if self.transport.get_extra_info("ssl_object") is not None:
            return
        self._reading_paused = True  # as far as this transport is concerned
        try:
            while data := os.read(self.transport.get_extra_info("socket").fileno(), HIGH_WATER_BYTES):
                self.data_received(data)
                if self.answer is None:
                    return
            self.eof_received()
        except OSError:
            return  # nothing was left: the error that brought us here stands

    def _due(self, phase: str, seconds: float) -> None:
        if self.answer is None:
            return
        self.phase = phase
        deadline_s = self.loop.time() + seconds
        if deadline_s > self.answer.total_deadline_s:
            deadline_s = self.answer.total_deadline_s
        self.deadline_s = deadline_s
        self.owner.watch(deadline_s)

    def _pause_reading(self) -> None:
        """A slow consumer is not the upstream's fault: only `total` runs on."""
        if not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()
            self._due("idle", inf)

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()
            if self.answer is not None:
                self._due("idle", self.idle_s)
