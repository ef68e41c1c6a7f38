"""What keeps trouble with one upstream from growing: a circuit breaker, a ceiling for what is under way, a budget.

    closed ──errors or slow answers in the window over their share──► open ──its time is up──► half-open: one trial
       ▲                                                                ▲                        │
       └───────────────────── the trial is answered well and in time ◄──┼────────────────────────┤
                                                                        └─── it fails or is slow ┘

Kept by each worker for itself, by the upstream's name, and through changes of the configuration. What is the gateway's
own or the client's doing counts neither way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, inf
from time import monotonic
from typing import Literal

from gateway.proxy import metrics
from gateway.proxy.errors import CircuitOpen, UpstreamBusy
from gateway.proxy.snapshot import BreakerPolicy, CarePolicy, UpstreamSpec

BUCKETS = 10
NO_CEILING = 1 << 30
BUDGET_S = 10.0  # for how long what was not spent on attempts is kept

Phase = Literal["closed", "open", "half-open"]


@dataclass(slots=True)
class _Bucket:
    number: int
    total: int = 0
    failed: int = 0
    slow: int = 0


class Breaker:
    """`settle` or `abandon` follows each `admit` that did not raise."""

    def __init__(self, name: str, policy: BreakerPolicy, clock: Callable[[], float]) -> None:
        self.policy = policy
        self.phase: Phase = "closed"
        self.since_s = 0.0  # of the phase, by the clock; 0: since the start
        self._clock = clock
        self._gauge = metrics.CIRCUIT_OPEN.labels(name)
        self._gauge.set(0)
        self._buckets: deque[_Bucket] = deque(maxlen=BUCKETS)

    def admit(self) -> bool:
        """True: this attempt is the trial. Raises CircuitOpen."""
        if self.phase == "closed":
            return False
        left_s = self.since_s + self.policy.open_s - self._clock()
        if self.phase == "half-open" or left_s > 0:
            raise CircuitOpen(headers=[(b"retry-after", b"%d" % max(1, ceil(left_s)))])
        self.phase = "half-open"
        return True

    def settle(self, trial: bool, failed: bool, took_s: float) -> None:
        slow = bool(self.policy.slow_s) and took_s >= self.policy.slow_s
        if trial:
            self._turn("open" if failed or slow else "closed")
        elif self.phase == "closed" and self._clock() - took_s >= self.since_s:
            # Else it was sent before the circuit opened (and perhaps closed again), and tells nothing new.
            self._count(failed, slow)

    def abandon(self, trial: bool) -> None:
        """The attempt ended without telling anything of the upstream: the next one may be the trial."""
        if trial:
            self.phase = "open"  # `since_s` stands: its time is up already

    def _count(self, failed: bool, slow: bool) -> None:
        policy = self.policy
        number = int(self._clock() * BUCKETS / policy.window_s)
        if not self._buckets or self._buckets[-1].number != number:
            self._buckets.append(_Bucket(number))
        newest = self._buckets[-1]
        newest.total += 1
        newest.failed += failed
        newest.slow += slow
        if not failed and not slow:
            return
        recent = [bucket for bucket in self._buckets if bucket.number > number - BUCKETS]
        total = sum(bucket.total for bucket in recent)
        if total < policy.min_requests:
            return
        failing = policy.error_share and sum(bucket.failed for bucket in recent) >= total * policy.error_share
        slowing = policy.slow_s and sum(bucket.slow for bucket in recent) >= total * policy.slow_share
        if failing or slowing:
            self._turn("open")

    def _turn(self, phase: Phase) -> None:
        self.phase, self.since_s = phase, self._clock()
        self._gauge.set(phase == "open")
        self._buckets.clear()

    def forget(self) -> None:
        """It is configured no more."""
        self._gauge.set(0)


class Ceiling:
    """At most so many requests are under way; some more wait for their turn, first come, first served."""

    def __init__(self) -> None:
        self.most, self.queue, self.timeout_s = NO_CEILING, 0, 0.0
        self.inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def enter(self, deadline_s: float = inf) -> None:
        """Raises UpstreamBusy: the queue is full, or it took too long (`deadline_s`: in the loop's time at the latest).
        Each return is followed by one `leave`."""
        if self.inside < self.most and not self._waiting:
            self.inside += 1
            return
        if len(self._waiting) >= self.queue:
            raise UpstreamBusy(headers=[(b"retry-after", b"1")])
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout_at(min(loop.time() + self.timeout_s, deadline_s)):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # it came all the same: for the next one
                self.leave()
            elif turn in self._waiting:  # else whoever left in this moment has passed it over already
                self._waiting.remove(turn)
            if isinstance(error, TimeoutError):
                raise UpstreamBusy(headers=[(b"retry-after", b"1")]) from None
            raise

    def set(self, most: int, queue: int, timeout_s: float) -> None:
        """`most` 0: no ceiling."""
        self.most, self.queue, self.timeout_s = most or NO_CEILING, queue, timeout_s
        self._next()

    def leave(self) -> None:
        self.inside -= 1
        self._next()

    def _next(self) -> None:
        while self._waiting and self.inside < self.most:
            turn = self._waiting.popleft()
            if not turn.done():
                self.inside += 1
                turn.set_result(None)


class Budget:
    """Further attempts as a share of the requests, so that an upstream in trouble is not asked many times as often."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.share, self.per_s = 0.0, 0.0
        self._clock = clock
        self._saved = 0.0
        self._at_s = clock()

    def set(self, share: float, per_s: float) -> None:
        if not self.per_s:  # the first time: as if it had been idle
            self._saved = per_s * BUDGET_S
        self.share, self.per_s = share, per_s

    def request(self) -> None:
        self._saved += self.share

    def take(self) -> bool:
        """Whether one more attempt may be made; it is then counted."""
        now_s = self._clock()
        most = self.per_s * BUDGET_S + 100 * self.share
        self._saved = min(most, self._saved + (now_s - self._at_s) * self.per_s)
        self._at_s = now_s
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


class Guard:
    """What a worker keeps for one upstream."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self.name = name
        self.care: CarePolicy | None = None
        self.breaker: Breaker | None = None
        self.ceiling = Ceiling()
        self.budget = Budget(clock)
        self._clock = clock

    def follow(self, care: CarePolicy) -> None:
        """A new configuration: what is known stays."""
        self.care = care
        if care.breaker is None:
            if self.breaker is not None:
                self.breaker.forget()
            self.breaker = None
        elif self.breaker is None:
            self.breaker = Breaker(self.name, care.breaker, self._clock)
        else:
            self.breaker.policy = care.breaker
        self.ceiling.set(care.max_concurrency, care.max_queue, care.queue_timeout_s)
        self.budget.set(care.budget_share, care.budget_per_s)


class Guards:
    """Of all upstreams of a worker that ask for care. `clock`: seconds, never back."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._guards: dict[str, Guard] = {}

    def of(self, upstream: UpstreamSpec, care: CarePolicy) -> Guard:
        guard = self._guards.get(upstream.name)
        if guard is None:
            guard = self._guards[upstream.name] = Guard(upstream.name, self._clock)
        if guard.care is not care:
            guard.follow(care)
        return guard

    def retain(self, upstreams: list[UpstreamSpec]) -> None:
        """Forget those that no configuration names any more, and follow it for the others."""
        cares = {upstream.name: upstream.care for upstream in upstreams if upstream.care is not None}
        for name in [name for name, guard in self._guards.items() if name not in cares and not guard.ceiling.inside]:
            guard = self._guards.pop(name)
            if guard.breaker is not None:
                guard.breaker.forget()

    def shown(self) -> Iterator[dict[str, object]]:
        """For /status: those that have had a request."""
        now_s = self._clock()
        for name, guard in list(self._guards.items()):
            breaker = guard.breaker
            yield {
                "upstream": name,
                "circuit": breaker.phase if breaker else None,
                "circuit_for_s": round(now_s - breaker.since_s, 1) if breaker and breaker.since_s else None,
                "under_way": guard.ceiling.inside,
                "waiting": guard.ceiling.waiting,
            }
