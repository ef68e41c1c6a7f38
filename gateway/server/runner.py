"""A worker: daphne's `Server` with our HTTP/1.1 front and an orderly start and end.

From daphne: the event loop (Twisted's asyncio reactor, on uvloop where it can be imported), the application life
cycle of WebSockets, their protocol, Channels. Ours: listening, HTTP, signals, draining.

    run ─► on_start (loads the table) ─► listen ─► …  SIGTERM, SIGINT or `drain()`
        ─► on_drain (stop being ready) ─► `drain_delay_s`, not for a worker that is replaced (SIGUSR1)
        ─► stop listening ─► answer what is under way, WebSockets get 1001
        ─► after `drain_timeout_s` or a second signal: abort the rest ─► on_stop ─► return
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from twisted.internet import defer

from gateway.server.addresses import Network
from gateway.server.child import ROLL
from gateway.server.cycle import Application, Scope
from gateway.server.handover import adopt
from gateway.server.lean import Server, reactor
from gateway.server.limits import Limits
from gateway.server.listener import Listener, OnRefused

logger = logging.getLogger("gateway.server")

Hook = Callable[[], Coroutine[Any, Any, None]]

GOING_AWAY = 1001
_OWN_DESCRIPTORS = 256


class WorkerServer(Server):  # type: ignore[misc]  # daphne has no types
    """`sockets` are bound, `secure_sockets` for TLS by `ssl_context`; they are served by this process until it drains.

    on_start   awaited before anything is accepted; if it raises, `run` raises the same
    on_drain   called when draining begins, before listening stops
    on_stop    awaited after the last answer
    on_refused(status, code, client)   hears of each answer the front made by itself
    trusted    proxies, whose connections are not counted by address
    """

    def __init__(
        self,
        application: Application,
        sockets: list[socket.socket],
        *,
        secure_sockets: Sequence[socket.socket] = (),
        limits: Limits,
        ssl_context: ssl.SSLContext | None = None,
        trusted: Sequence[Network] = (),
        on_start: Hook | None = None,
        on_drain: Callable[[], None] | None = None,
        on_stop: Hook | None = None,
        on_refused: OnRefused | None = None,
        drain_timeout_s: float = 30.0,
        drain_delay_s: float = 0.0,
        **daphne_options: Any,
    ) -> None:
        super().__init__(application, endpoints=["our own"], signal_handlers=False, **daphne_options)
        self.endpoints: list[str] = []  # nothing for daphne to listen on
        self.sockets, self.secure_sockets = sockets, secure_sockets
        self.listener = Listener(
            application, limits, on_refused=on_refused, upgrade=self._upgrade, ssl_context=ssl_context, trusted=trusted
        )
        self.drain_timeout_s = drain_timeout_s
        self.drain_delay_s = drain_delay_s
        self._on_start, self._on_drain, self._on_stop = on_start, on_drain, on_stop
        self._hurry = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._drain_wanted = asyncio.Event()
        self._failure: BaseException | None = None

    @property
    def open_connections(self) -> int:
        return len(self.listener.connections) + len(self.connections)

    @property
    def active_requests(self) -> int:
        return len(self.listener.requests)

    # ---- life

    def run(self) -> None:
        """Blocks until drained. Once per process: a Twisted reactor does not start twice."""
        _allow_descriptors(2 * self.listener.limits.max_connections + _OWN_DESCRIPTORS)
        reactor.callWhenRunning(self._begin)
        super().run()
        if self._failure is not None:
            raise self._failure

    def drain(self) -> None:
        """Begins the end; called again, cuts it short. For signal handlers and tests, in the loop's thread."""
        if self._drain_wanted.is_set():
            self._hurry.set()
        self._drain_wanted.set()

    def leave(self) -> None:
        """As `drain`, for a worker whose successor serves already: the node goes on, so nobody need look elsewhere."""
        self.drain_delay_s = 0.0
        self.drain()

    def _begin(self) -> None:
        loop = asyncio.get_event_loop()
        if threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGTERM, self.drain)
            loop.add_signal_handler(signal.SIGINT, self.drain)
            loop.add_signal_handler(ROLL, self.leave)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor's signal; a terminal sends it to all
        self._life = loop.create_task(self._live())

    async def _live(self) -> None:
        try:
            if await self._started():
                await self.listener.start(self.sockets, self.secure_sockets)
                await self._drain_wanted.wait()
                await self._drain()
            if self._on_stop is not None:
                await self._on_stop()
        except BaseException as error:  # carried to `run`, which is not a coroutine
            self._failure = error
        finally:
            reactor.stop()

    async def _started(self) -> bool:
        """False if it was told to end meanwhile: a start may wait for a database for long."""
        if self._on_start is None:
            return True
        starting, ending = asyncio.ensure_future(self._on_start()), asyncio.ensure_future(self._drain_wanted.wait())
        await asyncio.wait([starting, ending], return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if starting.done():
            starting.result()
            return True
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return False

    async def _drain(self) -> None:
        if self._on_drain is not None:
            self._on_drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.drain_delay_s):  # load balancers hear of it while all still works
                await self._hurry.wait()
        self.listener.begin_drain()
        tasks = [asyncio.ensure_future(self._drained()), asyncio.ensure_future(self._hurry.wait())]
        await asyncio.wait(tasks, timeout=self.drain_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            logger.warning("Drain cut short: %d requests were not finished.", self.active_requests)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.listener.close()

    async def _drained(self) -> bool:
        await self._websockets_closed()
        await self.listener.drained()
        return True

    # ---- WebSockets: daphne's, with guards

    def _upgrade(self, *handover: Any) -> None:
        adopt(self.ws_factory, *handover)

    def create_application(self, protocol: Any, scope: Scope) -> Any:
        """The scope is built from our reading of the head, not from autobahn's."""
        return super().create_application(protocol, {**scope, **protocol.scope})

    def protocol_disconnected(self, protocol: Any) -> None:
        if protocol in self.connections:
            super().protocol_disconnected(protocol)

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        """daphne drops empty messages, which are messages (RFC 6455 §5.6), and refuses handshakes with 403 only."""
        if message["type"].startswith("websocket.http.response."):
            if protocol in self.connections and protocol.state == protocol.STATE_CONNECTING:
                _answer_handshake(protocol, message)
            return
        if message["type"] == "websocket.send" and not message.get("bytes") and not message.get("text"):
            if protocol in self.connections and "disconnected" not in self.connections[protocol]:
                protocol.sendMessage(b"", message.get("text") is None)
            return
        await super().handle_reply(protocol, message)
        if message["type"] == "websocket.accept" and self.listener.draining and protocol.state == protocol.STATE_OPEN:
            protocol.sendCloseFrame(code=GOING_AWAY)  # its handshake was under way when the others were told

    def application_checker(self) -> None:
        """As daphne's, but one broken connection does not end the loop for all of them."""
        reactor.callLater(1, self.application_checker)
        now = time.time()
        for protocol, details in list(self.connections.items()):
            try:
                self._check_application(protocol, details, now)
            except Exception:  # protects all other WebSockets
                logger.exception("A WebSocket could not be cleaned up")
                self._drop(protocol)

    def _check_application(self, protocol: Any, details: dict[str, Any], now: float) -> None:
        gone_s, task = details.get("disconnected"), details.get("application_instance")
        if gone_s and now - gone_s > self.application_close_timeout and task and not task.done():
            logger.warning("A WebSocket application outlived its client and was cancelled: %r", protocol)
            task.cancel()
        if task and task.done():
            del details["application_instance"]
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.error("The WebSocket application failed: %r", protocol, exc_info=error)
                if not gone_s:
                    protocol.handle_exception(error)
            task = None
        if gone_s and not task:
            del self.connections[protocol]

    def timeout_checker(self) -> None:
        reactor.callLater(2, self.timeout_checker)
        for protocol in list(self.connections):
            try:
                protocol.check_timeouts()
            except Exception:  # protects all other WebSockets
                logger.exception("A WebSocket's timeouts could not be checked")
                self._drop(protocol)

    def _drop(self, protocol: Any) -> None:
        details = self.connections.pop(protocol, {})
        if task := details.get("application_instance"):
            task.cancel()
        protocol.transport.abortConnection()

    async def _websockets_closed(self) -> None:
        tasks = self._websocket_tasks()
        for protocol in list(self.connections):
            if protocol.state == protocol.STATE_OPEN:
                protocol.sendCloseFrame(code=GOING_AWAY)
        if tasks:
            await asyncio.wait(tasks)

    def kill_all_applications(self) -> Any:
        """As daphne's, which fails on a connection whose application has ended."""
        tasks = self._websocket_tasks()
        for task in tasks:
            task.cancel()
        return defer.Deferred.fromFuture(asyncio.gather(*tasks, return_exceptions=True)) if tasks else None

    def _websocket_tasks(self) -> list[asyncio.Task[None]]:
        return [task for details in self.connections.values() if (task := details.get("application_instance"))]


def _answer_handshake(protocol: Any, message: dict[str, Any]) -> None:
    """ASGI's extension `websocket.http.response`, for small answers: the head is kept until the body is there."""
    if message["type"].endswith(".start"):
        protocol.denial = message
        return
    start, status = protocol.denial, HTTPStatus(200)
    with suppress(ValueError):
        status = HTTPStatus(start["status"])
    lines = [b"HTTP/1.1 %d %s" % (start["status"], status.phrase.encode() if status == start["status"] else b"")]
    lines += [name + b": " + value for name, value in start["headers"]]
    lines += [b"connection: close", b"", message.get("body", b"")]
    protocol.transport.write(b"\r\n".join(lines))
    protocol.state = protocol.STATE_CLOSED
    protocol.transport.loseConnection()
    protocol.server.protocol_disconnected(protocol)


def _allow_descriptors(wanted: int) -> None:
    """A client and perhaps its upstream. The usual soft limit is 1,024; the hard one is what the operator allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
