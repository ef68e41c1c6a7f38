"""The connections to one target: last in, first out, bounded, with a bounded line of those who wait.

A connection returns when its answer is complete on the wire and nothing is wrong with it. Who waits is served in
order, by a connection or by the right to open one. Cancelled, timed out or closed early: closed, never returned.

While somebody waits, connections whose own client hardly takes its answer, or hardly sends its body, are counted as
parked, and others may be opened in their place: else some hundred slow clients would lock everybody out of a target.

One timer sweeps all deadlines; it runs when the earliest may have passed, not once per request.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from math import inf

from .certificates import tls_context
from .connection import Connection
from .errors import ConnectFailed, UpstreamBusy, UpstreamError, UpstreamTimeout
from .fence import FENCE, Fence
from .outbox import Outbox
from .snapshot import TargetSpec, UpstreamSpec

#: Idle connections are closed after this, or a second before the upstream's own `Keep-Alive: timeout=` runs out.
KEEP_ALIVE_S = 60.0
#: Requests that may wait for a connection of one target; one more is refused at once.
MAX_WAITING = 1000
#: Parked is who waits for its client and moves less than this; so many times the limit may be parked.
PARKED_BYTES_PER_S = 16 * 1024
PARKED_LIMITS = 3
PARK_S = 0.25
#: Sweeps are at least this far apart.
SWEEP_S = 0.01


@dataclass(frozen=True, slots=True)
class Timeouts:
    connect_s: float
    first_byte_s: float  # from the end of the request to the head of the answer
    idle_s: float  # between two reads of the answer, or while the upstream does not take the body
    total_s: float  # everything, to the end of the answer; 0: none
    pool_s: float  # waiting for a free connection

    @classmethod
    def of(cls, upstream: UpstreamSpec) -> Timeouts:
        """Waiting for a connection may take as long as making one."""
        return cls(
            upstream.connect_timeout_s,
            upstream.first_byte_timeout_s,
            upstream.idle_timeout_s,
            upstream.total_timeout_s,
            upstream.connect_timeout_s,
        )


class Pool:
    """`open`, `idle`, `in_use` and `waiting` are for status pages."""

    def __init__(
        self, target: TargetSpec, upstream: UpstreamSpec, timeouts: Timeouts, keep_alive_s: float, max_waiting: int,
        fence: Fence = FENCE,
    ) -> None:  # fmt: skip
        self.target, self.upstream, self.timeouts = target, upstream, timeouts
        self.keep_alive_s, self.max_waiting, self._fence = keep_alive_s, max_waiting, fence
        self.outbox = Outbox()
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []
        self._opening = 0  # being opened, or promised to one who waited
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._closing = False
        self._parked = 0
        self._parker: asyncio.TimerHandle | None = None  # while the limit is reached and somebody had to wait
        self._moved: dict[Connection, int] = {}  # what it saw when it looked last
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_at_s = inf

    @property
    def open(self) -> int:
        return len(self._connections) + self._opening

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def in_use(self) -> int:
        return self.open - self.idle

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    def take_idle(self, replayable: bool = False) -> Connection | None:
        """The connection used last that is still open, and has nothing to say.

        That look at the socket leaves of the keep-alive race only the time a request travels. It is a system call, and
        saved where losing the race costs nothing: a `replayable` request is sent once more.
        """
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed if replayable else connection.quiet():
                return connection
            connection.close()
        return None

    async def acquire(self, deadline_s: float, *, fresh: bool = False) -> Connection:
        """Opens a connection if the limit allows, else waits in line. `fresh`: rather than to use an idle one."""
        limit = self.upstream.max_connections
        if fresh and self._idle and self.open >= limit:
            self._idle[0].close()
        while self.open - self._parked >= limit:
            connection = await self._wait(deadline_s)
            if connection is None:
                break
            if connection.quiet():
                return connection
            connection.close()
        else:
            self._opening += 1
        return await self._open(deadline_s)

    async def _wait(self, deadline_s: float) -> Connection | None:
        """A connection, or the right to open one (`_opening` counts it). Raises UpstreamBusy."""
        if len(self._waiters) >= self.max_waiting:
            raise _unsent(UpstreamBusy())
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Connection | None] = loop.create_future()
        self._waiters.append(waiter)
        if self._parker is None:
            self._park()
        try:
            async with asyncio.timeout_at(min(loop.time() + self.timeouts.pool_s, deadline_s)):
                return await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():  # served in the moment of giving up
                self._give_back(waiter.result())
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            if isinstance(error, TimeoutError):
                raise _unsent(UpstreamBusy()) from error
            raise

    async def _open(self, deadline_s: float) -> Connection:
        loop = asyncio.get_running_loop()
        connection = Connection(self, self.timeouts.first_byte_s, self.timeouts.idle_s)
        try:
            async with asyncio.timeout_at(min(loop.time() + self.timeouts.connect_s, deadline_s)):
                await self._connect(loop, connection)
        except BaseException as error:
            connection.close()
            self._give_back(None)
            if isinstance(error, TimeoutError):
                late = UpstreamTimeout()
                late.phase = "connect"
                raise _unsent(late) from error
            if isinstance(error, OSError | UnicodeError):
                raise _unsent(ConnectFailed()) from error
            raise
        self._opening -= 1
        self._connections.add(connection)
        if connection.closed:
            self.closed(connection)
            raise _unsent(ConnectFailed())
        return connection

    async def _connect(self, loop: asyncio.AbstractEventLoop, connection: Connection) -> None:
        host, tls, name = self.target.host, None, None
        if self.upstream.protocol == "https":
            tls = tls_context(self.upstream.tls)
            name = self.upstream.tls.server_name or (
                "localhost" if host.startswith("unix:") else self.target.name or host
            )
        if host.startswith("unix:"):
            await loop.create_unix_connection(lambda: connection, host[5:], ssl=tls, server_hostname=name)
            return
        *others, last = await self._fence.addresses(host, self.target.port)
        for address in others:
            with contextlib.suppress(OSError):
                await loop.create_connection(
                    lambda: connection, address, self.target.port, ssl=tls, server_hostname=name
                )
                return
        await loop.create_connection(lambda: connection, last, self.target.port, ssl=tls, server_hostname=name)

    def _give_back(self, connection: Connection | None) -> None:
        """What a waiter was served and cannot use."""
        if connection is None:
            self._opening -= 1
            self._offer_place()
        else:
            self.released(connection)

    def _offer_place(self) -> None:
        while self._waiters and self.open - self._parked < self.upstream.max_connections:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._opening += 1
                waiter.set_result(None)
                return

    def _park(self) -> None:
        """Looks now and then for connections that stand for nothing but a slow client."""
        limit = self.upstream.max_connections
        seen = {c: c.moved_bytes for c in self._connections if c.waits_for_client()}
        least = PARKED_BYTES_PER_S * PARK_S
        parked = sum(1 for c, moved in seen.items() if c in self._moved and moved - self._moved[c] < least)
        self._moved, self._parked = seen, min(parked, limit * PARKED_LIMITS)
        for _ in range(len(self._waiters)):
            self._offer_place()
        if self._closing or (not self._waiters and self.open < limit):
            self._parker, self._parked, self._moved = None, 0, {}
        else:
            self._parker = asyncio.get_running_loop().call_later(PARK_S, self._park)

    def close(self) -> None:
        """Closes idle connections; those in use are closed when their answers end, new ones carry one request each."""
        self._closing = True
        for connection in self._idle[:]:
            connection.close()

    # --- Owner: what connections tell

    def released(self, connection: Connection) -> None:
        if self._closing or connection.closed:
            connection.close()
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        idle_s, hint_s = self.keep_alive_s, connection.keep_alive_hint_s
        if hint_s < inf:
            idle_s = min(idle_s, max(hint_s - 1, hint_s / 2))
        connection.deadline_s = connection.loop.time() + idle_s
        self._idle.append(connection)
        self.watch(connection.deadline_s)

    def closed(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            if connection in self._idle:
                self._idle.remove(connection)
            self._offer_place()

    def watch(self, deadline_s: float) -> None:
        """There is a deadline the sweep must not miss. Later ones than the next sweep cost one comparison."""
        if deadline_s < self._sweep_at_s:
            if self._sweeper is not None:
                self._sweeper.cancel()
            self._sweep_at_s = deadline_s
            self._sweeper = asyncio.get_running_loop().call_at(deadline_s, self._sweep)

    def _sweep(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for connection in list(self._connections):
            if connection.deadline_s <= now_s:
                connection.expire(now_s)
        self._sweep_at_s, self._sweeper = inf, None
        earliest_s = min((connection.deadline_s for connection in self._connections), default=inf)
        if earliest_s < inf:
            self.watch(max(earliest_s, now_s + SWEEP_S))


def _unsent(error: UpstreamError) -> UpstreamError:
    error.safe_to_retry = True
    return error
