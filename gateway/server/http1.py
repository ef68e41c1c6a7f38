"""The HTTP/1.1 front of a worker: one `Connection` per client socket, one `Cycle` per request.

    data_received ─► READING_HEAD ─► head.feed ─► Cycle, task of the application
                     READING_BODY ─► bodies.feed ─► cycle.feed          (until the body has ended)
                     ANSWERING    ─► bytes of later requests are held   (until the answer has ended)
                     SKIPPING     ─► the answer came first: a small rest of the body is read away
                     LINGERING    ─► answered and half closed: read on, so that the client sees the answer, not a reset
                     CLOSING

Requests of one connection are served one after another. Nothing here knows Django, Twisted or a route.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, cast

from gateway.proxy.errors import NotReady
from gateway.server.bodies import Chunked, Sized
from gateway.server.cycle import Cycle
from gateway.server.head import Head, HeadReader
from gateway.server.refusals import (
    BodyTooLarge,
    GatewayError,
    RequestTimeout,
    TooManyConnections,
    TooManyFromAddress,
    closing_answer,
)
from gateway.server.scope import address, http_scope
from gateway.server.wire import Wire

if TYPE_CHECKING:
    from gateway.server.listener import Listener

IDLE_END_S = 1.0
READING_HEAD, READING_BODY, ANSWERING, SKIPPING, LINGERING, CLOSING = range(6)


class Connection(Wire):
    __slots__ = (
        "_ahead", "_body", "_cycle", "_deadline_s", "_head", "_head_begun", "_lingered", "_origin", "_state",
        "certificate", "client", "listener", "scheme", "server",
    )  # fmt: skip

    def __init__(self, listener: Listener, secure: bool = False) -> None:
        limits = listener.limits
        self.scheme = "https" if secure else "http"
        self.certificate = b""  # the client's, in DER
        super().__init__(listener.loop, listener.outbox, limits.write_timeout_s, limits.min_answer_bytes_per_s)
        self.listener = listener
        self._state = READING_HEAD
        self._cycle: Cycle | None = None
        self._body: Sized | Chunked | None = None
        self._head = HeadReader(limits)
        self._ahead = bytearray()  # requests sent before they can be served
        self._head_begun = False  # its time runs, whatever the bytes were
        self._origin = ""  # whom this connection is counted for
        self._lingered = 0
        self._deadline_s = inf  # for what the client has to send

    # ---- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.client = address(transport.get_extra_info("peername"))
        self.server = address(transport.get_extra_info("sockname"))
        if self.scheme == "https":
            self.certificate = transport.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""
        listener, limits = self.listener, self.listener.limits
        listener.connections.add(self)
        if limits.max_connections_per_address and self.client is not None:
            self._origin, count = listener.addresses.enter(self.client[0])
            if count > limits.max_connections_per_address:
                self._turn_away(TooManyFromAddress(), count > _with_reserve(limits.max_connections_per_address))
                return
        if listener.count > limits.max_connections:
            self._turn_away(TooManyConnections(), listener.count > _with_reserve(limits.max_connections))
            return
        self._deadline_s = self.loop.time() + limits.head_timeout_s
        if listener.draining:
            self.end_idle()

    def data_received(self, data: bytes) -> None:
        if self._state == READING_HEAD:
            self._read_head(data)
        elif self._state in (READING_BODY, SKIPPING):
            self._read_body(data)
        elif self._state == ANSWERING:
            self._hold(data)
        elif self._state == LINGERING:
            self._lingered += len(data)
            if self._lingered > self.listener.limits.linger_bytes:
                self.abort()

    def eof_received(self) -> None:
        """A client that stops sending has left, as for nginx and Go: nobody waits for an answer half-closed."""
        if self._cycle is not None:
            self.abort()
        else:
            self._close()

    def connection_lost(self, error: Exception | None) -> None:
        self._state = CLOSING
        self._closing = True
        self._uncount()
        self._drop_cycle()
        self.resume_writing()
        self.listener.settle()

    # ---- reading

    def _read_head(self, data: bytes) -> None:
        reader = self._head
        try:
            found = reader.feed(data)
            if found is not None:
                self._begin(*found)
            elif not self._head_begun and reader.pending:
                self._head_begun = True
                self._deadline_s = self.loop.time() + self.listener.limits.head_timeout_s
        except GatewayError as error:
            self.refuse(error)

    def _begin(self, request: Head, rest: bytes) -> None:
        listener = self.listener
        if request.websocket and request.length == 0 and listener.upgrade is not None:
            if listener.draining:
                raise NotReady("This worker is ending. Connect again.")
            return listener.upgrade(self, request, rest)
        if request.length and 0 < listener.limits.max_body_bytes < request.length:
            raise BodyTooLarge("The request body is larger than this gateway accepts.")
        self._cycle = cycle = Cycle(self, request)
        if request.length == 0:
            self._state = ANSWERING
            self._deadline_s = inf
            if rest:
                self._hold(rest)
        else:
            self._state = READING_BODY
            self._body = Chunked(listener.limits) if request.length is None else Sized(request.length)
            self._deadline_s = inf if request.expect else self.loop.time() + listener.limits.body_timeout_s
            if rest:
                self._read_body(rest)
                if self._cycle is None:  # refused already
                    return None
        listener.requests.add(cycle)
        cycle.task = self.loop.create_task(cycle.run(listener.application, http_scope(request, self, cycle)))
        return None

    def _read_body(self, data: bytes) -> None:
        assert self._body is not None
        try:
            body, rest = self._body.feed(data)
        except GatewayError as error:
            self.refuse(error)
            return
        cycle, limits = self._cycle, self.listener.limits
        if cycle is not None:
            cycle.feed(body, rest is not None)
        else:
            self._lingered += len(body)
        if rest is not None:
            self._body = None
            self._deadline_s = inf
            self._state = ANSWERING
            self._hold(rest)
            if cycle is None:
                self._next()
        elif cycle is None and self._lingered > limits.skip_bytes:
            self._linger()
        elif cycle is not None and cycle.held > limits.high_water_bytes:
            self.pause_reading()
            self._deadline_s = inf  # now it is the application that keeps the client waiting
        else:
            latest_s, rate = self.loop.time() + limits.body_timeout_s, limits.min_body_bytes_per_s
            self._deadline_s = min(self._deadline_s + len(body) / rate, latest_s) if rate else latest_s

    def _hold(self, data: bytes) -> None:
        self._ahead += data
        if len(self._ahead) > self.listener.limits.high_water_bytes:
            self.pause_reading()

    # ---- the cycle's side

    def call_for_body(self, aloud: bool) -> None:
        """The application wants the body its client holds back (RFC 9110 §10.1.1); `aloud` while 1xx may be sent."""
        if aloud:
            self.write([b"HTTP/1.1 100 Continue\r\n\r\n"], 0)
        self._deadline_s = self.loop.time() + self.listener.limits.body_timeout_s

    def body_taken(self) -> None:
        if self._read_paused:
            self._deadline_s = self.loop.time() + self.listener.limits.body_timeout_s
            self.resume_reading()

    @property
    def leaves_much(self) -> bool:
        """More of a body is still to come than is read away for the connection's sake."""
        return self._body is not None and (self._body.left or 0) > self.listener.limits.skip_bytes

    def answered(self, keep: bool) -> None:
        self._cycle = None
        if not keep or self.listener.draining:
            if self._state == READING_BODY or self._ahead:
                self._linger()
            else:
                self._close()
        elif self._state == ANSWERING:
            self._next()
        elif self.leaves_much:
            self._linger()
        else:
            self._state = SKIPPING
            self._lingered = 0
            self._deadline_s = self.loop.time() + self.listener.limits.body_timeout_s
            self.resume_reading()

    def _next(self) -> None:
        self._state = READING_HEAD
        self._head_begun = False
        self._deadline_s = self.loop.time() + self.listener.limits.keepalive_timeout_s
        if self.listener.draining:
            self._linger()
            return
        self.resume_reading()
        if self._ahead:
            data = bytes(self._ahead)
            self._ahead.clear()
            self._read_head(data)

    # ---- ends

    def _turn_away(self, error: GatewayError, silently: bool) -> None:
        """Few are told why: an answer needs a connection for some seconds, which is what there are too many of."""
        if silently:
            self.listener.refused(error, self.client)
            self.abort()
        else:
            self.refuse(error)

    def _uncount(self) -> None:
        self.listener.connections.discard(self)
        if self._origin:
            self.listener.addresses.leave(self._origin)
            self._origin = ""

    def refuse(self, error: GatewayError) -> None:
        """Answer by ourselves if that is still possible, and close."""
        self.listener.refused(error, self.client)
        cycle = self._cycle
        if self._state in (LINGERING, CLOSING) or (cycle is not None and cycle.started):
            self.abort()
            return
        self._drop_cycle()
        bodiless = cycle is not None and cycle.bodiless
        self.write([closing_answer(error, self.listener.date, bodiless=bodiless)], 0)
        self._linger()

    def _drop_cycle(self) -> None:
        cycle, self._cycle = self._cycle, None
        if cycle is not None:
            cycle.leave()

    def _linger(self) -> None:
        """Half close and read on for a while: bytes left unread would turn our close into a reset (RFC 9112 §9.6)."""
        self._state = LINGERING
        self._lingered = 0
        self._ahead.clear()
        self._deadline_s = self.loop.time() + self.listener.limits.linger_timeout_s
        self.half_close()
        self.resume_reading()

    def _close(self) -> None:
        self._state = CLOSING
        self._deadline_s = inf
        self.close()

    def abort(self) -> None:
        """Closes now; an answer under way is visibly cut short."""
        self._state = CLOSING
        started = self._cycle is not None and self._cycle.started
        self._drop_cycle()
        self.cut(reset=started)

    def detach(self) -> tuple[asyncio.Transport, Callable[[], None]]:
        """Gives the transport away (WebSocket upgrade): this connection is no longer watched. It counts against the
        limits until the second is called."""
        self._outbox.flush()
        self._state = CLOSING
        self._closing = True
        self._deadline_s = inf
        ended = self.listener.keep_counting(self._origin)
        self._origin = ""
        self.listener.connections.discard(self)
        return self._transport, ended

    def end_idle(self) -> None:
        """Draining: an idle connection gets another second. A request may be on its way in it, and is then answered
        with `Connection: close`; closing at once would break it, and a client may not repeat every request."""
        if self._state == READING_HEAD and not self._head.pending:
            self._deadline_s = min(self._deadline_s, self.loop.time() + IDLE_END_S)

    # ---- deadlines, from the listener's sweep

    def check(self, now_s: float) -> None:
        if self.stalled(now_s) or (self._cycle is not None and self.hung_up()):
            self.abort()
        elif now_s < self._deadline_s:
            return
        elif self._state in (LINGERING, SKIPPING) or (self._state == READING_HEAD and not self._head.pending):
            self._close()
        else:
            self._deadline_s = inf
            self.refuse(RequestTimeout())


def _with_reserve(most: int) -> int:
    """Above the limit there is room for some who are told so."""
    return most + most // 8 + 8
