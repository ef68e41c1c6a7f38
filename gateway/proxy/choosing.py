"""The ways to choose among targets that may be chosen: in turn, the least busy, the quickest.

Consistent hashing is in `hashing`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.proxy.targets import TargetState


def round_robin(states: Sequence[TargetState]) -> TargetState:
    """nginx's smooth weighted round-robin: a,a,b,a,c,a,a instead of a,a,a,a,a,b,c."""
    best = states[0]
    total: float = 0
    for state in states:
        weight = state.weight
        state.credit += weight
        total += weight
        if state.credit > best.credit:
            best = state
    best.credit -= total
    return best


def least_connections(states: Sequence[TargetState]) -> TargetState:
    """By weight; equals in turn, so that one request at a time does not always go to the first."""
    least, equals = float("inf"), []
    for state in states:
        load = (state.in_flight + 1) / state.weight
        if load < least:
            least, equals = load, [state]
        elif load == least:
            equals.append(state)
    return equals[0] if len(equals) == 1 else round_robin(equals)


def quickest(states: Sequence[TargetState], now_s: float, chance: Callable[[], float] = random) -> TargetState:
    """Of two by chance the one that promises the sooner answer: latency x requests in flight, by weight.

    The best of all would be everybody's choice at once, until it is the worst (Mitzenmacher's power of two choices).
    """
    if len(states) == 1:
        return states[0]
    first = int(chance() * len(states))
    second = (first + 1 + int(chance() * (len(states) - 1))) % len(states)
    one, other = states[first], states[second]
    return one if one.load(now_s) <= other.load(now_s) else other
