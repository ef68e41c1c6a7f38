"""TargetState: what one worker knows of one address, kept from configuration to configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp
from time import time
from typing import Protocol

import httpx

from gateway.proxy import health
from gateway.proxy.errors import UpstreamError
from gateway.proxy.health import BODY_BROKE, FAULTS, GOOD, Standing
from gateway.proxy.snapshot import Blame, TargetSpec, UpstreamSpec

#: How much the newest answer counts in the moving average of latencies.
SMOOTHING = 0.1
#: A target is silent when it lets requests wait so many times as long as it usually does, and at least so long; of one
#: that never answered nobody knows what is usual. Then it gets single requests, each later than the one before.
SILENCE_FACTOR, SILENCE_MIN_S, SILENCE_UNKNOWN_S = 10.0, 0.05, 1.0
SILENCE_PAUSE_FACTOR, SILENCE_PAUSE_MAX_S = 8.0, 5.0
#: ewma: after so long without an answer a slow target seems 1/e as slow; a failure doubles that, up to the most.
DECAY_S = 10.0
COST_MIN_S, COST_MAX_S = 0.001, 60.0


class Circle(Protocol):
    """The targets that an upstream's requests are shared among."""

    upstream: UpstreamSpec
    members: Sequence[TargetState]
    clock: Callable[[], float]

    def worry(self) -> None:
        """One of them may not be well."""

    def tell(self, state: TargetState) -> None:
        """The other workers, how this one stands."""

    def ramp(self, state: TargetState) -> None:
        """It takes requests again, or is new."""


