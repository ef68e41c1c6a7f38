"""The recorder's side of the spool: who may take segments, which are whole, and what became of them."""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time
from uuid import UUID

from gateway.proxy.segments import OPEN, READY, spool_bytes

logger = logging.getLogger(__name__)

LOCK, BAD = "recorder.lock", "bad"
NAME = re.compile(rf"\d+-.*-([0-9a-f]{{32}}){re.escape(READY)}")
EMPTY_S = 3600.0  # an empty open segment this old has no writer


class AlreadyRunning(Exception):
    """Another recorder has this spool."""


@dataclass(frozen=True, slots=True)
class Segment:
    path: Path
    id: UUID

    def read(self) -> bytes:
        """Whole lines only. What follows the last newline was never finished."""
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            logger.warning("%s ends in a torn line of %d bytes", self.path.name, len(content) - len(whole))
        return whole

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


class Spool:
    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Raises AlreadyRunning. The lock goes with the process, however that ends."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise AlreadyRunning(f"Another recorder works on {self.path}.") from error
            yield
        finally:
            os.close(fd)

    def ready(self) -> list[Segment]:
        """Oldest first. Other files are nobody's business here."""
        return [
            Segment(path, UUID(name[1])) for path in sorted(self.path.iterdir()) if (name := NAME.fullmatch(path.name))
        ]

    def adopt(self) -> None:
        """Makes the open segments of writers that are gone ready."""
        for path in self.path.glob(f"*{OPEN}"):
            try:
                self._adopt(path)
            except FileNotFoundError:  # became ready meanwhile
                continue

    def bad_write(self, name: str, lines: bytes) -> None:
        """Keeps what PostgreSQL refused. Writing it again is harmless."""
        directory = self.path / BAD
        directory.mkdir(mode=0o700, exist_ok=True)
        unfinished = directory / f".{name}"
        unfinished.write_bytes(lines)
        unfinished.rename(directory / name)
        logger.error("PostgreSQL refused %d lines of usage; they are in %s", lines.count(b"\n"), directory / name)

    def bytes(self) -> int:
        return spool_bytes(self.path)

    def bad_files(self) -> int:
        return sum(1 for _ in self.path.glob(f"{BAD}/[!.]*"))

    def _adopt(self, path: Path) -> None:
        found = path.stat()
        if not found.st_size and time() - found.st_mtime < EMPTY_S:
            return  # perhaps just made, and about to be locked
        fd = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.rename(path.with_suffix(READY))
            logger.info("adopted %s of a worker that is gone", path.name)
        except BlockingIOError:
            return
        finally:
            os.close(fd)
