"""Live: what a worker did in the last second, told to whoever watches.

    journal's batches → fold → (each whole second) PUBLISH hg:live → dashboard.live in every control-plane process

Nobody watching is the rule: then folding is one comparison and the second costs one MGET. A watcher keeps `WATCH`
alive, and `WATCH_ROWS` too if it wants to see requests; both lapse by themselves. Lost seconds are not made up for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import randrange
from time import time
from typing import Any

from gateway.proxy.errors import RedisUnavailable
from gateway.proxy.histogram import bin_of
from gateway.proxy.record import Record

CHANNEL = "hg:live"
WATCH, WATCH_ROWS = "hg:live:watch", "hg:live:watch:rows"
#: Requests shown of a second, drawn at random from all of it.
ROWS_MAX = 20
PATH_MAX = 512


@dataclass(slots=True)
class Second:
    requests: int = 0
    by_class: dict[int, int] = field(default_factory=dict)
    limited: int = 0
    bins: dict[int, int] = field(default_factory=dict)
    rows: list[Record] = field(default_factory=list)

    def add(self, record: Record, with_rows: bool) -> None:
        self.requests += 1
        status_class = record.status // 100
        self.by_class[status_class] = self.by_class.get(status_class, 0) + 1
        self.limited += record.outcome == "rate_limited"
        bin_ = bin_of(record.duration_ms)
        self.bins[bin_] = self.bins.get(bin_, 0) + 1
        if not with_rows:
            return
        if len(self.rows) < ROWS_MAX:
            self.rows.append(record)
        elif (place := randrange(self.requests)) < ROWS_MAX:  # noqa: S311 (a sample, not a secret)
            self.rows[place] = record


class Live:
    """`command`: one Redis command, as `Batcher.command`. `version`: the configuration this worker serves."""

    def __init__(
        self, command: Callable[..., Awaitable[Any]], *, source: str, version: Callable[[], int | None]
    ) -> None:
        self._command = command
        self._source = source
        self._version = version
        self._watched = self._rows_wanted = False
        self._second = Second()

    def fold(self, records: Sequence[Record]) -> None:
        if self._watched:
            for record in records:
                self._second.add(record, self._rows_wanted)

    async def run(self) -> None:
        """On whole seconds of the wall clock, so that the messages of all workers come together."""
        while True:
            await asyncio.sleep(1 - time() % 1)
            try:
                await self.beat()
            except RedisUnavailable:
                self._watched = False

    async def beat(self) -> None:
        """Tell the second that ended, and ask whether the next one is wanted. Raises RedisUnavailable."""
        second, self._second = self._second, Second()
        told = self._command("PUBLISH", CHANNEL, self._message(second)) if self._watched else None
        watch, rows = await self._command("MGET", WATCH, WATCH_ROWS)
        self._watched, self._rows_wanted = watch is not None, rows is not None
        if told is not None:
            await told

    def _message(self, second: Second) -> str:
        return json.dumps(
            {
                "source": self._source,
                "version": self._version(),
                "requests": second.requests,
                "by_class": second.by_class,
                "limited": second.limited,
                "bins": second.bins,
                "rows": [shown(record) for record in second.rows],
            },
            separators=(",", ":"),
        )


def shown(record: Record) -> dict[str, Any]:
    """What a usage row will say, but `at` in ms since the epoch, and before the recorder gave it an id."""
    return {
        "at": int(record.at_s * 1000),
        "request_id": record.request_id,
        "method": record.method,
        "host": record.host,
        "path": record.path.decode(errors="replace")[:PATH_MAX],
        "status": record.status,
        "outcome": record.outcome,
        "detail": record.detail,
        "client_ip": record.client_ip,
        "route_id": record.route_id,
        "route": record.route,
        "upstream_id": record.upstream_id,
        "target": record.target,
        "consumer_id": record.consumer_id,
        "key_id": record.key_id,
        "duration_ms": round(record.duration_ms, 3),
        "gateway_ms": round(record.gateway_ms, 3),
        "upstream_ms": None if record.upstream_ms is None else round(record.upstream_ms, 3),
        "bytes_out": record.bytes_out,
    }
