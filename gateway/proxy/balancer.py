"""Which target of an upstream gets the next request. State is kept by address, outside the table: a reload forgets
nothing, and least-connections counts what is truly in flight."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from gateway.proxy.errors import NoTarget
from gateway.proxy.snapshot import TargetSpec, UpstreamSpec


@dataclass(slots=True)
class TargetState:
    """What one worker knows of one address."""

    in_flight: int = 0
    credit: float = 0.0  # smooth weighted round-robin's running balance


class Balancer:
    """Picks targets for every upstream of a worker."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str], TargetState] = {}

    def state(self, upstream: UpstreamSpec, target: TargetSpec) -> TargetState:
        key = (upstream.name, target.address)
        found = self._states.get(key)
        if found is None:
            found = self._states[key] = TargetState()
        return found

    def pick(self, upstream: UpstreamSpec, tried: Collection[str] = ()) -> TargetSpec:
        """The target for the next attempt; an address in `tried` only when no other is left. Raises NoTarget."""
        targets = upstream.targets
        if len(targets) == 1 and targets[0].weight:
            return targets[0]
        usable = [target for target in targets if target.weight]
        if not usable:
            raise NoTarget()
        fresh = [target for target in usable if target.address not in tried] or usable
        if upstream.balancing == "least-connections":
            return min(fresh, key=lambda target: (self.state(upstream, target).in_flight + 1) / target.weight)
        return self._round_robin(upstream, fresh)

    def _round_robin(self, upstream: UpstreamSpec, targets: list[TargetSpec]) -> TargetSpec:
        """nginx's smooth weighted round-robin: a,a,b,a,c,a,a instead of a,a,a,a,a,b,c."""
        best: tuple[TargetState, TargetSpec] | None = None
        total = 0
        for target in targets:
            state = self.state(upstream, target)
            state.credit += target.weight
            total += target.weight
            if best is None or state.credit > best[0].credit:
                best = (state, target)
        assert best is not None
        best[0].credit -= total
        return best[1]

    def retain(self, upstreams: Collection[UpstreamSpec]) -> None:
        """Forget addresses that are in no configuration any more and have nothing in flight."""
        known = {(upstream.name, target.address) for upstream in upstreams for target in upstream.targets}
        for key in [key for key, state in self._states.items() if key not in known and not state.in_flight]:
            del self._states[key]
