"""Which target of an upstream gets the next request, and what each target's traffic says of it.

State is kept by address, outside the table: a reload forgets nothing, and least-connections counts what is truly in
flight. While nothing is wrong, a request costs one look at `wary` and one at what waits for the chosen target. Only if
one is down or ejected, has been tried, starts slowly or is silent, or if the request itself has a say (a cookie, a
hash), others are sought.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from math import ceil
from time import monotonic, perf_counter, time

from gateway.proxy import health
from gateway.proxy.choosing import least_connections, quickest, round_robin
from gateway.proxy.errors import NoHealthyTarget, NoTarget
from gateway.proxy.exchange import Exchange
from gateway.proxy.hashing import Hashing
from gateway.proxy.headers import Pair
from gateway.proxy.health import GOOD, Standing
from gateway.proxy.sightings import Key, Report
from gateway.proxy.snapshot import TargetSpec, UpstreamSpec
from gateway.proxy.sticky import Stickiness
from gateway.proxy.targets import TargetState

__all__ = ["Balancer", "Group", "TargetState"]

RETRY_AFTER_MAX_S = 60
#: The least share of its weight that a target starts with: none would never be asked for anything.
RAMP_MIN = 0.1

#: Hears how a target stands, as one worker has just seen.
Tell = Callable[[Key, Standing], None]


class Group:
    """The targets of one upstream that have a weight. `wary`: a request must be looked at. `first`: those of the lowest
    priority; others wait until none of them is well. `sole`: the only one of them.
    """

    __slots__ = (
        "_asks", "_hashing", "_listen", "_tell", "_troubled", "choose", "clock", "first", "members", "sole",
        "sticky", "upstream", "wary",
    )  # fmt: skip

    def __init__(
        self,
        upstream: UpstreamSpec,
        members: Sequence[TargetState],
        clock: Callable[[], float],
        tell: Callable[[UpstreamSpec, TargetState], None],
        secret: bytes = b"",
        listen: Callable[[], None] = lambda: None,
    ) -> None:
        self.upstream = upstream
        self.members = members
        self.clock = clock
        self.first = _nearest(members)
        self.sole = self.first[0] if len(self.first) == 1 else None
        self._tell = tell
        self._listen = listen
        self._hashing = Hashing(upstream.hashing, members) if upstream.balancing == "consistent-hashing" else None
        self.sticky = Stickiness(upstream, members, secret) if upstream.sticky is not None else None
        self._asks = not self.sole and (self._hashing is not None or self.sticky is not None)
        self.choose: Callable[[Sequence[TargetState]], TargetState] = {
            "least-connections": least_connections, "ewma": self._quickest,
        }.get(upstream.balancing, round_robin)  # fmt: skip
        self._troubled = True
        self.wary = True

    def worry(self) -> None:
        self._troubled = self.wary = True

    def tell(self, state: TargetState) -> None:
        self._tell(self.upstream, state)

    def ramp(self, state: TargetState) -> None:
        """Slowly, if others can take the rest."""
        if self.upstream.balancing == "ewma":
            state.begin_cost(self.clock())
        if self.upstream.slow_start_s and any(other.well for other in self.members if other is not state):
            state.ramp_s = self.clock()
            self.worry()

    def pick(self, tried: Collection[str], exchange: Exchange | None = None) -> TargetState:
        """Looks at each. Raises NoTarget, NoHealthyTarget."""
        states = self._usable(tried) if self._troubled or tried else self.first
        state = None
        if self._asks and exchange is not None and self.sticky is not None:
            state = self.sticky.named(states, exchange)
        if state is None:
            state = self.choose(states) if self._hashing is None else self._hashing.choose(states, exchange)
        if state.standing.phase != "in" and health.takes(state.standing, now_s := self.clock()):
            state.standing = health.tried(state.standing, now_s, self.upstream.eject)
            self.tell(state)
        return state

    def _usable(self, tried: Collection[str]) -> Sequence[TargetState]:
        members, policy, now_s = self.members, self.upstream.eject, self.clock()
        if not members:
            raise NoTarget()
        self._listen()  # what others say of one that may be failing shall not wait for the loop's next turn
        ramping = self._ramp(now_s)
        fine = all(state.well and state.standing.failures < health.SUSPECT for state in members)
        self._troubled = ramping or not fine
        self.wary = self._troubled or self._asks
        if fine and not tried:
            return list(self.first) if ramping else self.first
        alive = [state for state in members if not state.down]
        if not alive:
            raise NoHealthyTarget(headers=[(b"retry-after", b"%d" % self._retry_after_s())])
        # All that are alive are ejected: when the others went down or were removed. Better those than none.
        usable = [state for state in alive if health.takes(state.standing, now_s)] or alive
        usable = [state for state in usable if state.target.address not in tried] or usable
        nearest = _nearest(usable)
        # What hangs is known only when its time limit runs out: until then not all requests go the same way.
        fit = [one for one in nearest if not health.suspect(one.standing, one.in_flight, policy)]
        return self.speaking(fit) or fit or nearest

    def speaking(self, states: Sequence[TargetState]) -> Sequence[TargetState]:
        now_s = perf_counter()
        return [state for state in states if not state.silent(now_s)]

    def _ramp(self, now_s: float) -> bool:
        """Moves the weights of those that start slowly. Whether there are any."""
        ramping = [state for state in self.members if state.ramp_s is not None]
        if not ramping:
            return False
        left, slow_s = False, self.upstream.slow_start_s
        steady = any(state.ramp_s is None and state.well for state in self.members)
        for state in ramping:
            share = (now_s - (state.ramp_s or 0.0)) / slow_s if slow_s and steady else 1.0
            if share >= 1.0:
                state.ramp_s, state.weight = None, state.target.weight
            else:
                state.weight = state.target.weight * max(RAMP_MIN, share)
                left = True
        return left

    def _quickest(self, states: Sequence[TargetState]) -> TargetState:
        return quickest(states, self.clock())

    def _retry_after_s(self) -> int:
        """The soonest a probe could find one well again."""
        probe = self.upstream.probe
        if probe is None:
            return 1
        return min(RETRY_AFTER_MAX_S, ceil((probe.down_interval_s or probe.interval_s) * probe.healthy_after))


def _nearest(states: Sequence[TargetState]) -> Sequence[TargetState]:
    """Those of the lowest priority; the same object where all have one."""
    if not states:
        return states
    lowest = min(state.target.priority for state in states)
    found = [state for state in states if state.target.priority == lowest]
    return states if len(found) == len(states) else found


class Balancer:
    """Picks targets for every upstream of a worker. `clock`: seconds, never back; the same in all workers of a node.

    `tell`: who is to hear at once of failures and of what follows from them. `listen`: has us `hear` what others told
    meanwhile. `secret`: for cookies; of all nodes.
    """

    def __init__(self, clock: Callable[[], float] = monotonic, secret: bytes = b"") -> None:
        self.tell: Tell | None = None
        self.listen: Callable[[], None] | None = None
        self._clock = clock
        self._secret = secret
        self._states: dict[Key, TargetState] = {}
        self._groups: dict[str, Group] = {}
        self._down: frozenset[Key] = frozenset()
        self._heard: dict[Key, Standing] = {}  # of targets that had no request here yet

    def state(self, upstream: UpstreamSpec, target: TargetSpec) -> TargetState:
        key = (upstream.name, target.address)
        found = self._states.get(key)
        if found is None:
            found = self._states[key] = TargetState(target, key in self._down, self._heard.pop(key, GOOD))
        return found

    def pick(
        self, upstream: UpstreamSpec, tried: Collection[str] = (), exchange: Exchange | None = None
    ) -> TargetState:
        """The target for the next attempt; an address in `tried` only when no other is left.

        Raises NoTarget, NoHealthyTarget.
        """
        group = self._groups.get(upstream.name)
        if group is None or group.upstream is not upstream:
            group = self._group(upstream)
        if group.wary or tried:
            return group.pick(tried, exchange)
        if group.sole is not None:
            return group.sole
        state = group.choose(group.first)
        if state.waiting and state.silent(perf_counter()) and (others := group.speaking(group.first)):
            return group.choose(others)
        return state

    def cookie(self, upstream: UpstreamSpec, state: TargetState, exchange: Exchange) -> Pair | None:
        """The Set-Cookie that brings the client back to the target that answered it, if it needs one."""
        group = self._groups.get(upstream.name)
        return group.sticky.field(state, exchange) if group is not None and group.sticky is not None else None

    def _group(self, upstream: UpstreamSpec) -> Group:
        """Made for each configuration; a request of the one before makes its own again, from the same states."""
        before = self._groups.get(upstream.name)
        members, new = [], []
        for target in upstream.targets:
            known = self._states.get((upstream.name, target.address))
            state = known or self.state(upstream, target)
            if target.weight and (known is None or not known.target.weight):
                new.append(state)
            if not upstream.eject.after:
                state.standing = GOOD
            state.target, state.group, state.transport, state.weight = target, None, None, target.weight
            state.faults = upstream.eject.statuses if "status" in upstream.eject.on else frozenset()
            state.timed = upstream.balancing == "ewma"
            state.credit = 0  # of other weights, it might mean a long run of one target
            if target.weight:
                members.append(state)
        group = self._groups[upstream.name] = Group(
            upstream, members, self._clock, self._tell, self._secret, self._listen
        )
        for state in members:
            state.group = group
        if before is not None:
            for state in new:
                group.ramp(state)
        return group

    def _tell(self, upstream: UpstreamSpec, state: TargetState) -> None:
        if self.tell is not None:
            self.tell((upstream.name, state.target.address), state.standing)

    def _listen(self) -> None:
        if self.listen is not None:
            self.listen()

    def hear(self, key: Key, standing: Standing) -> None:
        """Another worker has just seen this: one more failure, or how the target stands since then."""
        state = self._states.get(key)
        one_more = standing.phase == "in" and standing.failures
        if state is None:
            mine = self._heard.get(key, GOOD)
            failures = min(mine.failures + 1, standing.failures)
            self._heard[key] = (
                health.agreed(mine, standing) if not one_more
                else Standing(failures, mine.ejections, mine.phase, mine.until_s, mine.moved_s, standing.fault)
            )  # fmt: skip
        elif one_more:
            if state.standing.phase == "in":
                state.failed(standing.fault, told=True)
        else:
            state.told(standing)

    def learn(self, standings: Iterable[tuple[Key, Standing]]) -> None:
        """What the other workers, also those that have ended, wrote down of ejections: makes up for what was missed."""
        for key, standing in standings:
            if standing.moved_s and not (standing.phase == "in" and standing.failures):
                state = self._states.get(key)
                if state is None:
                    self._heard[key] = health.agreed(self._heard.get(key, GOOD), standing)
                elif state.group is None or state.group.upstream.eject.after:
                    state.told(standing)

    def standings(self) -> Iterator[tuple[Key, Standing]]:
        """Of every target that was ejected once, for other workers to learn."""
        for key, standing in list(self._heard.items()):
            if standing.moved_s:
                yield key, standing
        for key, state in list(self._states.items()):
            if state.standing.moved_s:
                yield key, state.standing

    def mark(self, down: frozenset[Key]) -> None:
        """What the prober says: these are down, all others are not. Whoever is up again begins anew."""
        changed, self._down = down ^ self._down, down
        for key in changed & self._states.keys():
            state = self._states[key]
            state.down, state.since_s = key in down, time()
            state.standing = Standing(moved_s=self._clock())
            if state.group is not None:
                state.group.worry()
                if not state.down:
                    state.group.ramp(state)

    def retain(self, upstreams: Collection[UpstreamSpec]) -> None:
        """Forget addresses that are in no configuration any more and have nothing in flight."""
        known = {(upstream.name, target.address) for upstream in upstreams for target in upstream.targets}
        for key in [key for key, state in self._states.items() if key not in known and not state.in_flight]:
            del self._states[key]
        for key in self._heard.keys() - known:
            del self._heard[key]
        for name in self._groups.keys() - {upstream.name for upstream in upstreams}:
            del self._groups[name]

    def reports(self) -> Iterator[Report]:
        """Of every address that had a request. For the node, which puts the workers' together."""
        for (upstream, address), state in list(self._states.items()):  # asked for from threads, too
            latency_ms = round(state.latency_s * 1000, 2) if state.latency_s else None
            ejected = state.standing.phase != "in"
            yield Report(
                upstream,
                address,
                state.in_flight,
                latency_ms,
                state.standing.failures,
                ejected,
                state.since_s,
                state.standing.fault,
            )
