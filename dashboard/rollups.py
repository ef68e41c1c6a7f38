"""Adds folded sums to the rollup tables: one upsert for each table and grain, rows in the order of their key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from django.db.backends.utils import CursorWrapper

from dashboard.fold import Calls, Key, Latency, Traffic, coarser

#: Types of the columns that are not bigint.
TYPES = {
    "grain_s": "int", "start": "timestamptz", "status_class": "smallint", "outcome": "text",
    "duration_ms": "float8", "gateway_ms": "float8", "upstream_ms": "float8",
}  # fmt: skip

#: Two histograms, sorted [bin, count] pairs, into one. Written out in the statement: a function costs twice as much.
BINS_ADD = """(
    SELECT coalesce(array_agg(ARRAY[bin, count] ORDER BY bin), '{{}}')
    FROM (
        SELECT bin, sum(count)::bigint AS count
        FROM (
            SELECT old.{name}[i][1] AS bin, old.{name}[i][2] AS count FROM generate_subscripts(old.{name}, 1) AS i
            UNION ALL
            SELECT EXCLUDED.{name}[i][1], EXCLUDED.{name}[i][2] FROM generate_subscripts(EXCLUDED.{name}, 1) AS i
        ) AS pairs
        GROUP BY bin
    ) AS merged
)"""


def traffic_add(cursor: CursorWrapper, sums: Mapping[Key, Traffic], grain_s: int) -> None:
    keys = ("grain_s", "start", "route_id", "upstream_id", "status_class", "outcome")
    _upsert(cursor, "usage_traffic", keys, Traffic, coarser(sums, grain_s), grain_s)


def latency_add(cursor: CursorWrapper, sums: Mapping[Key, Latency], grain_s: int) -> None:
    keys = ("grain_s", "start", "route_id", "upstream_id")
    _upsert(cursor, "usage_latency", keys, Latency, coarser(sums, grain_s), grain_s)


def calls_add(cursor: CursorWrapper, sums: Mapping[Key, Calls], grain_s: int) -> None:
    keys = ("grain_s", "start", "consumer_id", "key_id")
    _upsert(cursor, "usage_calls", keys, Calls, coarser(sums, grain_s), grain_s)


def _upsert(
    cursor: CursorWrapper, table: str, keys: Sequence[str], kind: type, sums: Mapping[Key, Any], grain_s: int
) -> None:
    if not sums:
        return
    values = [field.name for field in fields(kind)]
    columns = [*keys, *values]
    rows = [(grain_s, *key, *(_sql(getattr(sum_, name)) for name in values)) for key, sum_ in sums.items()]
    arrays = ", ".join(f"%s::{_array_type(name)}[]" for name in columns)
    given = ", ".join(f"{name}::bigint[]" if name.endswith("_bins") else name for name in columns)
    added = ", ".join(f"{name} = {_addition(name)}" for name in values)
    cursor.execute(
        f"INSERT INTO {table} AS old ({', '.join(columns)}) "  # noqa: S608 (our own names)
        f"SELECT {given} FROM unnest({arrays}) AS new ({', '.join(columns)}) ORDER BY {', '.join(keys)} "
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {added}",
        [_literal(column) for column in zip(*rows, strict=True)],
    )


def _addition(name: str) -> str:
    if name.endswith("_bins"):
        return BINS_ADD.format(name=name)
    return f"old.{name} + EXCLUDED.{name}"


def _array_type(name: str) -> str:
    # An array of arrays would be flattened by unnest, so histograms travel as text.
    return "text" if name.endswith("_bins") else TYPES.get(name, "bigint")


def _sql(value: Any) -> Any:
    if isinstance(value, dict):
        return "{" + ",".join([f"{{{bin_},{count}}}" for bin_, count in sorted(value.items())]) + "}"
    return value


def _literal(column: Sequence[Any]) -> str:
    """An array as PostgreSQL reads it. psycopg's own takes a microsecond for each element, and there are thousands."""
    if isinstance(column[0], str):
        return "{" + ",".join(['"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in column]) + "}"
    return "{" + ",".join(map(str, column)) + "}"
