"""Upkeep of what usage leaves in the database: a partition for each day ahead, and an end for everything old."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper
from psycopg.sql import SQL, Identifier, Literal

from dashboard.fold import HOUR_S, MINUTE_S

logger = logging.getLogger(__name__)

AHEAD_DAYS = 3
HOURS_KEPT = timedelta(days=366)
CLAIMS_KEPT = timedelta(hours=1)
#: Any number, the same on every node: one of them does the work, the others come when it is done.
ADVISORY_LOCK = 0x68676174


def partitions_keep(today: date, retention_days: int) -> None:
    """Makes the partitions of today and the days ahead, and drops those of days before the retention."""
    first = today - timedelta(days=retention_days)
    for ahead in range(AHEAD_DAYS + 1):
        with _alone() as cursor:
            _make(cursor, today + timedelta(days=ahead))
    for day in sorted(partition_days()):
        if day < first:
            with _alone() as cursor:
                cursor.execute(f"DROP TABLE IF EXISTS {_name(day)}")
                logger.info("dropped usage rows of %s", day)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM usage_row_default WHERE at < %s", [_midnight(first)])


def rollups_prune(now: datetime, retention_days: int) -> None:
    """Minutes are kept as long as rows, hours a year, days for ever."""
    ends = {MINUTE_S: now - timedelta(days=retention_days), HOUR_S: now - HOURS_KEPT}
    with connection.cursor() as cursor:
        for table in ("usage_traffic", "usage_latency", "usage_calls"):
            for grain_s, end in ends.items():
                cursor.execute(f"DELETE FROM {table} WHERE grain_s = %s AND start < %s", [grain_s, end])  # noqa: S608 (our own names)


def claims_prune(now: datetime, node: str, waiting: Iterable[UUID], retention_days: int) -> None:
    """Forgets shipped segments whose file is gone: this node's when it sees none, a lost node's with its rows."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM usage_segment WHERE (node = %s AND shipped_at < %s OR shipped_at < %s) AND id <> ALL(%s)",
            [node, now - CLAIMS_KEPT, now - timedelta(days=retention_days), list(waiting)],
        )


def partition_days() -> set[date]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'usage_row'::regclass"
        )  # fmt: skip
        names = [name.rpartition("_")[2] for (name,) in cursor.fetchall()]
    return {datetime.strptime(name, "%Y%m%d").replace(tzinfo=UTC).date() for name in names if name.isdigit()}


@contextmanager
def _alone() -> Iterator[CursorWrapper]:
    """A transaction beside which no other recorder's runs, and which would rather fail than make writers queue."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '2s'")
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [ADVISORY_LOCK])
        yield cursor


def _make(cursor: CursorWrapper, day: date) -> None:
    """Rows of that day that came before their partition wait in the default one, and move."""
    name = _name(day)
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [name])
    if cursor.fetchone() == (True,):
        return
    bounds = [_midnight(day), _midnight(day + timedelta(days=1))]
    cursor.execute("LOCK TABLE usage_row_default IN ACCESS EXCLUSIVE MODE")
    cursor.execute(f"CREATE TABLE {name} (LIKE usage_row INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    cursor.execute(
        f"WITH moved AS (DELETE FROM usage_row_default WHERE at >= %s AND at < %s RETURNING *) "  # noqa: S608 (our own names)
        f"INSERT INTO {name} SELECT * FROM moved",
        bounds,
    )
    cursor.execute(
        SQL("ALTER TABLE usage_row ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})")
        .format(Identifier(name), *map(Literal, bounds))
        .as_string()
    )


def _name(day: date) -> str:
    return f"usage_row_{day:%Y%m%d}"


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
