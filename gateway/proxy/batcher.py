"""All Redis work of a worker: whatever is queued while the loop turns, or a call is under way, goes out as one call.

Checks of rate limits become one EVALSHA, other commands ride beside it in the same round trip. Exact, and cheaper per
request the busier it gets; nothing here starts a task, a timer or a connection per request.

When Redis fails, everything waiting fails with RedisUnavailable, and so does every call after it, at once, until a
probe (one per second) has made a real check. A call waits for one batch before it and its own, so at most twice
`timeout_s`. A batch that timed out may still have been counted by Redis: refusing or admitting that request is up to
the policy's `on_error`, and the counters are then at most one unit per request too high.

Redis Cluster is not supported: a batch touches keys of many slots in one script. Replicated Redis or Valkey is.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ResponseError

from gateway.proxy.errors import RedisUnavailable
from gateway.proxy.limits import Limit, LimitState, LocalCounters
from gateway.proxy.tasks import ended

logger = logging.getLogger(__name__)

SCRIPT = Path(__file__).with_name("limits.lua").read_bytes()
SCRIPT_SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()

#: Waiting calls of one worker. More is a Redis that does not keep up: further ones fail with RedisUnavailable at once.
MAX_QUEUED = 4096
#: Calls in one round trip: the script holds Redis for 3 to 18 µs per check (one key for all; a full sliding window for
#: each), so for less than 5 ms, and nobody else gets in meanwhile.
MAX_BATCH = 256
PROBE_INTERVAL_S = 1.0
LATE = 0.2  # of a deadline: an alarm this much late tells that the loop stood still
_PROBE = [("hg:rl:probe", Limit("fixed-window", 1_000_000, 1.0))]

Argument = bytes | str | int
Unit = Sequence[tuple[str, Limit]]


class Batcher:
    """`start` it in the loop that uses it. Until then, and after `aclose`, Redis counts as unavailable."""

    def __init__(self, url: str, *, timeout_s: float = 0.05, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ValueError if the URL cannot be read."""
        self._connection = _connection(url)
        self._timeout_s = timeout_s
        self._clock = clock
        self._queue: deque[_Check | _Command] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._local = LocalCounters()
        #: Seconds of `clock` since when Redis has been failing; None while it works.
        self.degraded_since: float | None = clock()

    @property
    def available(self) -> bool:
        return self.degraded_since is None

    async def start(self) -> None:
        """Never raises for a Redis that is away: the batcher starts degraded and probes."""
        await self._probe()
        self._task = asyncio.create_task(self._run(), name="batcher")

    async def aclose(self) -> None:
        """Whatever still waits fails with RedisUnavailable."""
        if self._task is not None:
            await ended([self._task])
            self._task = None
        self._fail(self._drained())
        self._degrade()
        await self._connection.disconnect(nowait=True)

    def check(self, limits: Unit, cost: int = 1) -> Awaitable[list[LimitState]]:
        """See `gateway.plugins.base.Limiter`. While Redis is away the call itself raises RedisUnavailable."""
        return self._queued(_Check(limits, cost, asyncio.get_running_loop().create_future()))

    def command(self, *args: Argument) -> Awaitable[Any]:
        """One command (`"SETEX", key, 60, value`); replies are bytes, integers, lists or None.

        Nobody has to await it. Raises RedisUnavailable, also for an error reply, which leaves the others of the batch
        alone; and redis.DataError at once for an argument of another type.
        """
        packed = self._connection.pack_command(*args)
        return self._queued(_Command(packed, asyncio.get_running_loop().create_future()))

    def check_local(self, limits: Unit, cost: int = 1) -> list[LimitState]:
        return self._local.check(limits, int(self._clock() * 1000), cost)

    def _queued(self, call: _Check | _Command) -> asyncio.Future[Any]:
        if self.degraded_since is not None or len(self._queue) >= MAX_QUEUED:
            raise RedisUnavailable
        self._queue.append(call)
        self._wake.set()
        return call.waiter

    async def _run(self) -> None:
        while True:
            if self.degraded_since is not None:
                await asyncio.sleep(PROBE_INTERVAL_S)
                await self._probe()
            elif self._queue:
                await self._flush()
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _flush(self) -> None:
        """One round trip. A waiter that was cancelled stays in the batch: it may be counted, and nobody is told."""
        calls = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]
        checks = [call for call in calls if isinstance(call, _Check)]
        commands = [call for call in calls if isinstance(call, _Command)]
        try:
            states, replies = await self._round_trip(
                [check.limits for check in checks], [c.packed for c in commands], [check.cost for check in checks]
            )
        except RedisUnavailable as error:
            self._degrade()
            logger.warning("Redis is away, policies go by their on_error: %r", error.__cause__)
            self._fail([*calls, *self._drained()])
            return
        except asyncio.CancelledError:
            self._fail(calls)
            raise
        for check, answer in zip(checks, states, strict=True):
            _settle(check.waiter, answer)
        for command, reply in zip(commands, replies, strict=True):
            _settle(command.waiter, reply)

    async def _probe(self) -> None:
        """A real check, for a server may answer PING and still take no writes."""
        try:
            await self._round_trip([_PROBE], [])
        except RedisUnavailable:
            return
        self.degraded_since = None
        logger.info("Redis answers")

    def _degrade(self) -> None:
        if self.degraded_since is None:
            self.degraded_since = self._clock()

    def _drained(self) -> list[_Check | _Command]:
        calls = list(self._queue)
        self._queue.clear()
        return calls

    def _fail(self, calls: Sequence[_Check | _Command]) -> None:
        for call in calls:
            _settle(call.waiter, RedisUnavailable())

    async def _round_trip(
        self, units: Sequence[Unit], commands: Sequence[list[bytes]], costs: Sequence[int] = ()
    ) -> tuple[list[list[LimitState]], list[Any]]:
        """Raises RedisUnavailable; the connection is then closed, for a late reply would answer the wrong call."""
        try:
            async with Patience(self._timeout_s):
                return await self._exchange(units, commands, costs)
        except Exception as error:  # whatever went wrong, those who wait must not wait for ever
            await self._connection.disconnect(nowait=True)
            raise RedisUnavailable from error
        except asyncio.CancelledError:
            await self._connection.disconnect(nowait=True)
            raise

    async def _exchange(
        self, units: Sequence[Unit], commands: Sequence[list[bytes]], costs: Sequence[int] = ()
    ) -> tuple[list[list[LimitState]], list[Any]]:
        connection, arguments = self._connection, script_arguments(units, costs=costs)
        if not connection.is_connected:
            await connection.connect()  # type: ignore[no-untyped-call]
        script = connection.pack_command("EVALSHA", SCRIPT_SHA, *arguments) if units else []
        await connection.send_packed_command([*script, *chain.from_iterable(commands)], check_health=False)
        numbers = await self._reply() if units else []
        replies = [await self._reply() for _ in commands]
        if isinstance(numbers, NoScriptError):  # a restart or SCRIPT FLUSH: nothing ran, so nothing is counted twice
            packed = connection.pack_command("EVAL", SCRIPT, *arguments)
            await connection.send_packed_command(packed, check_health=False)
            numbers = await self._reply()
        if isinstance(numbers, ResponseError):  # read-only replica, out of memory, still loading
            raise numbers
        return states_of(units, numbers), replies

    async def _reply(self) -> Any:
        """An error reply is a value here: the replies after it belong to other calls."""
        try:
            return await self._connection.read_response(disable_decoding=True)
        except ResponseError as error:
            return error


