"""Latency histograms that can be added to one another: counts in bins whose bounds grow by 9 %.

A percentile is the geometric middle of its bin, hence within 4.5 % of the exact nearest-rank value (and within 0.05 ms
below that). A histogram travels as sorted [bin, count] pairs: few bins of a route are ever in use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil, log

RATIO = 1.09
FLOOR_MS = 0.05  # bin 0 is everything below
LAST = 250  # above 31 hours

_LOG_RATIO = log(RATIO)


def bin_of(value_ms: float) -> int:
    if value_ms < FLOOR_MS:
        return 0
    return min(LAST, 1 + int(log(value_ms / FLOOR_MS) / _LOG_RATIO))


def value_of(bin_: int) -> float:
    """The middle of a bin, in ms."""
    return FLOOR_MS * RATIO ** (bin_ - 0.5) if bin_ else FLOOR_MS / 2


def merge(histograms: Iterable[Iterable[tuple[int, int]]]) -> dict[int, int]:
    merged: dict[int, int] = {}
    for pairs in histograms:
        for bin_, count in pairs:
            merged[bin_] = merged.get(bin_, 0) + count
    return merged


def percentile(counts: Mapping[int, int], share: float) -> float | None:
    """In ms, by nearest rank: the least value that `share` (0 to 1) of all are not above. None of nothing."""
    total = sum(counts.values())
    if not total:
        return None
    rank = max(1, ceil(share * total))
    for bin_ in sorted(counts):
        rank -= counts[bin_]
        if rank <= 0:
            break
    return value_of(bin_)
