"""What pages ask of usage. All of it reads rollups, whose size does not depend on the traffic; never raw rows.

Ranges are widened to whole minutes; by caller, whose rollups begin with the hour, to whole hours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from django.db import connection

from dashboard.fold import ALL, DAY_S, HOUR_S, MINUTE_S
from dashboard.ranges import Piece, cover, floor, step_for
from gateway.proxy.histogram import percentile

#: Every pair of every histogram of the rows, with the name of what it measures. Rows are found first: of the pairs
#: PostgreSQL expects so many that it would not care how it finds them, and read the whole table.
PAIRS = (
    "WITH found AS MATERIALIZED (SELECT start, duration_bins, gateway_bins, upstream_bins FROM usage_latency {where}) "
    "SELECT {columns}measure, bins[i][1], sum(bins[i][2]) FROM found CROSS JOIN LATERAL (VALUES "
    "('duration', duration_bins), ('gateway', gateway_bins), ('upstream', upstream_bins)) AS of (measure, bins) "
    "CROSS JOIN LATERAL generate_subscripts(bins, 1) AS i GROUP BY {columns}measure, bins[i][1]"
)

Dimension = Literal["route_id", "upstream_id", "status_class", "outcome", "consumer_id", "key_id"]


@dataclass(slots=True)
class Times:
    """Of one measure, in ms. None: no request had it."""

    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(slots=True)
class Summary:
    requests: int = 0
    retried: int = 0
    cache_hits: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    by_status_class: dict[int, int] = field(default_factory=dict)
    by_outcome: dict[str, int] = field(default_factory=dict)
    duration: Times = field(default_factory=Times)
    gateway: Times = field(default_factory=Times)
    upstream: Times = field(default_factory=Times)

    @property
    def errors(self) -> int:
        """Answers with a 5xx, the gateway's own or an upstream's."""
        return self.by_status_class.get(5, 0)


@dataclass(slots=True)
class Point:
    """One step of a chart. Percentiles are of the whole duration, but those that name a side."""

    start: datetime
    requests: int = 0
    limited: int = 0
    by_status_class: dict[int, int] = field(default_factory=dict)
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    gateway_p95: float | None = None
    upstream_p95: float | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """What one route, consumer, outcome … had of the traffic. `value` is its id or its word; 0 is none."""

    value: int | str
    requests: int
    client_errors: int
    server_errors: int
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, slots=True)
class CallerSummary:
    requests: int
    client_errors: int
    server_errors: int
    rate_limited: int
    bytes_in: int
    bytes_out: int


def summary(start: datetime, end: datetime, *, route_id: int | None = None, upstream_id: int | None = None) -> Summary:
    """Three queries."""
    found = Summary()
    pieces, filters = cover(start, end), _filters(route_id, upstream_id)
    for status_class, outcome, *sums in _rows(
        "SELECT status_class, outcome, sum(requests), sum(retried), sum(cache_hits), sum(bytes_in), sum(bytes_out) "
        "FROM usage_traffic {where} GROUP BY 1, 2",
        pieces,
        filters,
    ):
        requests, retried, hits, bytes_in, bytes_out = map(int, sums)
        found.requests += requests
        found.retried += retried
        found.cache_hits += hits
        found.bytes_in += bytes_in
        found.bytes_out += bytes_out
        found.by_status_class[status_class] = found.by_status_class.get(status_class, 0) + requests
        found.by_outcome[outcome] = found.by_outcome.get(outcome, 0) + requests
    _times(found, pieces, filters)
    return found


def series(
    start: datetime,
    end: datetime,
    *,
    step_s: int | None = None,
    route_id: int | None = None,
    upstream_id: int | None = None,
) -> list[Point]:
    """Every step from the one `start` lies in, empty ones too; `step_s` is whole minutes. Two queries."""
    step_s = step_s or step_for(start, end)
    grain_s = next(grain_s for grain_s in (DAY_S, HOUR_S, MINUTE_S) if step_s % grain_s == 0)
    step = timedelta(seconds=step_s)
    first = floor(start, step_s)
    pieces, filters = [Piece(grain_s, first, end)], _filters(route_id, upstream_id)
    points = {first + n * step: Point(first + n * step) for n in range(-((first - end) // step))}
    bucket = "date_bin(%(step)s, start, 'epoch')"
    for at, status_class, requests, limited in _rows(
        f"SELECT {bucket}, status_class, sum(requests), "  # noqa: S608 (our own names)
        "coalesce(sum(requests) FILTER (WHERE outcome = 'rate_limited'), 0) FROM usage_traffic {where} GROUP BY 1, 2",
        pieces,
        filters,
        step=step,
    ):
        points[at].requests += int(requests)
        points[at].by_status_class[status_class] = int(requests)
        points[at].limited += int(limited)
    bins: dict[tuple[datetime, str], dict[int, int]] = {}
    for at, measure, bin_, count in _rows(
        PAIRS.replace("{columns}", f"{bucket}, "),
        pieces,
        filters,
        step=step,
    ):
        bins.setdefault((at, measure), {})[bin_] = int(count)
    for (at, measure), counts in bins.items():
        point = points[at]
        if measure == "duration":
            point.p50, point.p95, point.p99 = (percentile(counts, share) for share in (0.5, 0.95, 0.99))
        else:
            setattr(point, f"{measure}_p95", percentile(counts, 0.95))
    return list(points.values())


def top(start: datetime, end: datetime, by: Dimension, *, limit: int = 10) -> list[Share]:
    """The busiest first. One query."""
    if by in ("consumer_id", "key_id"):
        pieces, which, source = cover(start, end, finest_s=HOUR_S), "TRUE", "usage_calls"
        errors = ("client_errors", "server_errors")
    else:
        pieces, source = cover(start, end), "usage_traffic"
        which = f"route_id <> {ALL}" if by in ("route_id", "upstream_id") else f"route_id = {ALL}"
        errors = ("requests * (status_class = 4)::int", "requests * (status_class = 5)::int")
    # As floats, exact to 2^53: sums of bigint are numeric, and ten thousand keys of a day would take twice as long.
    sums = ", ".join(f"sum(({column})::float8)" for column in ("requests", *errors, "bytes_in", "bytes_out"))
    rows = _rows(
        f"SELECT {by}, {sums} FROM {source} {{where}} AND {which} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT %(limit)s",  # noqa: S608 (our own names)
        pieces,
        {},
        limit=limit,
    )
    return [Share(value, *map(int, counts)) for value, *counts in rows]


def active_keys(start: datetime, end: datetime) -> int:
    """How many keys had a request. One query."""
    ((found,),) = _rows(
        "SELECT count(*) FROM (SELECT key_id FROM usage_calls {where} AND key_id <> 0 GROUP BY 1) AS used",
        cover(start, end, finest_s=HOUR_S),
        {},
    )
    return int(found)


def keys_by_time(start: datetime, end: datetime) -> list[int]:
    """How many keys had a request in each hour, or day where hours are too many. One query."""
    grain_s = HOUR_S if end - start <= timedelta(days=2) else DAY_S
    first, step = floor(start, grain_s), timedelta(seconds=grain_s)
    counts = dict(
        _rows(
            "SELECT start, count(*) FROM usage_calls {where} AND key_id <> 0 GROUP BY 1",
            [Piece(grain_s, first, end)],
            {},
        )
    )
    return [counts.get(first + n * step, 0) for n in range(-((first - end) // step))]


def caller_summary(
    start: datetime, end: datetime, *, consumer_id: int | None = None, key_id: int | None = None
) -> CallerSummary:
    """One query."""
    ((*sums,),) = _rows(
        "SELECT sum(requests), sum(client_errors), sum(server_errors), sum(rate_limited), sum(bytes_in), "
        "sum(bytes_out) "
        "FROM usage_calls {where}",
        cover(start, end, finest_s=HOUR_S),
        {"consumer_id": consumer_id, "key_id": key_id},
    )
    return CallerSummary(*(int(value or 0) for value in sums))


def _filters(route_id: int | None, upstream_id: int | None) -> dict[str, int | None]:
    if route_id is None and upstream_id is None:
        return {"route_id": ALL}
    return {"route_id": route_id, "upstream_id": upstream_id}


def _times(found: Summary, pieces: Sequence[Piece], filters: dict[str, int | None]) -> None:
    bins: dict[str, dict[int, int]] = {"duration": {}, "gateway": {}, "upstream": {}}
    for measure, bin_, count in _rows(
        PAIRS.replace("{columns}", ""),
        pieces,
        filters,
    ):
        bins[measure][bin_] = int(count)
    ((duration_ms, gateway_ms, requests, upstream_ms, sent),) = _rows(
        "SELECT sum(duration_ms), sum(gateway_ms), sum(requests), sum(upstream_ms), sum(upstream_requests) "
        "FROM usage_latency {where}",
        pieces,
        filters,
    )
    found.duration = _time(bins["duration"], duration_ms, requests)
    found.gateway = _time(bins["gateway"], gateway_ms, requests)
    found.upstream = _time(bins["upstream"], upstream_ms, sent)


def _time(bins: dict[int, int], sum_ms: float | None, count: Any) -> Times:
    mean = sum_ms / int(count) if sum_ms is not None and count else None
    return Times(mean, *(percentile(bins, share) for share in (0.5, 0.9, 0.95, 0.99)))


def _rows(
    query: str, pieces: Iterable[Piece], filters: dict[str, int | None], **arguments: Any
) -> list[tuple[Any, ...]]:
    """`{where}` in the query becomes the buckets and the filters. A query per table reads each bucket once."""
    pieces = list(pieces)
    # Written out: of a join with a list of pieces PostgreSQL would guess the size, and read the whole table.
    places = " OR ".join(
        f"(grain_s = %(grain_{n})s AND start >= %(first_{n})s AND start < %(end_{n})s)" for n in range(len(pieces))
    )
    where = f"WHERE ({places or 'false'}) "
    used = {name: value for name, value in filters.items() if value is not None}
    where += "".join(f"AND {name} = %({name})s " for name in used)
    arguments |= used
    for n, piece in enumerate(pieces):
        arguments |= {f"grain_{n}": piece.grain_s, f"first_{n}": piece.first, f"end_{n}": piece.end}
    with connection.cursor() as cursor:
        cursor.execute(query.format(where=where), arguments)
        return list(cursor.fetchall())