class TargetState:
    """`forward` calls `asked`, then `heard` and `answered`, or `gave_up` and perhaps `broke`, for each attempt, and
    `ended` for each answer that is read piece by piece. It keeps here the `transport` that leads there, which is the
    right one for the requests of its `group`."""

    __slots__ = (
        "_asked_s", "_cost_at_s", "_cost_s", "_heard_s", "credit", "down", "faults", "group", "in_flight", "latency_s",
        "ramp_s", "since_s", "standing", "target", "timed", "transport", "waiting", "weight",
    )  # fmt: skip

    def __init__(self, target: TargetSpec, down: bool, standing: Standing = GOOD) -> None:
        self.target = target
        self.group: Circle | None = None  # None: it has no weight, so nobody chooses it
        self.transport: httpx.AsyncBaseTransport | None = None
        self.in_flight = 0
        self.waiting = 0  # those that have no answer yet
        self._asked_s = self._heard_s = 0.0  # the last request; the last sign of life, or when waiting for it began
        self.weight: float = target.weight  # less while it starts slowly
        self.ramp_s: float | None = None  # when that began
        self.credit: float = 0  # smooth weighted round-robin's running balance
        self.latency_s = 0.0  # moving average of the time to a good answer's head; 0: none yet
        self.timed = False  # ewma wants to know the cost
        self._cost_s = self._cost_at_s = 0.0
        self.faults: frozenset[int] = frozenset()  # statuses that count against it
        self.standing = standing
        self.down = down  # says the prober
        self.since_s = 0.0  # of the state it is in, since the epoch; 0: since the start

    # --- what becomes of its requests

    def asked(self, now_s: float) -> None:
        """Clock: `perf_counter`. Each call is followed by one of `heard` or `gave_up`."""
        self.in_flight += 1
        if not self.waiting:
            self._heard_s = now_s
        self.waiting += 1
        self._asked_s = now_s

    def heard(self, now_s: float) -> None:
        self.waiting -= 1
        self._heard_s = now_s

    def gave_up(self) -> None:
        self.waiting -= 1
        self.in_flight -= 1

    def silent(self, now_s: float) -> bool:
        """It may hang: better that others are asked, until its next turn. What hangs fails only when a time limit runs
        out, and all that were sent there meanwhile fail with it."""
        if not self.waiting:
            return False
        usual_s = max(SILENCE_MIN_S, SILENCE_FACTOR * self.latency_s) if self.latency_s else SILENCE_UNKNOWN_S
        pause_s = min(SILENCE_PAUSE_MAX_S, usual_s * SILENCE_PAUSE_FACTOR ** min(self.waiting, 4))
        return now_s - self._heard_s > usual_s and now_s - self._asked_s < pause_s

    def answered(self, status: int, latency_s: float) -> None:
        if status >= 400 and status in self.faults:
            self.failed(f"{FAULTS['status']} {status}")
            return
        self.latency_s += (latency_s - self.latency_s) * (SMOOTHING if self.latency_s else 1.0)
        if self.timed:
            self._cost(latency_s)
        if self.standing.failures and self.standing.fault != BODY_BROKE:
            self._recovered()

    def broke(self, error: UpstreamError, with_body: bool) -> None:
        blame = health.blames(error, with_body)
        if blame:
            self._blamed(blame, FAULTS[blame])

    def ended(self, error: UpstreamError | None) -> None:
        """An answer with a good head: whole, or given up by us (None), or broken off."""
        if error is None:
            if self.standing.fault == BODY_BROKE:
                self._recovered()
        elif blame := health.blames(error, with_body=True):
            self._blamed(blame, BODY_BROKE)

    def _blamed(self, blame: Blame, fault: str) -> None:
        if self.group is not None and blame in self.group.upstream.eject.on:
            self.failed(fault)

    def failed(self, fault: str, told: bool = False) -> None:
        """`told`: it failed in another worker, which told us."""
        group = self.group
        if group is None:
            return
        before, policy, now_s = self.standing.phase, group.upstream.eject, group.clock()
        if self.timed:
            self._set_cost(min(2 * max(self.cost(now_s), COST_MIN_S), COST_MAX_S), now_s)
        others = [other for other in group.members if other is not self]
        down = sum(other.down for other in others)
        ejected = sum(not other.down and not other.well for other in others)
        may_eject = health.may_eject(len(others), down, ejected, policy)
        self.standing = standing = health.failed(self.standing, now_s, policy, may_eject, fault)
        if standing.failures >= health.SUSPECT or standing.phase != before:
            group.worry()
        if standing.phase != before:
            self.since_s = self.since_s if before == "trial" else time()
        if not told and policy.after and (before != "out"):
            group.tell(self)

    def _recovered(self) -> None:
        group = self.group
        before = self.standing
        self.standing = health.answered(before, group.clock() if group is not None else 0.0)
        if group is not None and self.standing is not before:
            self._moved(before)
            group.tell(self)

    def _moved(self, before: Standing) -> None:
        if self.standing.phase == before.phase:
            return
        if "in" in (self.standing.phase, before.phase):
            self.since_s = time()
        if self.group is not None:
            self.group.worry()
            if self.standing.phase == "in":
                self.group.ramp(self)

    def told(self, standing: Standing) -> None:
        """How another worker has it stand, now or a moment ago."""
        before = self.standing
        self.standing = health.agreed(before, standing)
        self._moved(before)

    @property
    def well(self) -> bool:
        return not self.down and self.standing.phase == "in"

    # --- ewma: latencies as they are now, quick to believe in worse ones, forgetful of old ones

    def load(self, now_s: float) -> float:
        return max(self.cost(now_s), COST_MIN_S) * (self.in_flight + 1) / self.weight

    def cost(self, now_s: float) -> float:
        return self._cost_s * exp((self._cost_at_s - now_s) / DECAY_S) if self._cost_s else 0.0

    def _cost(self, latency_s: float) -> None:
        group = self.group
        if group is None:
            return
        now_s, cost_s = group.clock(), self._cost_s
        if latency_s < cost_s:
            kept = exp((self._cost_at_s - now_s) / DECAY_S)
            latency_s = cost_s * kept + latency_s * (1 - kept)
        elif cost_s:
            latency_s = (cost_s + latency_s) / 2
        self._set_cost(latency_s, now_s)

    def begin_cost(self, now_s: float) -> None:
        """A newcomer is as quick as the others are: neither everybody's choice nor nobody's."""
        if self.group is not None:
            known = [cost for other in self.group.members if other is not self and (cost := other.cost(now_s))]
            self._set_cost(sum(known) / len(known) if known else 0.0, now_s)

    def _set_cost(self, cost_s: float, now_s: float) -> None:
        self._cost_s, self._cost_at_s = cost_s, now_s
