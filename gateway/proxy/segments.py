"""The files between a worker and the recorder of its node, in one directory, the spool.

    <ms>-<worker>-<uuid>.open     being written; the writer holds a lock (flock) on it while it lives
    <ms>-<worker>-<uuid>.ready    whole; the recorder's to take
    bad/                          lines PostgreSQL refused, for a human

The uuid is the segment's id in the database, so it never repeats. A file holds whole lines whenever it is not being
written to; only a machine that fails can leave a torn one. There is no fsync.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
import uuid
from pathlib import Path

from gateway.proxy import metrics

logger = logging.getLogger(__name__)

OPEN, READY = ".open", ".ready"
MEASURE_S = 1.0  # how old a measurement of the spool may get


def spool_dir(data_dir: Path) -> Path:
    return data_dir / "spool"


def spool_bytes(spool: Path) -> int:
    """Of segments, open or ready. Those that vanish meanwhile count nothing."""
    total = 0
    with os.scandir(spool) as entries:
        for entry in entries:
            if entry.name.endswith((OPEN, READY)):
                try:
                    total += entry.stat().st_size
                except FileNotFoundError:
                    continue
    return total


class SegmentWriter:
    """One worker's. Blocking, for one thread. Never raises: what the disk refuses is dropped, counted, logged once."""

    def __init__(self, spool: Path, worker: str, *, max_bytes: int, segment_s: float, segment_bytes: int) -> None:
        self._spool, self._worker = spool, "".join(c if c.isalnum() else "_" for c in worker)
        self._max_bytes, self._segment_s, self._segment_bytes = max_bytes, segment_s, segment_bytes
        self._fd = -1
        self._path = spool
        self._size = 0
        self._opened_s = 0.0
        self._spool_bytes = 0
        self._measured_s = float("-inf")
        self._complaint = ""
        self.complaint = ""  # why rows are being lost, in words

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    def write(self, batch: bytes) -> None:
        """Appends whole lines, then hands the segment over if it is time."""
        if batch:
            self._keep(batch)
        if self.is_open and (
            self._size >= self._segment_bytes or time.monotonic() - self._opened_s >= self._segment_s
        ):  # fmt: skip
            self.close()

    def close(self) -> None:
        """Makes the segment ready. If that fails it stays `.open`, unlocked, and the recorder adopts it."""
        if not self.is_open:
            return
        try:
            self._path.rename(self._path.with_suffix(READY))
        except OSError as error:
            self._complain(f"cannot rename {self._path}: {error.strerror}")
        os.close(self._fd)
        self._fd = -1

    def _keep(self, batch: bytes) -> None:
        try:
            if not self._has_room(len(batch)):
                self._drop(batch, "spool_full", f"{self._spool} holds {self._spool_bytes} bytes, which is its limit")
                return
            if not self.is_open:
                self._open()
        except OSError as error:
            self._drop(batch, "disk_error", f"cannot write to {self._spool}: {error.strerror}")
            return
        self._append(batch)

    def _append(self, batch: bytes) -> None:
        written = 0
        try:
            while written < len(batch):  # a short write is followed by one that says why
                written += os.write(self._fd, batch[written:])
        except OSError as error:
            rest = self._cut_back(batch, written)
            self._drop(rest, "disk_error", f"cannot write to {self._spool}: {error.strerror}")
            return
        self._grow(written)
        self._complain("")

    def _cut_back(self, batch: bytes, written: int) -> bytes:
        """After a failed write: whole lines stay, the segment ends here. Returns the lines that are lost."""
        whole = batch.rfind(b"\n", 0, written) + 1
        self._grow(whole)
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            logger.warning("a torn line stays at the end of %s", self._path)  # the recorder ignores it
        self.close()
        return batch[whole:]

    def _grow(self, written: int) -> None:
        self._size += written
        self._spool_bytes += written

    def _open(self) -> None:
        self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{time.time_ns() // 1_000_000:013d}-{self._worker}-{uuid.uuid4().hex}"
        path = self._spool / (name + OPEN)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            # Cannot be taken already: nobody touches an empty file.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        self._fd, self._path, self._size, self._opened_s = fd, path, 0, time.monotonic()

    def _has_room(self, wanted: int) -> bool:
        now_s = time.monotonic()
        if now_s - self._measured_s >= MEASURE_S:
            self._spool_bytes = spool_bytes(self._spool) if self._spool.exists() else 0
            self._measured_s = now_s
            metrics.USAGE_SPOOL_BYTES.set(self._spool_bytes)
        return self._spool_bytes + wanted <= self._max_bytes

    def _drop(self, lines: bytes, reason: str, complaint: str) -> None:
        if rows := lines.count(b"\n"):
            metrics.USAGE_DROPPED.labels(reason).inc(rows)
        self._complain(complaint)

    def _complain(self, complaint: str) -> None:
        """Once for each change; the counter has the rest."""
        self.complaint = complaint
        kind = complaint.partition(" ")[0]
        if kind and kind != self._complaint:
            logger.error("usage rows are being lost: %s", complaint)
        elif self._complaint and not kind:
            logger.info("usage rows are kept again")
        self._complaint = kind