class Patience:
    """`asyncio.timeout` that does not blame others for the time in which our own loop stood still.

    After a garbage collection or a large table the reply lies in the socket, but the alarm rings first. So an alarm
    that rings late is set once more.
    """

    __slots__ = ("_alarm", "_loop", "_seconds", "_timeout")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._timeout.__aenter__()
        self._set(final=False)

    async def __aexit__(self, *raised: Any) -> None:
        self._alarm.cancel()
        await self._timeout.__aexit__(*raised)

    def _set(self, *, final: bool) -> None:
        due_s = self._loop.time() + self._seconds
        self._alarm = self._loop.call_at(due_s, self._ring, due_s, final)

    def _ring(self, due_s: float, final: bool) -> None:
        if not final and self._loop.time() - due_s > self._seconds * LATE:
            self._set(final=True)
        else:
            self._timeout.reschedule(self._loop.time())


class _Check:
    __slots__ = ("cost", "limits", "waiter")

    def __init__(self, limits: Unit, cost: int, waiter: asyncio.Future[Any]) -> None:
        self.limits, self.cost, self.waiter = limits, cost, waiter


class _Command:
    __slots__ = ("packed", "waiter")

    def __init__(self, packed: list[bytes], waiter: asyncio.Future[Any]) -> None:
        self.packed, self.waiter = packed, waiter


def script_arguments(units: Sequence[Unit], now_ms: int = 0, costs: Sequence[int] = ()) -> list[Argument]:
    """What follows the script's name in EVALSHA; `limits.lua` says what is what. 0: the time of Redis.

    `costs`: of each unit; empty: 1.
    """
    keys = [key.encode(errors="surrogatepass") for unit in units for key, _ in unit]
    specs = [_spec(limit) for unit in units for _, limit in unit]
    prices = [f":{cost}" if cost != 1 else "" for cost in costs] or [""] * len(units)
    sizes = [f"{len(unit)}{price}" for unit, price in zip(units, prices, strict=True)]
    return [len(keys), *keys, now_ms, ",".join(sizes), *specs]


def states_of(units: Sequence[Unit], numbers: Sequence[int]) -> list[list[LimitState]]:
    """The script's reply, four numbers for each (key, limit), as one list for each unit."""
    each = iter(numbers)
    states = [
        LimitState(has_room == 1, remaining, reset_ms / 1000, retry_ms / 1000)
        for has_room, remaining, reset_ms, retry_ms in zip(each, each, each, each, strict=True)
    ]
    position, answers = 0, []
    for unit in units:
        answers.append(states[position : position + len(unit)])
        position += len(unit)
    return answers


def _spec(limit: Limit) -> str:
    return f"{limit.algorithm[0]}:{limit.limit}:{limit.window_ms}:{limit.capacity}"


def _settle(waiter: asyncio.Future[Any], result: Any) -> None:
    if waiter.done():  # its request was cancelled
        return
    if isinstance(result, ResponseError):
        cause, result = result, RedisUnavailable()
        result.__cause__ = cause
    if isinstance(result, RedisUnavailable):
        waiter.set_exception(result)
        waiter.exception()  # marks it as seen: nobody has to await a command
    else:
        waiter.set_result(result)


def _connection(url: str) -> AbstractConnection:
    """One bare connection of redis-py: no pool, no retries, no health checks.

    Its own timeouts are off because every use stands under `asyncio.timeout`; its defaults would wait 20 s.
    """
    options: dict[str, Any] = {**parse_url(url)}
    connection_class = options.pop("connection_class", Connection)
    options |= {"socket_timeout": None, "socket_connect_timeout": None, "retry": Retry(NoBackoff(), 0)}
    connection: AbstractConnection = connection_class(**options, health_check_interval=0, protocol=2)
    return connection
