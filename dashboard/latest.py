"""Raw usage rows, newest first. The only pages that read them; every query is bounded in rows, not only in time.

Three ways lead to the newest rows of a wish, and none of them reads a whole day:

| wished for                  | way                                                                                   |
|-----------------------------|---------------------------------------------------------------------------------------|
| nothing, a route, a caller  | an index that has the order already                                                   |
| status, outcome, slowness   | the rollups tell the minutes in which there are such rows; only those minutes are read |
| anything else               | the newest SCAN_MAX rows are looked through; the page says how far back that was       |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from django.db import connection

from dashboard.fold import ALL, MINUTE_S
from dashboard.models import UsageRow
from dashboard.ranges import cover, floor
from gateway.proxy.histogram import bin_of

SCAN_MAX = 20_000
MINUTES_MAX = 120
REFUSED = " AND outcome NOT IN ('ok', 'answered', 'client_closed')"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place between two rows, for a URL: microseconds since the epoch, and the id."""

    at: datetime
    id: int

    def __str__(self) -> str:
        return f"{(self.at - _EPOCH) // timedelta(microseconds=1)}-{self.id}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        micros, _, id_ = text.partition("-")
        if not (micros.isdecimal() and id_.isdecimal() and len(micros) <= 17 and len(id_) <= 18):
            return None
        return cls(_EPOCH + timedelta(microseconds=int(micros)), int(id_))


@dataclass(frozen=True, slots=True)
class Wish:
    """Which rows, of those from `start` up to but not including `end`."""

    start: datetime
    end: datetime
    route_id: int | None = None
    consumer_id: int | None = None
    key_id: int | None = None
    status_class: int | None = None
    outcome: str = ""
    method: str = ""
    slower_ms: float | None = None
    refused: bool = False  # by the gateway itself, whoever's fault it was

    @property
    def in_rollups(self) -> bool:
        """Whether the rollups know the minutes of such rows."""
        told = self.status_class is not None or bool(self.outcome) or self.slower_ms is not None
        return told and self.consumer_id is None and self.key_id is None and not self.method

    @property
    def countable(self) -> bool:
        """Whether the rollups know the number of such rows."""
        return self.consumer_id is None and self.key_id is None and not self.method and self.slower_ms is None

    def conditions(self) -> tuple[str, dict[str, Any]]:
        tests = {
            "route_id": ("route_id = %(route_id)s", self.route_id),
            "consumer_id": ("consumer_id = %(consumer_id)s", self.consumer_id),
            "key_id": ("key_id = %(key_id)s", self.key_id),
            "status_class": ("status / 100 = %(status_class)s", self.status_class),
            "outcome": ("outcome = %(outcome)s", self.outcome or None),
            "method": ("method = %(method)s", self.method or None),
            "slower_ms": ("duration_ms >= %(slower_ms)s", self.slower_ms),
        }
        used = {name: test for name, test in tests.items() if test[1] is not None}
        tests_sql = "".join(f" AND {sql}" for sql, _ in used.values()) + (REFUSED if self.refused else "")
        return tests_sql, {name: value for name, (_, value) in used.items()}


@dataclass(frozen=True, slots=True)
class Page:
    """`rows` newest first. `older`, `newer`: where the neighbouring pages begin; None: nothing lies there.

    `searched_to`: the looking through ended here without filling the page; `older` goes on from there.
    """

    rows: Sequence[UsageRow]
    older: Cursor | None = None
    newer: Cursor | None = None
    searched_to: datetime | None = None


def page(wish: Wish, *, before: Cursor | None = None, after: Cursor | None = None, size: int = 50) -> Page:
    """Rows older than `before`, or the nearest ones newer than `after`. One to three queries."""
    if after is not None:
        found = _found(replace(wish, start=max(wish.start, after.at)), after, "ASC", size + 1)
        rows = found[:size][::-1]
        return Page(rows, older=_place(rows[-1:]) or after, newer=_place(rows[:1]) if len(found) > size else None)
    if before is not None:
        wish = replace(wish, end=min(wish.end, before.at + timedelta(microseconds=1)))
    found = _found(wish, before, "DESC", size + 1)
    rows = found[:size]
    newer = (_place(rows[:1]) or before) if before is not None else None
    if len(found) > size:
        return Page(rows, older=_place(rows[-1:]), newer=newer)
    stopped = _stopped(wish, before)
    return Page(rows, older=stopped, newer=newer, searched_to=stopped.at if stopped else None)


def by_request_id(request_id: str, limit: int = 10) -> list[UsageRow]:
    """Newest first. Clients may choose the id, so several requests can have one. One query, an index per partition."""
    return list(UsageRow.objects.filter(request_id=request_id)[:limit])


def neighbours(row: UsageRow, each: int = 3) -> tuple[list[UsageRow], list[UsageRow]]:
    """What came just after and just before it on the same route, newest first; from an hour around. Two queries."""
    hour = timedelta(hours=1)
    wish = Wish(row.at - hour, row.at + hour, route_id=row.route_id)
    place = Cursor(row.at, row.id)
    later = _found(replace(wish, start=row.at), place, "ASC", each)[::-1]
    return later, _found(replace(wish, end=row.at + timedelta(microseconds=1)), place, "DESC", each)


