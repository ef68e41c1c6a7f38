"""One request and its answer: the `receive` and `send` of ASGI, and the framing of the answer (RFC 9112 §6, §7).

The answer's head waits for the first body message, so that both leave in one write; an application that wants the
head out at once sends an empty body with `more_body`. `send` returns when the client's socket has taken all but
64 kB, `receive` lets the client send no more than 64 kB ahead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from gateway.proxy.headers import Grown, Lasting, Written
from gateway.server.refusals import InternalError, status_line

if TYPE_CHECKING:
    from gateway.server.head import Head
    from gateway.server.http1 import Connection

logger = logging.getLogger("gateway.server")

Message = dict[str, Any]
Scope = dict[str, Any]
Application = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

_OURS = frozenset({b"content-length", b"transfer-encoding", b"connection", b"date"})
_OUR_LENGTHS = frozenset(map(len, _OURS))  # of other fields it is not even asked whether they are ours
_DISCONNECT: Message = {"type": "http.disconnect"}
_LENGTH = "The answer has no single valid content-length."


class ClientGone(OSError):
    """Raised by `send` once the client has left or the connection was aborted (ASGI spec 2.4)."""


class Cycle:
    """What an application may do beyond ASGI, by `scope["extensions"]["hydragate.cycle"]`: `cancel_with_client`,
    `on_disconnect`, `on_drain`, `at_once`, `answer`, `early_hints`, `abort`.

    State begins as class attributes: most requests never touch most of it, and creating one stays cheap."""

    # the request's body
    held = 0  # bytes received and not yet taken
    _begun = _delivered = False  # some of it, and its end, to the application
    _waiter: asyncio.Future[None] | None = None
    # the answer
    started = False  # bytes of it are out
    _status = 0
    _fields: bytes | None = None  # status line and all fields but those of framing
    _length: int | None = None  # its content-length
    _framed = False  # in chunks
    _sent = 0
    _ended = False
    # the client
    gone = False
    _callbacks: tuple[Callable[[], object], ...] = ()
    _end_early: Callable[[], object] | None = None
    task: asyncio.Task[None] | None = None

    def __init__(self, connection: Connection, head: Head) -> None:
        self._connection = connection
        self._modern = head.version == "1.1"
        self._keep = head.keep_alive
        self._head_only = self.bodiless = head.method == "HEAD"
        self._expect = head.expect
        self._received = head.length == 0
        self._chunks: list[bytes] = []

    async def run(self, application: Application, scope: Scope) -> None:
        try:
            await application(scope, self.receive, self.send)
            if not self._ended and not self.gone:
                logger.error("The application returned without a whole answer: %(method)s %(path)s", scope)
        except ClientGone:
            pass
        except Exception:  # protects the connection and the server from whatever an application raises
            logger.exception("The application failed: %(method)s %(path)s", scope)
        finally:
            self.task = None  # where it is cancelled, it holds the error, and so us
            self._connection.listener.requests.discard(self)
            if not self._ended and not self.gone:
                self._connection.refuse(InternalError())
            self._connection.listener.settle()

    # ---- the client's side: called by the connection

    def feed(self, body: bytes, ended: bool) -> None:
        self._expect = False
        self._received = ended
        if body:
            self._chunks.append(body)
            self.held += len(body)
        self._wake()

    def leave(self) -> None:
        """The client left, or has to: nothing more goes out. Tells the application at once, each way it may listen."""
        if self.gone or self._ended:
            return
        self.gone = True
        self._wake()
        callbacks, self._callbacks = self._callbacks, ()
        for callback in callbacks:
            try:
                callback()
            except Exception:  # protects the other callbacks, and the connection's own clean-up
                logger.exception("A disconnect callback failed")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ---- the application's side

    def cancel_with_client(self) -> None:
        """Cancels the application's task if the client goes before the answer is whole."""
        assert self.task is not None
        self.on_disconnect(self.task.cancel)

    def on_disconnect(self, callback: Callable[[], object]) -> None:
        """Called once if the client goes before the answer is whole."""
        if self.gone:
            callback()
        elif not self._ended:
            self._callbacks += (callback,)

    def on_drain(self, callback: Callable[[], object]) -> None:
        """Called when the worker is to end and this answer is not whole yet; at once, if that is so already."""
        if self._connection.listener.draining:
            callback()
        else:
            self._end_early = callback

    def drain(self) -> None:
        """The worker is to end: called by the listener."""
        callback, self._end_early = self._end_early, None
        if callback is not None and not self._ended and not self.gone:
            callback()

    def abort(self) -> None:
        """The answer cannot be completed, and the client must see that."""
        if not self._ended:
            self._callbacks = ()
            self._connection.abort()

    async def receive(self) -> Message:
        while not self._chunks and (self._delivered or not self._received):
            if self.gone or self._ended:
                return _DISCONNECT
            if self._expect:
                self._expect = False
                self._connection.call_for_body(not self.started)
            if self._waiter is None or self._waiter.done():
                self._waiter = self._connection.loop.create_future()
            await self._waiter
        if self.gone or self._ended:
            return _DISCONNECT
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self.held = 0
        self._begun = True
        self._delivered = self._received
        if not self._received:
            self._connection.body_taken()
        return {"type": "http.request", "body": body, "more_body": not self._received}

    def at_once(self, most: int) -> bytes | None:
        """The request's body, if it is all here, not longer, and nobody has received any of it. Then it is taken."""
        if not self._received or self._delivered or self._begun or self.held > most or self.gone or self._ended:
            return None
        body = b"".join(self._chunks)
        self._chunks.clear()
        self.held = 0
        self._delivered = True
        return body

    async def send(self, message: Message) -> None:
        if self.gone:
            raise ClientGone("The client has left.")
        kind = message["type"]
        if kind == "http.response.start" and self._fields is None:
            self._start(message["status"], message.get("headers", ()))
            return
        if kind != "http.response.body" or self._fields is None or self._ended:
            raise RuntimeError(f"Unexpected ASGI message {kind!r}.")
        more = message.get("more_body", False)
        self._body(message.get("body", b""), more)
        if self._connection.write_paused:
            await self._written()
        if not more:
            self._end()

    async def answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Both messages of `send` in one, for an answer that is all there."""
        if self.gone:
            raise ClientGone("The client has left.")
        if self._fields is not None:
            raise RuntimeError("There is an answer already.")
        self._start(status, headers)
        self._body(body, False)
        if self._connection.write_paused:
            await self._written()
        self._end()

    def early_hints(self, links: list[bytes]) -> None:
        """103 with these `Link` fields, before the answer; but HTTP/1.0 knows no such answers (RFC 9110 §15.2)."""
        if self._modern and self._fields is None and not self.gone:
            head = b"HTTP/1.1 103 Early Hints\r\n" + b"".join(b"link: %b\r\n" % link for link in links)
            self._connection.write([head + b"\r\n"], len(head))

    async def _written(self) -> None:
        await self._connection.drain()
        if self.gone:
            raise ClientGone("The client has left.")

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        if not 200 <= status <= 999:
            raise ValueError(f"{status} is not the status of a final answer.")
        written = _written(headers)
        self._status, self._length = status, written.length
        self._keep = self._keep and not written.closes
        self.bodiless = self._head_only or status in (204, 304)
        self._fields = status_line(status) + written.lines + (written.date or self._connection.listener.date)

    def _body(self, body: bytes, more: bool) -> None:
        self._sent += len(body)
        if self._length is not None and not self.bodiless:
            self._check_length(more)
        parts: list[bytes] = []
        write = self._connection.write if more or self.started else self._connection.post
        if not self.started:
            parts.append(self._head(None if more else len(body)))
            self.started = True
        if self._framed and body:
            parts += (b"%x\r\n" % len(body), body, b"\r\n")
        elif body and not self.bodiless:
            parts.append(body)
        if self._framed and not more:
            parts.append(b"0\r\n\r\n")
        if parts:
            write(parts, len(body))

    def _check_length(self, more: bool) -> None:
        """A body longer or shorter than its content-length must not look whole."""
        assert self._length is not None
        if self._sent > self._length or (not more and self._sent < self._length):
            if self.started:
                self.abort()
            raise RuntimeError(f"The answer's content-length is {self._length}, its body has {self._sent} bytes.")

    def _head(self, whole: int | None) -> bytes:
        """The head with the fields that are ours: framing and persistence. `whole`: the body's length, if known."""
        if self._length is None and whole is not None and (whole or not self.bodiless):
            self._length = whole
        if self._connection.listener.draining or self._expect:
            self._keep = False  # a client still waiting for 100 may or may not send its body now (RFC 9110 §10.1.1)
        if whole is not None and self._connection.leaves_much:
            self._keep = False  # said, or the client's next request could meet the close
        fields, framing = self._fields or b"", b""
        if self._length is not None:
            if self._status != 204:
                framing = b"content-length: " + str(self._length).encode() + b"\r\n"
        elif not self.bodiless:
            if self._modern:
                self._framed = True
                framing = b"transfer-encoding: chunked\r\n"
            else:
                self._keep = False  # the close ends the body
        if not self._keep:
            return fields + framing + b"connection: close\r\n\r\n"
        if not self._modern:
            return fields + framing + b"connection: keep-alive\r\n\r\n"
        return fields + framing + b"\r\n"

    def _end(self) -> None:
        self._ended = True
        self._callbacks = ()
        if self._waiter is not None:
            self._wake()
        self._connection.answered(self._keep)


