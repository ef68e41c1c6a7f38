"""The last day of each route or upstream, for lists; and what the latest rows of an upstream say of its targets.

Lists read whole hours only, the running one included: fifty routes are a thousand small rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from django.db import connection

from dashboard.fold import ALL, HOUR_S
from dashboard.ranges import floor
from gateway.proxy.histogram import percentile

Owner = Literal["route_id", "upstream_id"]
HOURS = 24

#: How far back, and how many of an upstream's latest rows, the figures of its targets look.
TARGETS_SPAN = timedelta(hours=1)
TARGET_ROWS = 20_000


@dataclass(slots=True)
class Day:
    """`hours`: requests by the hour, oldest first. `p95_ms`: of a route's answers; of an upstream, how long it took."""

    requests: int = 0
    server_errors: int = 0
    hours: list[int] = field(default_factory=lambda: [0] * HOURS)
    p95_ms: float | None = None

    @property
    def error_share(self) -> float | None:
        """0 to 1. None: no requests."""
        return self.server_errors / self.requests if self.requests else None


def last_day(owner: Owner, ids: Iterable[int], now: datetime) -> dict[int, Day]:
    """For each id, those without traffic too. Two queries."""
    days = {id_: Day() for id_ in ids}
    first = _first_hour(now)
    where = f"WHERE grain_s = {HOUR_S} AND start >= %s AND route_id <> {ALL} AND {owner} = ANY(%s)"
    for id_, start, requests, errors in _rows(
        f"SELECT {owner}, start, sum(requests), sum(requests) FILTER (WHERE status_class = 5) "  # noqa: S608 (our own names)
        f"FROM usage_traffic {where} GROUP BY 1, 2",
        [first, list(days)],
    ):
        day, hour = days[id_], int((start - first).total_seconds()) // HOUR_S
        day.requests += int(requests)
        day.server_errors += int(errors or 0)
        if hour < HOURS:  # a clock that is ahead of ours
            day.hours[hour] += int(requests)
    measure = "duration_bins" if owner == "route_id" else "upstream_bins"
    bins: dict[int, dict[int, int]] = {}
    for id_, bin_, count in _rows(
        # Two slices side by side: half the price of a subscript for each pair.
        f"SELECT {owner}, bin, sum(count) FROM (SELECT {owner}, unnest({measure}[:][1:1]) AS bin, "  # noqa: S608 (our own names)
        f"unnest({measure}[:][2:2]) AS count FROM usage_latency {where}) AS pairs GROUP BY 1, 2",
        [first, list(days)],
    ):
        bins.setdefault(id_, {})[bin_] = int(count)
    for id_, counts in bins.items():
        days[id_].p95_ms = percentile(counts, 0.95)
    return days


def ranked(owner: Owner, by: Literal["requests", "errors"], now: datetime) -> list[int]:
    """Ids of whatever had any on the last day, the most first. One query."""
    what = "sum(requests)" if by == "requests" else "sum(requests) FILTER (WHERE status_class = 5)"
    rows = _rows(
        f"SELECT {owner} FROM usage_traffic WHERE grain_s = {HOUR_S} AND start >= %s AND route_id <> {ALL} "  # noqa: S608 (our own names)
        f"GROUP BY 1 HAVING {what} > 0 ORDER BY {what} DESC, 1",
        [_first_hour(now)],
    )
    return [id_ for (id_,) in rows]


@dataclass(frozen=True, slots=True)
class TargetUsage:
    requests: int
    server_errors: int
    p95_ms: float | None
    last_at: datetime


def targets(upstream_id: int, route_ids: Sequence[int], now: datetime) -> dict[str, TargetUsage]:
    """By address, from the latest rows of the routes that lead to the upstream. Rollups do not know targets.

    One query; it reads at most TARGET_ROWS rows, by the index of a route's newest.
    """
    if not route_ids:
        return {}
    rows = _rows(
        "SELECT target, count(*), count(*) FILTER (WHERE status >= 500), "
        "percentile_cont(0.95) WITHIN GROUP (ORDER BY upstream_ms), max(at) "
        "FROM unnest(%s::bigint[]) AS route (id) CROSS JOIN LATERAL ("
        "  SELECT at, target, status, upstream_ms, upstream_id FROM usage_row"
        "  WHERE route_id = route.id AND at >= %s ORDER BY at DESC LIMIT %s"
        ") AS latest WHERE upstream_id = %s AND target <> '' GROUP BY 1",
        [list(route_ids), now - TARGETS_SPAN, max(1, TARGET_ROWS // len(route_ids)), upstream_id],
    )
    return {target: TargetUsage(*figures) for target, *figures in rows}


def _first_hour(now: datetime) -> datetime:
    return floor(now, HOUR_S) - timedelta(hours=HOURS - 1)


def _rows(query: str, arguments: list[Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, arguments)
        return list(cursor.fetchall())
