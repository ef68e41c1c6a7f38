"""Ranges of time as buckets of the rollups. Pure; everything is UTC.

A range is covered by as few buckets as possible: minutes at its edges, then hours, then whole days.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from dashboard.fold import DAY_S, HOUR_S, MINUTE_S


@dataclass(frozen=True, slots=True)
class Piece:
    """Buckets of one grain, from `first` up to but not including `end`."""

    grain_s: int
    first: datetime
    end: datetime


def cover(start: datetime, end: datetime, finest_s: int = MINUTE_S) -> list[Piece]:
    """A range as the fewest buckets, widened to whole ones of the finest grain. Pure."""
    first, last = floor(start, finest_s), ceil(end, finest_s)
    pieces: list[Piece] = []
    tail: list[Piece] = []
    for grain_s, coarser_s in ((MINUTE_S, HOUR_S), (HOUR_S, DAY_S)):
        if grain_s < finest_s:
            continue
        inner_first, inner_last = ceil(first, coarser_s), floor(last, coarser_s)
        if inner_first >= inner_last:  # no whole coarser bucket lies inside
            return [piece for piece in (*pieces, Piece(grain_s, first, last), *tail) if piece.first < piece.end]
        pieces.append(Piece(grain_s, first, inner_first))
        tail.insert(0, Piece(grain_s, inner_last, last))
        first, last = inner_first, inner_last
    return [piece for piece in (*pieces, Piece(DAY_S, first, last), *tail) if piece.first < piece.end]


def step_for(start: datetime, end: datetime) -> int:
    """A round step that makes some 60 points of a range."""
    steps_s = (60, 300, 900, HOUR_S, 6 * HOUR_S, DAY_S, 7 * DAY_S)
    return next((step_s for step_s in steps_s if (end - start).total_seconds() / step_s <= 96), steps_s[-1])


def floor(at: datetime, grain_s: int) -> datetime:
    seconds = int(at.timestamp())
    return datetime.fromtimestamp(seconds - seconds % grain_s, UTC)


def ceil(at: datetime, grain_s: int) -> datetime:
    below = floor(at, grain_s)
    return below if below == at else below + timedelta(seconds=grain_s)