def counts(wish: Wish) -> dict[tuple[int, str], int]:
    """(status class, outcome) → requests in the range and of the route, from the rollups. One query."""
    pieces = cover(wish.start, wish.end)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT status_class, outcome, sum(requests) FROM usage_traffic "
            "JOIN unnest(%s::int[], %s::timestamptz[], %s::timestamptz[]) AS piece (grain, first, until) "
            "ON grain_s = grain AND start >= first AND start < until "
            "WHERE route_id = %s GROUP BY 1, 2",
            [
                [piece.grain_s for piece in pieces],
                [piece.first for piece in pieces],
                [piece.end for piece in pieces],
                ALL if wish.route_id is None else wish.route_id,
            ],
        )
        return {(status_class, outcome): int(number) for status_class, outcome, number in cursor.fetchall()}


# --- the three ways ---------------------------------------------------------------------------------------------------


def _found(wish: Wish, place: Cursor | None, order: str, limit: int) -> list[UsageRow]:
    tests, arguments = wish.conditions()
    arguments |= {"start": wish.start, "end": wish.end, "limit": limit, "scan": SCAN_MAX}
    bounds = "at >= %(start)s AND at < %(end)s"
    if place is not None:
        bounds += f" AND (at, id) {'<' if order == 'DESC' else '>'} (%(place_at)s, %(place_id)s)"
        arguments |= {"place_at": place.at, "place_id": place.id}
    sorted_ = f"ORDER BY at {order}, id {order}"
    if wish.in_rollups:
        arguments["minutes"] = _minutes(wish, order)
        query = (
            "SELECT found.* FROM unnest(%(minutes)s::timestamptz[]) AS minute CROSS JOIN LATERAL ("  # noqa: S608 (our own names)
            "SELECT * FROM usage_row WHERE at >= minute AND at < minute + interval '1 minute' "
            f"AND {bounds}{tests} {sorted_} LIMIT %(limit)s) AS found {sorted_} LIMIT %(limit)s"
        )
    elif _has_index(wish):
        query = f"SELECT * FROM usage_row WHERE {bounds}{tests} {sorted_} LIMIT %(limit)s"  # noqa: S608 (our own names)
    else:
        first, _ = _indexed(wish).conditions()
        query = (
            f"SELECT * FROM (SELECT * FROM usage_row WHERE {bounds}{first} {sorted_} LIMIT %(scan)s) AS nearest "  # noqa: S608 (our own names)
            f"WHERE true{tests} {sorted_} LIMIT %(limit)s"
        )
    return list(UsageRow.objects.raw(query, arguments))


def _minutes(wish: Wish, order: str) -> list[datetime]:
    """The nearest minutes in which there are such rows, as far as the rollups can tell."""
    tests = ""
    if wish.status_class is not None:
        tests += " AND status_class = %(status_class)s"
    if wish.outcome:
        tests += " AND outcome = %(outcome)s"
    if wish.slower_ms is not None:
        tests += (
            " AND EXISTS (SELECT FROM usage_latency AS slow CROSS JOIN LATERAL "
            "generate_subscripts(slow.duration_bins, 1) AS i WHERE (slow.grain_s, slow.start, slow.route_id, "
            "slow.upstream_id) = (traffic.grain_s, traffic.start, traffic.route_id, traffic.upstream_id) "
            "AND slow.duration_bins[i][1] >= %(bin)s)"
        )
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT start FROM usage_traffic AS traffic WHERE grain_s = %(grain_s)s AND route_id = %(route_id)s "  # noqa: S608 (our own names)
            f"AND start >= %(start)s AND start < %(end)s{tests} GROUP BY start ORDER BY start {order} LIMIT %(most)s",
            {
                "grain_s": MINUTE_S,
                "route_id": ALL if wish.route_id is None else wish.route_id,
                "start": floor(wish.start, MINUTE_S),
                "end": wish.end,
                "status_class": wish.status_class,
                "outcome": wish.outcome,
                "bin": bin_of(wish.slower_ms or 0),
                "most": MINUTES_MAX,
            },
        )
        return [start for (start,) in cursor.fetchall()]


def _indexed(wish: Wish) -> Wish:
    """The part of a wish that an index answers in the order of time."""
    if wish.consumer_id is not None:
        return Wish(wish.start, wish.end, consumer_id=wish.consumer_id)
    return Wish(wish.start, wish.end, route_id=wish.route_id)


def _has_index(wish: Wish) -> bool:
    return wish == _indexed(wish)


def _stopped(wish: Wish, before: Cursor | None) -> Cursor | None:
    """Where looking through ended because it had looked at enough; None: it came to the end of the range."""
    if wish.in_rollups:
        minutes = _minutes(wish, "DESC")
        return Cursor(minutes[-1], 0) if len(minutes) == MINUTES_MAX else None
    if _has_index(wish):
        return None
    tests, arguments = _indexed(wish).conditions()
    bounds = "at >= %(start)s AND at < %(end)s"
    if before is not None:
        bounds += " AND (at, id) < (%(place_at)s, %(place_id)s)"
        arguments |= {"place_at": before.at, "place_id": before.id}
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT at, id FROM usage_row WHERE {bounds}{tests} ORDER BY at DESC, id DESC "  # noqa: S608 (our own names)
            "OFFSET %(scanned)s LIMIT 1",
            {**arguments, "start": wish.start, "end": wish.end, "scanned": SCAN_MAX - 1},
        )
        last = cursor.fetchone()
    return Cursor(*last) if last else None


def _place(rows: Sequence[UsageRow]) -> Cursor | None:
    return Cursor(rows[0].at, rows[0].id) if rows else None
