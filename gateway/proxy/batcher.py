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
from pathlib import Path
from typing import Any

from redis.exceptions import ResponseError

from gateway.proxy.errors import RedisUnavailable
from gateway.proxy.limits import Limit, LimitState, LocalCounters
from gateway.proxy.redisline import RedisLine, pack
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
CONNECT_S = 0.5  # nobody waits for it
LATE = 0.2  # of a deadline: an alarm this much late tells that the loop stood still
_PROBE = [("hg:rl:probe", Limit("fixed-window", 1_000_000, 1.0))]

Argument = bytes | str | int
Unit = Sequence[tuple[str, Limit]]


class Batcher:
    """`start` it in the loop that uses it. Until then, and after `aclose`, Redis counts as unavailable."""

    def __init__(self, url: str, *, timeout_s: float = 0.05, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ValueError if the URL cannot be read."""
        self._line = RedisLine(url, self._answered, self._lost)
        self._timeout_s = timeout_s
        self._clock = clock
        self._queue: deque[_Check | _Command] = deque()
        self._due = False  # the queue is looked at in the loop's next turn
        self._flight: _Flight | None = None  # the batch that is under way
        self._alarm: asyncio.TimerHandle | None = None
        self._away = asyncio.Event()
        self._away.set()
        self._task: asyncio.Task[None] | None = None
        self._local = LocalCounters()
        #: Seconds of `clock` since when Redis has been failing; None while it works.
        self.degraded_since: float | None = clock()

    @property
    def available(self) -> bool:
        return self.degraded_since is None

    async def start(self) -> None:
        """Never raises for a Redis that is away: the batcher starts degraded and probes."""
        self._loop = asyncio.get_running_loop()
        await self._probe()
        self._task = asyncio.create_task(self._keep(), name="batcher")

    async def aclose(self) -> None:
        """Whatever still waits fails with RedisUnavailable."""
        if self._task is not None:
            await ended([self._task])
            self._task = None
        self._fail_all()
        await self._line.aclose()

    def check(self, limits: Unit, cost: int = 1) -> Awaitable[list[LimitState]]:
        """See `gateway.plugins.base.Limiter`. While Redis is away the call itself raises RedisUnavailable."""
        self._check_room()
        return self._queued(_Check(limits, cost, self._loop.create_future()))

    def command(self, *args: Argument) -> Awaitable[Any]:
        """One command (`"SETEX", key, 60, value`); replies are bytes, integers, lists or None.

        Nobody has to await it. Raises RedisUnavailable, also for an error reply, which leaves the others of the batch
        alone; and redis.DataError at once for an argument of another type.
        """
        self._check_room()
        return self._queued(_Command(pack(*args), self._loop.create_future()))

    def check_local(self, limits: Unit, cost: int = 1) -> list[LimitState]:
        return self._local.check(limits, int(self._clock() * 1000), cost)

    def _check_room(self) -> None:
        if self.degraded_since is not None or len(self._queue) >= MAX_QUEUED:
            raise RedisUnavailable

    def _queued(self, call: _Check | _Command) -> asyncio.Future[Any]:
        self._queue.append(call)
        if self._flight is None and not self._due:
            self._due = True
            self._loop.call_soon(self._flush)
        return call.waiter

    # --- a batch

    def _flush(self) -> None:
        """A waiter that was cancelled stays in the batch: it may be counted, and nobody is told."""
        self._due = False
        queue = self._queue
        if queue and self._flight is None:
            self._send(_Flight([queue.popleft() for _ in range(min(len(queue), MAX_BATCH))]))

    def _send(self, flight: _Flight) -> None:
        self._flight = flight
        try:
            script = [pack("EVALSHA", SCRIPT_SHA, *flight.arguments)] if flight.checks else []
            self._line.send([*script, *[command.packed for command in flight.commands]])
        except Exception as error:  # whatever went wrong, those who wait must not wait for ever
            self._lost(error)
            return
        self._set_alarm(final=False)

    def _answered(self, replies: list[Any]) -> None:
        flight = self._flight
        if flight is None:
            self._lost(RuntimeError("A reply that nobody waits for."))
            return
        if flight.checks:
            numbers = replies.pop(0)
            if isinstance(numbers, ResponseError):
                if str(numbers).startswith("NOSCRIPT") and not flight.again:
                    # A restart or SCRIPT FLUSH: nothing ran, so nothing is counted twice.
                    flight.again, flight.kept = True, replies
                    self._line.send([pack("EVAL", SCRIPT, *flight.arguments)])
                else:  # read-only replica, out of memory, still loading
                    self._lost(numbers)
                return
            for check, answer in zip(flight.checks, states_of([c.limits for c in flight.checks], numbers), strict=True):
                _settle(check.waiter, answer)
        self._land()
        for command, reply in zip(flight.commands, flight.kept if flight.again else replies, strict=True):
            _settle(command.waiter, reply)
        self._flush()

    def _land(self) -> None:
        self._flight = None
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _set_alarm(self, *, final: bool) -> None:
        due_s = self._loop.time() + self._timeout_s
        self._alarm = self._loop.call_at(due_s, self._ring, due_s, final)

    def _ring(self, due_s: float, final: bool) -> None:
        """Others are not blamed for the time in which our own loop stood still: after a garbage collection or a large
        table the reply lies in the socket, but the alarm rings first. One that rings late is set once more."""
        if not final and self._loop.time() - due_s > self._timeout_s * LATE:
            self._set_alarm(final=True)
        else:
            self._lost(TimeoutError(f"No reply within {self._timeout_s:g} s."))

    # --- Redis goes away

    def _lost(self, error: BaseException) -> None:
        if self.degraded_since is None:
            logger.warning("Redis is away, policies go by their on_error: %r", error)
        self._line.close()
        self._fail_all()

    def _fail_all(self) -> None:
        if self.degraded_since is None:
            self.degraded_since = self._clock()
        self._away.set()
        calls = [*(self._flight.calls if self._flight else ()), *self._queue]
        self._queue.clear()
        self._land()
        for call in calls:
            _settle(call.waiter, RedisUnavailable())

    async def _keep(self) -> None:
        while True:
            await self._away.wait()
            await asyncio.sleep(PROBE_INTERVAL_S)
            await self._probe()

    async def _probe(self) -> None:
        """A real check, for a server may answer PING and still take no writes."""
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._line.open()
            probe = _Check(_PROBE, 1, self._loop.create_future())
            self._send(_Flight([probe]))
            await probe.waiter
        except Exception as error:
            logger.debug("Redis is still away: %r", error)
            return
        self.degraded_since = None
        self._away.clear()
        logger.info("Redis answers")


class _Flight:
    """A batch. `kept`: the replies of its commands, while the script is sent once `again`."""

    __slots__ = ("again", "arguments", "calls", "checks", "commands", "kept")

    def __init__(self, calls: Sequence[_Check | _Command]) -> None:
        self.calls = calls
        self.checks = checks = [call for call in calls if isinstance(call, _Check)]
        self.commands = [call for call in calls if isinstance(call, _Command)]
        self.arguments = script_arguments([c.limits for c in checks], costs=[c.cost for c in checks]) if checks else []
        self.again = False
        self.kept: list[Any] = []


class _Check:
    __slots__ = ("cost", "limits", "waiter")

    def __init__(self, limits: Unit, cost: int, waiter: asyncio.Future[Any]) -> None:
        self.limits, self.cost, self.waiter = limits, cost, waiter


class _Command:
    __slots__ = ("packed", "waiter")

    def __init__(self, packed: bytes, waiter: asyncio.Future[Any]) -> None:
        self.packed, self.waiter = packed, waiter


def script_arguments(units: Sequence[Unit], now_ms: int = 0, costs: Sequence[int] = ()) -> list[Argument]:
    """What follows the script's name in EVALSHA; `limits.lua` says what is what. 0: the time of Redis.

    `costs`: of each unit; empty: 1.
    """
    keys = [key.encode(errors="surrogatepass") for unit in units for key, _ in unit]
    specs = [limit.spec for unit in units for _, limit in unit]
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
