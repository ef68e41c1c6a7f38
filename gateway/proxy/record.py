"""Record: what one finished request leaves behind. Metrics, the journal and live pages are all folded from it.

A tuple, because one is made per request: it takes half a microsecond and keeps neither headers nor bodies alive.
There is no field for the query string, for headers or for a secret, so none can leak into a row.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import NamedTuple

from gateway.proxy.exchange import Exchange


class Record(NamedTuple):
    """Times in ms. None: there was none. Names are those of the `usage_row` table where it has the same thing.

    at_s          seconds since the epoch when the request began
    path          the client's bytes, without the query
    duration_ms   first byte of the request to last byte of the answer
    upstream_ms   the last attempt: request sent to head received, or to the end if no head came; None if never sent
    gateway_ms    what went before that attempt: hooks, limits, picking, earlier attempts. The whole duration if nothing
                  was sent. What follows the head cannot be told from the client's own pace, so it is in neither.
    """

    at_s: float
    request_id: str
    config_version: int
    method: str
    host: str
    path: bytes
    status: int
    outcome: str
    detail: str
    client_ip: str
    route_id: int | None
    route: str
    upstream_id: int | None
    target: str
    consumer_id: int | None
    key_id: int | None
    duration_ms: float
    gateway_ms: float
    upstream_ms: float | None
    bytes_in: int
    bytes_out: int
    tries: int
    cache_status: str


def record_of(exchange: Exchange) -> Record:
    """Of a finished exchange (`finished_s` and `outcome` set)."""
    route, upstream, consumer = exchange.route, exchange.upstream, exchange.consumer
    credential = exchange.credential
    started_s, sent_s, finished_s = exchange.started_s, exchange.sent_s, exchange.finished_s
    duration_ms = gateway_ms = (finished_s - started_s) * 1000
    upstream_ms = None
    if sent_s:
        head_s = exchange.upstream_head_s
        gateway_ms = (sent_s - started_s) * 1000
        upstream_ms = ((head_s if head_s >= sent_s else finished_s) - sent_s) * 1000
    return Record(
        exchange.wall_s,
        exchange.id,
        exchange.config_version,
        exchange.method,
        exchange.host,
        exchange.raw_path,
        exchange.status,
        exchange.outcome,
        exchange.detail,
        exchange.client_ip,
        None if route is None else route.id,
        "" if route is None else route.name,
        None if upstream is None else upstream.id,
        exchange.target,
        None if consumer is None else consumer.id or None,
        credential.id if credential is not None and credential.kind == "key" else None,
        duration_ms,
        gateway_ms,
        upstream_ms,
        exchange.bytes_in,
        exchange.bytes_out,
        exchange.tries,
        exchange.cache_status,
    )


#: Of a record as an object, in the words of the usage rows. What it has none of is left out.
MEMBERS = (
    "request_id", "config_version", "method", "host", "status", "outcome", "detail", "client_ip", "route", "target",
    "consumer_id", "key_id", "bytes_in", "bytes_out", "tries", "cache_status",
)  # fmt: skip
_AT = [Record._fields.index(name) for name in MEMBERS]


def members(record: Record, node: str) -> dict[str, object]:
    """For JSON. Times in ms; `path` as the client wrote it, without the query, which may hold secrets."""
    said: dict[str, object] = {"at": _moment(record.at_s), "node": node, "path": record.path.decode("latin-1")}
    for name, place in zip(MEMBERS, _AT, strict=True):
        value = record[place]
        if value is not None and value != "":
            said[name] = value
    said["duration_ms"], said["gateway_ms"] = round(record.duration_ms, 3), round(record.gateway_ms, 3)
    if record.upstream_ms is not None:
        said["upstream_ms"] = round(record.upstream_ms, 3)
    return said


def _moment(at_s: float) -> str:
    second = int(at_s)
    return f"{_second(second)}.{int((at_s - second) * 1000):03d}Z"


@lru_cache(maxsize=4)
def _second(at_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_s))
