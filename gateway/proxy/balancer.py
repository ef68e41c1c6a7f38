"""Which target of an upstream gets the next request, and what each target's traffic says of it.

State is kept by address, outside the table: a reload forgets nothing, and least-connections counts what is truly in
flight. While nothing is wrong, a request costs one look at `wary`; only if a target is down or ejected, or has been
tried, the others are sought.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from math import ceil
from time import monotonic, time

import httpx

from gateway.proxy import health
from gateway.proxy.errors import NoHealthyTarget, NoTarget, UpstreamError
from gateway.proxy.health import GOOD, NOT_ITS_FAULT, Standing
from gateway.proxy.sightings import Key, Report
from gateway.proxy.snapshot import TargetSpec, UpstreamSpec

#: How much the newest answer counts in the moving average of latencies.
SMOOTHING = 0.1
RETRY_AFTER_MAX_S = 60


class TargetState:
    """What one worker knows of one address. `forward` calls `answered` or `broke` once for each attempt, and keeps here
    the `transport` that leads there, which is the right one for the requests of its `group`."""

    __slots__ = ("credit", "down", "group", "in_flight", "latency_s", "since_s", "standing", "target", "transport")

    def __init__(self, target: TargetSpec, down: bool) -> None:
        self.target = target
        self.group: Group | None = None  # None: it has no weight, so nobody chooses it
        self.transport: httpx.AsyncBaseTransport | None = None
        self.in_flight = 0
        self.credit = 0  # smooth weighted round-robin's running balance
        self.latency_s = 0.0  # moving average of the time to a good answer's head; 0: none yet
        self.standing: Standing = GOOD
        self.down = down  # says the prober
        self.since_s = 0.0  # of the state it is in, since the epoch; 0: since the start

    def answered(self, status: int, latency_s: float) -> None:
        if status >= 500 and status not in NOT_ITS_FAULT:
            self._failed()
            return
        self.latency_s += (latency_s - self.latency_s) * (SMOOTHING if self.latency_s else 1.0)
        if self.standing.failures:
            self._recovered()

    def broke(self, error: UpstreamError, with_body: bool) -> None:
        if health.blames(error, with_body):
            self._failed()

    def _failed(self) -> None:
        group = self.group
        if group is None:
            return
        before, policy = self.standing.phase, group.upstream.eject
        others = [other for other in group.members if other is not self]
        down = sum(other.down for other in others)
        ejected = sum(not other.down and not other.well for other in others)
        may_eject = health.may_eject(len(others), down, ejected, policy)
        self.standing = health.failed(self.standing, group.clock(), policy, may_eject)
        if self.standing.phase != before:
            group.wary = True
            self.since_s = self.since_s if before == "trial" else time()

    def _recovered(self) -> None:
        before = self.standing.phase
        self.standing = health.answered(self.standing, self.group.clock() if self.group else 0.0)
        if self.standing.phase != before:
            self.since_s = time()

    @property
    def well(self) -> bool:
        return not self.down and self.standing.phase == "in"


class Group:
    """The targets of one upstream that have a weight. `wary`: one of them may not be well. `sole`: there is one."""

    __slots__ = ("clock", "members", "sole", "upstream", "wary")

    def __init__(self, upstream: UpstreamSpec, members: Sequence[TargetState], clock: Callable[[], float]) -> None:
        self.upstream = upstream
        self.members = members
        self.clock = clock
        self.sole = members[0] if len(members) == 1 else None
        self.wary = not members or not all(state.well for state in members)

    def pick(self, tried: Collection[str]) -> TargetState:
        """Looks at each. Raises NoTarget, NoHealthyTarget."""
        if not self.members:
            raise NoTarget()
        self.wary = not all(state.well for state in self.members)
        now_s = self.clock()
        alive = [state for state in self.members if not state.down]
        if not alive:
            raise NoHealthyTarget(headers=[(b"retry-after", b"%d" % self._retry_after_s())])
        # All that are alive are ejected: when the others went down or were removed. Better those than none.
        usable = [state for state in alive if health.takes(state.standing, now_s)] or alive
        state = self.choose([state for state in usable if state.target.address not in tried] or usable)
        if state.standing.phase != "in" and health.takes(state.standing, now_s):
            state.standing = health.tried(state.standing, now_s, self.upstream.eject)
        return state

    def choose(self, states: Sequence[TargetState]) -> TargetState:
        if self.upstream.balancing == "least-connections":
            return _least_connections(states)
        return _round_robin(states)

    def _retry_after_s(self) -> int:
        """The soonest a probe could find one well again."""
        probe = self.upstream.probe
        return min(RETRY_AFTER_MAX_S, ceil(probe.interval_s * probe.healthy_after)) if probe else 1


class Balancer:
    """Picks targets for every upstream of a worker. `clock`: seconds, never back."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._states: dict[Key, TargetState] = {}
        self._groups: dict[str, Group] = {}
        self._down: frozenset[Key] = frozenset()

    def state(self, upstream: UpstreamSpec, target: TargetSpec) -> TargetState:
        key = (upstream.name, target.address)
        found = self._states.get(key)
        if found is None:
            found = self._states[key] = TargetState(target, key in self._down)
        return found

    def pick(self, upstream: UpstreamSpec, tried: Collection[str] = ()) -> TargetState:
        """The target for the next attempt; an address in `tried` only when no other is left.

        Raises NoTarget, NoHealthyTarget.
        """
        group = self._groups.get(upstream.name)
        if group is None or group.upstream is not upstream:
            group = self._group(upstream)
        if group.wary or tried:
            return group.pick(tried)
        return group.sole or group.choose(group.members)

    def _group(self, upstream: UpstreamSpec) -> Group:
        """Made for each configuration; a request of the one before makes its own again, from the same states."""
        members = []
        for target in upstream.targets:
            state = self.state(upstream, target)
            state.target, state.group, state.transport = target, None, None
            if not upstream.eject.after:
                state.standing = GOOD
            if target.weight:
                members.append(state)
        group = self._groups[upstream.name] = Group(upstream, members, self._clock)
        for state in members:
            state.group = group
        return group

    def mark(self, down: frozenset[Key]) -> None:
        """What the prober says: these are down, all others are not. Whoever is up again begins anew."""
        changed, self._down = down ^ self._down, down
        for key in changed & self._states.keys():
            state = self._states[key]
            state.down, state.standing, state.since_s = key in down, GOOD, time()
            if state.group is not None:
                state.group.wary = True

    def retain(self, upstreams: Collection[UpstreamSpec]) -> None:
        """Forget addresses that are in no configuration any more and have nothing in flight."""
        known = {(upstream.name, target.address) for upstream in upstreams for target in upstream.targets}
        for key in [key for key, state in self._states.items() if key not in known and not state.in_flight]:
            del self._states[key]
        for name in self._groups.keys() - {upstream.name for upstream in upstreams}:
            del self._groups[name]

    def reports(self) -> Iterator[Report]:
        """Of every address that had a request. For the node, which puts the workers' together."""
        for (upstream, address), state in list(self._states.items()):  # asked for from threads, too
            latency_ms = round(state.latency_s * 1000, 2) if state.latency_s else None
            ejected = state.standing.phase != "in"
            yield Report(
                upstream, address, state.in_flight, latency_ms, state.standing.failures, ejected, state.since_s
            )


def _round_robin(states: Sequence[TargetState]) -> TargetState:
    """nginx's smooth weighted round-robin: a,a,b,a,c,a,a instead of a,a,a,a,a,b,c."""
    best, total = states[0], 0
    for state in states:
        weight = state.target.weight
        state.credit += weight
        total += weight
        if state.credit > best.credit:
            best = state
    best.credit -= total
    return best


def _least_connections(states: Sequence[TargetState]) -> TargetState:
    """By weight; the first of equals."""
    best, least = states[0], float("inf")
    for state in states:
        load = (state.in_flight + 1) / state.target.weight
        if load < least:
            best, least = state, load
    return best
