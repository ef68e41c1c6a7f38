"""Rate limits as values, and the algorithms as pure functions. `limits.lua` is the same arithmetic inside Redis.

All of it is whole numbers (times in ms), so both sides give equal answers; a property test compares them. A **state**
is a tuple of integers that can be read under another `limit` or `burst`: those can be edited without losing what was
counted. The empty tuple is a key nobody has used.

| algorithm        | state                         | promise                                                         |
|------------------|-------------------------------|-----------------------------------------------------------------|
| `fixed-window`   | (window start, taken)         | `limit` per window; up to twice that across a window's end      |
| `sliding-window` | (last ms, taken, …), one pair | never more than `limit` in any `window_s`; room comes back up   |
|                  | for each 1/60 of the window   | to 1/60 of the window later than an exact log would give it     |
| `token-bucket`   | (last ms, level)              | `burst` at once, then an even `limit` per `window_s`            |
| `leaky-bucket`   | (last ms, filled)             | the same; remembers what was taken instead of what is left      |
| `period`         | (taken,)                      | `limit` until `window_s` from now: the key names the period     |

A level counts token parts: one token is `window_ms` parts and each ms adds `limit` of them, so nothing is ever rounded.
The largest number is a full bucket, and `Limit.exact` says whether it is below the 2^53 that doubles hold exactly.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Algorithm = Literal["token-bucket", "leaky-bucket", "sliding-window", "fixed-window", "period"]
State = tuple[int, ...]

MAX_LIMIT = 1_000_000
MAX_WINDOW_S = 366 * 86_400
SLOTS = 60
BUCKETS = ("token-bucket", "leaky-bucket")
_EXACT = 1 << 53


@dataclass(frozen=True, slots=True)
class Limit:
    """`limit` units per `window_s` seconds; `burst` is the bucket's size (buckets only; 0: equal to `limit`)."""

    algorithm: Algorithm
    limit: int
    window_s: float
    burst: int = 0
    window_ms: int = field(init=False, repr=False, compare=False)
    capacity: int = field(init=False, repr=False, compare=False)  # the most units that can be taken at once
    spec: str = field(init=False, repr=False, compare=False)  # all of it, as `limits.lua` reads it

    def __post_init__(self) -> None:
        """Written down once: requests ask for these."""
        window_ms = max(1, round(self.window_s * 1000))
        capacity = self.burst if self.burst and self.algorithm in BUCKETS else self.limit
        object.__setattr__(self, "window_ms", window_ms)
        object.__setattr__(self, "capacity", capacity)
        object.__setattr__(self, "spec", f"{self.algorithm[0]}:{self.limit}:{window_ms}:{capacity}")

    @property
    def exact(self) -> bool:
        """Can be counted in whole numbers everywhere."""
        return self.algorithm not in BUCKETS or self.capacity * self.window_ms < _EXACT


class LimitState(NamedTuple):
    allowed: bool  # this limit has room; the request passes only if every limit of its unit has
    remaining: int  # units left after this request, never below 0
    reset_s: float  # until the whole limit is free again
    retry_after_s: float  # until there is room for the cost; 0 when allowed


def decide(
    limits: Sequence[Limit], states: Sequence[State], now_ms: int, cost: int = 1
) -> tuple[list[LimitState], list[State]]:
    """One request: take `cost` from every limit, or from none if any refuses. A refusal changes no state.

    What costs more than a limit's capacity never passes.
    """
    current = [_rolled(limit, state, now_ms) for limit, state in zip(limits, states, strict=True)]
    free = [_free(limit, state) for limit, state in zip(limits, current, strict=True)]
    allowed = all(room >= cost for room in free)
    if allowed:
        current = [_taken(limit, state, now_ms, cost) for limit, state in zip(limits, current, strict=True)]
    answers = [
        LimitState(
            allowed=room >= cost,
            remaining=max(0, room - cost if allowed else room),
            reset_s=_reset_ms(limit, state, now_ms) / 1000,
            retry_after_s=0.0 if room >= cost else _retry_ms(limit, state, now_ms, cost) / 1000,
        )
        for limit, state, room in zip(limits, current, free, strict=True)
    ]
    return answers, current if allowed else list(states)


