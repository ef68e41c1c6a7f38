"""The access log: every finished request as a line of JSON or of the Common Log Format, on stdout or in a file.

    journal's batches → `fold` → lines → (a thread of its own) one write for each batch

All workers of a node write to one file, each batch by one append, so lines never mix. The file is opened anew for each
write: logrotate and the like may move it at any time. Above `max_bytes` the workers rotate it themselves, one of them,
under a lock: `access.log` → `access.log.1` → … → `access.log.<keep>`. What a full or hung disk refuses is dropped and
counted; requests never wait.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Literal

from gateway.proxy import metrics
from gateway.proxy.record import Record, members

logger = logging.getLogger(__name__)

Format = Literal["json", "common"]
MAX_PENDING = 200  # batches that wait for the disk


class AccessLog:
    """`path` None: stdout. `fold` takes batches as the journal shows them."""

    def __init__(self, path: Path | None, format_: Format, *, node: str, max_bytes: int = 0, keep: int = 5) -> None:
        self._path, self._max_bytes, self._keep = path, max_bytes, keep
        self._line = json_line if format_ == "json" else common_line
        self._node = node
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="access-log")
        self._pending = 0
        self._failing = False

    def fold(self, records: Sequence[Record]) -> None:
        if self._pending >= MAX_PENDING:
            metrics.ACCESS_LOG_DROPPED.inc(len(records))
            return
        self._pending += 1
        data = "".join([self._line(record, self._node) for record in records]).encode(errors="replace")
        self._thread.submit(self._write, data, len(records)).add_done_callback(self._written)

    def close(self) -> None:
        """Waits for what is under way. Blocks: for a thread, or the end of the process."""
        self._thread.shutdown()

    def _written(self, _: Future[None]) -> None:
        self._pending -= 1

    def _write(self, data: bytes, lines: int) -> None:
        try:
            if self._path is None:
                _write_all(sys.stdout.fileno(), data)
            else:
                self._append(self._path, data)
            self._failing = False
        except OSError as error:
            metrics.ACCESS_LOG_DROPPED.inc(lines)
            if not self._failing:
                logger.warning("the access log cannot be written to %s: %s", self._path or "stdout", error)
            self._failing = True

    def _append(self, path: Path, data: bytes) -> None:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            if self._max_bytes and os.fstat(file).st_size + len(data) > self._max_bytes:
                self._rotate(path, os.fstat(file).st_ino)
                os.close(file)
                file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            _write_all(file, data)
        finally:
            os.close(file)

    def _rotate(self, path: Path, inode: int) -> None:
        """One worker does, the others find it done."""
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists() or path.stat().st_ino != inode:
                return
            for number in range(self._keep, 0, -1):
                older = path.with_name(f"{path.name}.{number}")
                newer = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
                with suppress(FileNotFoundError):
                    newer.replace(older)
            if not self._keep:
                path.unlink()
        finally:
            os.close(lock)


def json_line(record: Record, node: str) -> str:
    return json.dumps(members(record, node), separators=(",", ":")) + "\n"


def common_line(record: Record, node: str) -> str:
    """NCSA's: `client - consumer [date] "request" status bytes`. The protocol is not recorded, so it says HTTP/1.1."""
    path = record.path.decode("latin-1").replace("\\", "\\\\").replace('"', '\\"')
    if not path.isprintable():
        path = path.encode("unicode_escape").decode()
    who = record.consumer_id or "-"
    at = _common_second(int(record.at_s))
    return (
        f"{record.client_ip or '-'} - {who} [{at}] "
        f'"{record.method} {path} HTTP/1.1" {record.status} {record.bytes_out or "-"}\n'
    )


@lru_cache(maxsize=4)
def _common_second(at_s: int) -> str:
    """English names, whatever the locale."""
    at = time.gmtime(at_s)
    months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    return (
        f"{at.tm_mday:02d}/{months[at.tm_mon - 1]}/{at.tm_year}:{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} +0000"
    )


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
