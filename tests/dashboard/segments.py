"""Segment files as workers leave them, and what the database holds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from uuid import uuid4

from django.db import connection

from gateway.proxy.exchange import Exchange
from gateway.proxy.journal import line
from gateway.proxy.record import record_of

_numbers = count(1)


def lines_of(exchanges: Sequence[Exchange]) -> bytes:
    return "".join(line(record_of(exchange), "n1\tw1") for exchange in exchanges).encode()


def segment_write(spool: Path, content: bytes | Sequence[Exchange], suffix: str = "ready") -> Path:
    path = spool / f"{next(_numbers):013d}-w1-{uuid4().hex}.{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else lines_of(content))
    return path


def stored_ids() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT request_id FROM usage_row")
        return [id_ for (id_,) in cursor.fetchall()]


def sums() -> set[int]:
    """Requests as each rollup and grain counts them. One number when all agree."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT sum(requests) FROM usage_traffic GROUP BY grain_s, route_id = -1 "
            "UNION ALL SELECT sum(requests) FROM usage_latency GROUP BY grain_s, route_id = -1 "
            "UNION ALL SELECT sum(requests) FROM usage_calls GROUP BY grain_s"
        )
        return {int(number) for (number,) in cursor.fetchall()}
