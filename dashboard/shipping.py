"""Segments into PostgreSQL, exactly once: claim, COPY, rollups and keys' last use in one transaction.

Whoever dies anywhere in it changed nothing; whoever dies after it finds the segment claimed and only removes the file.
Several recorders (one per node) update the same rollup rows, so every statement takes its rows in the order of their
key, and the statements of all come in the same order: they wait for one another but never deadlock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import DataError, IntegrityError, connection, transaction

from dashboard.fold import BUCKETS, DAY_S, HOUR_S, Folded, fold
from dashboard.rollups import calls_add, latency_add, traffic_add
from dashboard.spool import Segment, Spool
from gateway.proxy import metrics
from gateway.proxy.journal import COLUMNS
from keys.services import last_used_record

logger = logging.getLogger(__name__)

#: What one transaction takes at most.
SEGMENTS_MAX, BYTES_MAX = 64, 8 << 20
#: The bytes are at fault, not the database: sending them again cannot help.
Malformed = (DataError, IntegrityError, ValueError)


@dataclass(frozen=True, slots=True)
class Shipped:
    rows: int
    more: bool  # segments that are ready are left


def ship(spool: Spool, node: str) -> Shipped:
    """Ships the oldest segments, one transaction's worth. Raises django.db.Error while PostgreSQL takes none."""
    ready = spool.ready()
    batch = _first(ready)
    return Shipped(_ship_batch(spool, batch, node), len(batch) < len(ready))


def _ship_batch(spool: Spool, batch: Sequence[Segment], node: str) -> int:
    if not batch:
        return 0
    try:
        rows = store({segment.id: segment.read() for segment in batch}, node)
    except Malformed:
        rows = sum(_salvage(spool, segment, node) for segment in batch)
    for segment in batch:
        segment.remove()
    metrics.USAGE_SHIPPED.inc(rows)
    return rows


def store(contents: Mapping[UUID, bytes], node: str) -> int:
    """Stores the lines of those segments that are new, and returns how many. All or none."""
    with transaction.atomic():
        claimed = _claim({id_: content.count(b"\n") for id_, content in contents.items()}, node)
        fresh = [contents[id_] for id_ in claimed]
        for lines in fresh:
            _copy(lines)
        folded = fold(fresh)
        _rollups_add(folded)
    return folded.rows


def _salvage(spool: Spool, segment: Segment, node: str) -> int:
    """One segment alone; if it is the malformed one, its good lines are stored and the others set aside.

    They are set aside before the transaction ends, and always under the same name, so that dying here loses nothing.
    """
    content = segment.read()
    try:
        return store({segment.id: content}, node)
    except Malformed as error:
        logger.warning("%s is malformed: %s", segment.path.name, error)
    bad: list[bytes] = []
    try:
        with transaction.atomic():
            if not _claim({segment.id: content.count(b"\n")}, node):
                return 0
            good = b"".join(_good([line + b"\n" for line in content.split(b"\n")[:-1]], bad))
            folded = fold([good])
            _rollups_add(folded)
            spool.bad_write(f"{segment.id}.lines", b"".join(bad))
        return folded.rows
    except Malformed:  # every line is fine, their sum is not: a human must look
        spool.bad_write(f"{segment.id}.lines", content)
        return 0


def _good(lines: Sequence[bytes], bad: list[bytes]) -> Iterator[bytes]:
    """Copies lines in halves until the culprits stand alone; yields what was copied."""
    together = b"".join(lines)
    try:
        with transaction.atomic():
            _copy(together)
            fold([together])
    except Malformed:
        if len(lines) == 1:
            bad.append(together)
            return
        middle = len(lines) // 2
        yield from _good(lines[:middle], bad)
        yield from _good(lines[middle:], bad)
    else:
        yield together


def _claim(rows: Mapping[UUID, int], node: str) -> list[UUID]:
    """Of these segments, those that nobody shipped before."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO usage_segment (id, node, rows, shipped_at)
            SELECT id, %s, rows, now() FROM unnest(%s::uuid[], %s::int[]) AS new (id, rows) ORDER BY id
            ON CONFLICT (id) DO NOTHING RETURNING id
            """,
            [node, list(rows), list(rows.values())],
        )
        return [id_ for (id_,) in cursor.fetchall()]


def _copy(lines: bytes) -> None:
    if not lines:
        return
    columns = COLUMNS[: lines.count(b"\t", 0, lines.index(b"\n")) + 1]  # an older version wrote fewer
    statement = f"COPY usage_row ({', '.join(columns)}) FROM STDIN"
    # Django translates errors of `execute` only.
    with connection.wrap_database_errors, connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(lines)


def _rollups_add(folded: Folded) -> None:
    if not folded.rows:
        return
    with connection.cursor() as cursor:
        for grain_s in BUCKETS:
            traffic_add(cursor, folded.traffic, grain_s)
        for grain_s in BUCKETS:
            latency_add(cursor, folded.latency, grain_s)
        for grain_s in (HOUR_S, DAY_S):
            calls_add(cursor, folded.calls, grain_s)
    last_used_record({key_id: datetime.fromisoformat(at) for key_id, at in folded.last_used.items()})


def _first(segments: Sequence[Segment]) -> list[Segment]:
    batch: list[Segment] = []
    size = 0
    for segment in segments[:SEGMENTS_MAX]:
        size += segment.path.stat().st_size
        if batch and size > BYTES_MAX:
            break
        batch.append(segment)
    return batch