def _rolled(limit: Limit, state: State, now_ms: int) -> State:
    """The state as it is now. A clock that went backwards changes nothing."""
    window_ms = limit.window_ms
    if limit.algorithm == "fixed-window":
        start = now_ms - now_ms % window_ms
        return state if state and state[0] >= start else (start, 0)
    if limit.algorithm == "sliding-window":
        first = 0
        while first < len(state) and _leaves_ms(limit, state[first]) <= now_ms:
            first += 2
        return state[first:]
    if limit.algorithm == "period":
        return state or (0,)
    if limit.algorithm == "leaky-bucket":
        last_ms, filled = state or (now_ms, 0)
        return max(last_ms, now_ms), max(0, filled - max(0, now_ms - last_ms) * limit.limit)
    full = limit.capacity * window_ms
    if not state:
        return now_ms, full
    last_ms = max(state[0], now_ms)
    return last_ms, min(full, state[1] + (last_ms - state[0]) * limit.limit)


def _free(limit: Limit, state: State) -> int:
    if limit.algorithm == "fixed-window":
        return limit.limit - state[1]
    if limit.algorithm == "sliding-window":
        return limit.limit - sum(state[1::2])
    if limit.algorithm == "period":
        return limit.limit - state[0]
    if limit.algorithm == "leaky-bucket":
        return (limit.capacity * limit.window_ms - state[1]) // limit.window_ms
    return state[1] // limit.window_ms


def _taken(limit: Limit, state: State, now_ms: int, cost: int) -> State:
    if limit.algorithm == "fixed-window":
        return state[0], state[1] + cost
    if limit.algorithm == "sliding-window":
        slot_ms = _slot_ms(limit)
        if state and state[-2] // slot_ms >= now_ms // slot_ms:
            return *state[:-2], max(state[-2], now_ms), state[-1] + cost
        return *state, now_ms, cost
    if limit.algorithm == "period":
        return (state[0] + cost,)
    parts = cost * limit.window_ms
    return state[0], state[1] + parts if limit.algorithm == "leaky-bucket" else state[1] - parts


def _reset_ms(limit: Limit, state: State, now_ms: int) -> int:
    if limit.algorithm == "fixed-window":
        return state[0] + limit.window_ms - now_ms
    if limit.algorithm == "sliding-window":
        return _leaves_ms(limit, state[-2]) - now_ms if state else 0
    if limit.algorithm == "period":
        return limit.window_ms
    if limit.algorithm == "leaky-bucket":
        return _ceil(state[1], limit.limit)
    return _ceil(max(0, limit.capacity * limit.window_ms - state[1]), limit.limit)


def _retry_ms(limit: Limit, state: State, now_ms: int, cost: int) -> int:
    """Of a limit without room. A limit lowered meanwhile may need more than its oldest slot to leave."""
    if limit.algorithm == "fixed-window":
        return state[0] + limit.window_ms - now_ms
    if limit.algorithm == "period":
        return limit.window_ms
    if limit.algorithm == "token-bucket":
        return _ceil(cost * limit.window_ms - state[1], limit.limit)
    if limit.algorithm == "leaky-bucket":
        return _ceil(state[1] + (cost - limit.capacity) * limit.window_ms, limit.limit)
    if not state:  # it costs more than there ever is
        return limit.window_ms
    room, index = _free(limit, state), 0
    while (room := room + state[index + 1]) < cost and index + 2 < len(state):
        index += 2
    return _leaves_ms(limit, state[index]) - now_ms


def _slot_ms(limit: Limit) -> int:
    return _ceil(limit.window_ms, SLOTS)


def _leaves_ms(limit: Limit, last_ms: int) -> int:
    """When a slot's last request is a whole window ago: all of the slot leaves with it."""
    return last_ms + limit.window_ms


def _ceil(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


class LocalCounters:
    """The states of one worker, in memory. Bounded: the key that was used longest ago is forgotten first."""

    def __init__(self, max_keys: int = 10_000) -> None:
        self._states: OrderedDict[str, State] = OrderedDict()
        self._max_keys = max_keys

    def __len__(self) -> int:
        return len(self._states)

    def check(self, limits: Sequence[tuple[str, Limit]], now_ms: int, cost: int = 1) -> list[LimitState]:
        before = [self._states.get(key, ()) for key, _ in limits]
        answers, after = decide([limit for _, limit in limits], before, now_ms, cost)
        for (key, _), state in zip(limits, after, strict=True):
            self._states[key] = state
            self._states.move_to_end(key)
        while len(self._states) > self._max_keys:
            self._states.popitem(last=False)
        return answers