def _written(pairs: Iterable[tuple[bytes, bytes]]) -> Written:
    """Raises ValueError."""
    if type(pairs) is Lasting:
        if pairs.written is None:
            pairs.written = _write(pairs)
        return pairs.written
    if type(pairs) is not Grown or (grown := pairs.more()) is None:
        return _write(pairs)
    base = _written(pairs.base)
    if not grown:
        return base
    more = _write(grown)
    length = base.length if more.length is None else more.length
    if base.length not in (None, length):
        raise ValueError(_LENGTH)
    return Written(base.lines + more.lines, more.date or base.date, length, base.closes or more.closes)


def _write(pairs: Iterable[tuple[bytes, bytes]]) -> Written:
    lines: list[bytes] = []
    length, date, closes = None, b"", False
    for pair in pairs:
        name = pair[0]
        if len(name) not in _OUR_LENGTHS or (lowered := name.lower()) not in _OURS:
            lines.append(b": ".join(pair))
        elif lowered == b"content-length":
            value = int(pair[1]) if pair[1].isdigit() else -1
            if value < 0 or length not in (None, value):
                raise ValueError(_LENGTH)
            length = value
        elif lowered == b"date":
            date = b": ".join(pair) + b"\r\n"
        elif lowered == b"connection" and b"close" in pair[1].lower():
            closes = True
    count = len(lines) + bool(date)
    lines.append(b"")
    text = b"\r\n".join(lines)
    checked = text + date
    if checked.count(b"\n") != count or checked.count(b"\r") != count or b"\0" in checked:
        raise ValueError("A header of the answer holds a line break or NUL.")
    return Written(text, date, length, closes)
