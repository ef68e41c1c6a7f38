"""Rate limits as values, and the three algorithms as pure functions. `batcher` runs the same ones in Redis as Lua."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Algorithm = Literal["token-bucket", "sliding-window", "fixed-window"]


@dataclass(frozen=True, slots=True)
class Limit:
    """`limit` units per `window_s` seconds; `burst` is the bucket's size (token-bucket only; 0: equal to `limit`)."""

    algorithm: Algorithm
    limit: int
    window_s: float
    burst: int = 0


@dataclass(frozen=True, slots=True)
class LimitState:
    allowed: bool
    remaining: int  # units left after this request, never below 0
    reset_s: float  # until the whole limit is free again
    retry_after_s: float  # until one unit is free; 0 when allowed
