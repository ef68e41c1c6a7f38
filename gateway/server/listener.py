"""All connections of one worker: listening, one sweep for every deadline, counting, draining."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from email.utils import formatdate
from typing import Any

from gateway.proxy.errors import GatewayError
from gateway.proxy.outbox import Outbox
from gateway.server.addresses import Addresses, Network
from gateway.server.cycle import Application, Cycle
from gateway.server.head import Head
from gateway.server.http1 import Connection
from gateway.server.limits import Limits
from gateway.server.scope import Address

logger = logging.getLogger("gateway.server")

OnRefused = Callable[[int, str, Address | None], None]
Upgrade = Callable[[Connection, Head, bytes], None]

_BACKLOG = 2048


class Listener:
    """`on_refused(status, code, client)` hears of every answer the front made by itself. `upgrade`, if given, takes
    over connections that ask for a WebSocket; without it the request goes to the application as plain HTTP. `trusted`
    are proxies: what comes from there is not counted by address. `ssl_context` is for the sockets with TLS."""

    def __init__(
        self,
        application: Application,
        limits: Limits,
        *,
        on_refused: OnRefused | None = None,
        upgrade: Upgrade | None = None,
        ssl_context: ssl.SSLContext | None = None,
        trusted: Sequence[Network] = (),
    ) -> None:
        self.application = application
        self.limits = limits
        self.upgrade = upgrade
        self._ssl_context = ssl_context
        self.outbox = Outbox()
        self.connections: set[Connection] = set()
        self.addresses = Addresses(trusted)
        self.upgraded = 0  # connections that became WebSockets: not ours any more, but counted as before
        self.requests: set[Cycle] = set()
        self.draining = False
        self.date = b""
        self._on_refused = on_refused
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._settled: asyncio.Future[None] | None = None

    async def start(self, sockets: Iterable[socket.socket], secure: Iterable[socket.socket] = ()) -> None:
        """Takes bound sockets, listening or not, `secure` those for TLS; closes them when it drains."""
        self.loop = asyncio.get_running_loop()
        self._sweep()
        for sock in sockets:
            await self._listen(sock, {})
        for sock in secure:
            await self._listen(sock, {"ssl": self._ssl_context, "ssl_handshake_timeout": self.limits.head_timeout_s})

    async def _listen(self, sock: socket.socket, tls: dict[str, Any]) -> None:
        _bound_unacknowledged(sock, self.limits.write_timeout_s)
        create: Any = self.loop.create_unix_server if sock.family == socket.AF_UNIX else self.loop.create_server
        self._servers.append(await create(lambda: Connection(self, bool(tls)), sock=sock, backlog=_BACKLOG, **tls))

    def refused(self, error: GatewayError, client: Address | None) -> None:
        if self._on_refused is not None:
            self._on_refused(error.status, error.code, client)

    def state(self) -> dict[str, Any]:
        """For `/status`."""
        return {
            "connections": len(self.connections),
            "websockets": self.upgraded,
            "addresses": len(self.addresses),
            "requests": len(self.requests),
            "tasks": len(asyncio.all_tasks(self.loop)),
            "limits": asdict(self.limits),
        }

    @property
    def count(self) -> int:
        """Of all connections with clients, WebSockets too."""
        return len(self.connections) + self.upgraded

    def keep_counting(self, origin: str) -> Callable[[], None]:
        """A connection leaves for another protocol. Returns what to call when it has ended; twice is harmless."""
        self.upgraded += 1
        counted = True

        def ended() -> None:
            nonlocal counted
            if counted:
                counted = False
                self.upgraded -= 1
                if origin:
                    self.addresses.leave(origin)

        return ended

    def begin_drain(self) -> None:
        """Stops listening; idle connections are closed, the others after the answer they are at. Answers that can end
        early do."""
        self.draining = True
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.end_idle()
        for cycle in list(self.requests):
            try:
                cycle.drain()
            except Exception:  # protects the drain of all others
                logger.exception("An answer could not be ended early")

    async def drained(self) -> None:
        """Returns when no connection is open and no application runs any more."""
        if self._settled is None:
            self._settled = self.loop.create_future()
        self.settle()
        await asyncio.shield(self._settled)

    def settle(self) -> None:
        if self._settled is not None and not self.connections and not self.requests and not self._settled.done():
            self._settled.set_result(None)

    async def close(self) -> None:
        """Hard: aborts what is open, cancels what runs, and waits for it to end."""
        self.begin_drain()
        for connection in list(self.connections):
            connection.abort()
        tasks = [cycle.task for cycle in self.requests if cycle.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.drained()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _sweep(self) -> None:
        self._sweeper = self.loop.call_later(self.limits.sweep_s, self._sweep)
        self.date = b"date: " + formatdate(usegmt=True).encode() + b"\r\n"
        now_s = self.loop.time()
        for connection in list(self.connections):
            try:
                connection.check(now_s)
            except Exception:  # protects the deadlines of all other connections
                logger.exception("A connection's deadlines could not be checked: %s", connection.client)
                connection.abort()


def _bound_unacknowledged(sock: socket.socket, seconds: float) -> None:
    """What is still in the kernel after our close would wait for a client that takes nothing, for many minutes.
    Connections inherit it from the socket they come by. Linux only."""
    if sock.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(int(seconds * 1000), 1))
