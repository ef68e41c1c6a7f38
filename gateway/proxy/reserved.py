"""Counters in shared files, on a disk that may be full.

prometheus_client maps sparse files into memory. When the disk has no page left for them the kernel kills the process
that touches one (SIGBUS): a full disk would take every worker, again and again. So the room is reserved before it is
used, and where there is none this process goes on counting in its own memory, where nobody else sees it, until it ends.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
from typing import Any

import prometheus_client.values
from prometheus_client.mmap_dict import MmapedDict

logger = logging.getLogger(__name__)

FIRST_BYTES = 1 << 16
ENTRY_BYTES = 64  # more than an entry takes beside its key
HEADER_BYTES = 8


class ReservedDict(MmapedDict):
    """Not thread safe, as its base."""

    _f: Any  # None: in memory only

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        try:
            _reserve_file(filename)
        except OSError as error:
            self._f, self._fname = None, filename
            self._m, self._capacity = mmap.mmap(-1, FIRST_BYTES), FIRST_BYTES
            self._m[:4] = HEADER_BYTES.to_bytes(4, "little")
            self._used, self._positions = HEADER_BYTES, {}
            _complain(filename, error)
        else:
            super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        while self._used + len(key.encode()) + ENTRY_BYTES > self._capacity:
            self._grow(2 * self._capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _grow(self, capacity: int) -> None:
        if self._f is not None:
            try:
                _reserve(self._f.fileno(), self._capacity, capacity)
                self._m, self._capacity = mmap.mmap(self._f.fileno(), capacity), capacity
                return
            except OSError as error:
                _complain(self._fname, error)
                self._f.close()
                self._f = None
        grown = mmap.mmap(-1, capacity)
        grown[: self._used] = self._m[: self._used]
        self._m, self._capacity = grown, capacity

    def close(self) -> None:
        if self._f is not None:
            super().close()  # type: ignore[no-untyped-call]


def install() -> None:
    """Before the first metric is made."""
    prometheus_client.values.MmapedDict = ReservedDict  # type: ignore[misc]


def _reserve_file(filename: str) -> None:
    """Raises OSError, and leaves no empty file, which would have no header for those who read it."""
    fd = os.open(filename, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        size = os.fstat(fd).st_size
        try:
            _reserve(fd, 0, max(size, FIRST_BYTES))
        except OSError:
            if not size:
                with contextlib.suppress(OSError):
                    os.unlink(filename)
            raise
    finally:
        os.close(fd)


def _reserve(fd: int, start: int, end: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, start, end - start)
    else:  # macOS; what was there stays
        size = os.fstat(fd).st_size
        os.pwrite(fd, bytes(max(0, end - size)), size)


def _complain(filename: str, error: OSError) -> None:
    logger.error("metrics of this process are kept to itself: no room for %s: %s", filename, error.strerror)
