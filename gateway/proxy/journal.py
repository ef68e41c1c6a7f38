"""The journal: every finished request becomes a line in a file of this worker, and the recorder ships the files.

    append → (0.2 s) one write to <ms>-<worker>-<uuid>.open → (0.4 s or 4 MB) renamed to .ready → recorder

Lines are PostgreSQL's COPY text format: the database takes the bytes as they are. A worker killed at any moment loses
what it had not written, 0.2 s at most. What is written outlives it: the worker holds a lock (flock) on its open
segment, and the recorder adopts one whose lock is free. No fsync: if the whole machine fails, seconds may be lost.

Nothing here ever raises into a request or waits for the disk. What cannot be kept is dropped, counted and logged once:
too many records waiting (a hung disk), a spool above its limit, a disk that refuses. Older segments are never touched.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

from gateway.proxy import metrics
from gateway.proxy.exchange import Exchange
from gateway.proxy.record import Record, record_of
from gateway.proxy.segments import SegmentWriter

logger = logging.getLogger(__name__)

#: Columns of a line. Only ever append to this: segments of an older version must stay readable.
COLUMNS = (
    "at", "request_id", "node", "worker", "config_version", "method", "host", "path", "status", "outcome", "detail",
    "client_ip", "route_id", "upstream_id", "target", "consumer_id", "key_id", "duration_ms", "gateway_ms",
    "upstream_ms", "bytes_in", "bytes_out", "tries", "cache_status",
)  # fmt: skip

WAITING_MAX = 100_000  # records; some 50 MB
SLICE = 64  # records formatted before the loop gets its turn: under a millisecond
PATH_MAX, WORD_MAX = 2048, 512  # characters

NULL = "\\N"
ESCAPES = {ord("\\"): "\\\\", ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r", 0: None}


class Journal:
    """`on_batch` sees every record once, in small batches, whether or not it reaches the disk."""

    def __init__(
        self,
        spool: Path,
        worker: str,
        *,
        node: str,
        max_bytes: int,
        flush_s: float = 0.2,
        segment_s: float = 0.4,
        segment_bytes: int = 4 << 20,
        on_batch: Callable[[Sequence[Record]], None] | None = None,
    ) -> None:
        self._segments = SegmentWriter(
            spool, worker, max_bytes=max_bytes, segment_s=segment_s, segment_bytes=segment_bytes
        )
        self._source = f"{_text(node)}\t{_text(worker)}"  # two columns that never change
        self._flush_s = flush_s
        self._on_batch = on_batch
        self._waiting: list[Record] = []
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        # Its own thread: the loop's default ones may all hang in a name lookup.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")

    def append(self, exchange: Exchange) -> None:
        if len(self._waiting) < WAITING_MAX:
            self._waiting.append(record_of(exchange))
        else:
            metrics.USAGE_DROPPED.labels("disk_slow").inc()

    @property
    def complaint(self) -> str:
        """Why usage rows are being lost; "" while they are kept."""
        return self._segments.complaint

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="journal")

    async def aclose(self) -> None:
        """Writes what is left and hands the segment over. Records appended later are lost."""
        self._closing.set()
        if self._task is not None:
            await self._task
        await self._flush()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._segments.close)
        self._thread.shutdown()

    async def _run(self) -> None:
        while not self._closing.is_set():
            try:
                async with asyncio.timeout(self._flush_s):
                    await self._closing.wait()
            except TimeoutError:
                await self._flush()

    async def _flush(self) -> None:
        records, self._waiting = self._waiting, []
        lines: list[str] = []
        for first in range(0, len(records), SLICE):
            batch = records[first : first + SLICE]
            lines += self._format(batch)
            self._show(batch)
            await asyncio.sleep(0)
        if lines or self._segments.is_open:
            batch_bytes = "".join(lines).encode()
            await asyncio.get_running_loop().run_in_executor(self._thread, self._segments.write, batch_bytes)

    def _format(self, batch: Sequence[Record]) -> list[str]:
        try:
            return [line(record, self._source) for record in batch]
        except Exception:  # one record a plugin spoilt must not take the others or the task with it
            if len(batch) > 1:
                return [text for record in batch for text in self._format([record])]
            logger.exception("a usage record cannot be written and is dropped")
            metrics.USAGE_DROPPED.labels("malformed").inc()
            return []

    def _show(self, batch: Sequence[Record]) -> None:
        if self._on_batch is None:
            return
        try:
            self._on_batch(batch)
        except Exception:  # rows matter more than who watches them
            logger.exception("a watcher of usage records failed")


def line(record: Record, source: str) -> str:
    """One row for COPY, with its newline. `source`: node and worker, escaped, with the tab between them."""
    (
        at_s, request_id, version, method, host, path, status, outcome, detail, client_ip, route_id, _, upstream_id,
        target, consumer_id, key_id, duration_ms, gateway_ms, upstream_ms, bytes_in, bytes_out, tries, cache_status,
    ) = record  # fmt: skip
    second = int(at_s)
    return (
        f"{_second(second)}.{int((at_s - second) * 1_000_000):06d}+00\t"
        f"{request_id if request_id.isalnum() and len(request_id) <= WORD_MAX else _text(request_id)}\t{source}\t"
        f"{version}\t{_word(method)}\t{_word(host)}\t{_text(path.decode(errors='replace'), PATH_MAX)}\t{status}\t"
        f"{_word(outcome)}\t{_text(detail) if detail else ''}\t"
        f"{_who_and_where(client_ip, route_id, upstream_id, target, consumer_id, key_id)}\t{duration_ms:.3f}\t"
        f"{gateway_ms:.3f}\t{NULL if upstream_ms is None else f'{upstream_ms:.3f}'}\t{bytes_in}\t{bytes_out}\t{tries}\t"
        f"{cache_status and _word(cache_status)}\n"
    )


def _text(value: str, longest: int = WORD_MAX) -> str:
    if len(value) > longest:
        value = value[: longest - 1] + "…"
    if value.isprintable() and "\\" not in value:  # nearly always; lone surrogates are not printable either
        return value
    return value.encode(errors="replace").decode().translate(ESCAPES)


@lru_cache(maxsize=2048)
def _word(value: str) -> str:
    """For what recurs: methods, hosts, outcomes, targets."""
    return _text(value)


@lru_cache(maxsize=4)
def _second(at_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at_s))


@lru_cache(maxsize=8192)
def _who_and_where(client_ip: str, *found: int | str | None) -> str:
    """Six columns that recur together: the client's address, route, upstream, target, consumer and key."""
    words = [NULL if one is None else _word(one) if isinstance(one, str) else str(one) for one in found]
    return "\t".join([_address(client_ip), *words])


def _address(client_ip: str) -> str:
    """As PostgreSQL's inet takes it: no zone, and NULL for what is no address (a unix socket, nonsense in a header)."""
    try:
        return str(ip_address(client_ip.partition("%")[0]))
    except ValueError:
        return NULL
