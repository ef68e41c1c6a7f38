"""Shares of the traffic: how large one is at a moment, and which requests are in it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from itertools import count
from math import inf

_GOLDEN = 0.618033988749895  # the number whose multiples fill the interval most evenly


@dataclass(frozen=True, slots=True)
class Ramp:
    """A share that grows (or shrinks) evenly between two moments; nothing before the first. Seconds of the epoch."""

    first: float
    last: float
    start_s: float = -inf
    end_s: float = -inf

    def share(self, now_s: float) -> float:
        """0.0 to 1.0."""
        if now_s < self.start_s:
            return 0.0
        if now_s >= self.end_s:
            return self.last
        return self.first + (self.last - self.first) * (now_s - self.start_s) / (self.end_s - self.start_s)


def point_of(key: bytes, salt: bytes) -> float:
    """Where a key stands between 0 and 1: always and everywhere the same. Another salt shuffles anew."""
    return int.from_bytes(blake2b(key, digest_size=8, salt=salt[:16]).digest()) / (1 << 64)


def points(start: float) -> Callable[[], float]:
    """Points that fill 0 to 1 so evenly that any run of them has its share on both sides of any bound."""
    numbers = count()
    return lambda: (start + next(numbers) * _GOLDEN) % 1.0


def moment(text: str) -> float:
    """Seconds of the epoch of an ISO 8601 text with its offset. Raises ValueError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"'{text}' is no moment: write it like 2026-03-01T20:00:00Z.") from None
    if found.tzinfo is None:
        raise ValueError(f"'{text}' does not say where: end it with Z or an offset such as +01:00.")
    return found.timestamp()
