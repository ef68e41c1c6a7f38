"""Hearsay: workers of a node tell each other of failures as they happen, so that all of them count together.

    health/worker-<n>-<pid>.fifo    by each worker, read by it alone; every other one writes to it

One line per failure, end of a row of failures, ejection, trial and return: while all targets are well, nothing is said.
A line is one atomic write (POSIX: up to PIPE_BUF), and needs no server, no port and no path of limited length. What is
lost (a full pipe, a worker just starting) the board's files make up for within a turn of the watch.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import select
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

from gateway.proxy.balancer import Balancer
from gateway.proxy.health import Standing
from gateway.proxy.sightings import Key

#: Said per turn of the watch at most: targets that fail every other request must not keep the workers busy.
LINES_MAX = 1_000
READ_BYTES = 64 * 1024


class Hearsay:
    """Blocking calls only on a local directory, and none that waits."""

    def __init__(self, balancer: Balancer, directory: Path, worker: int) -> None:
        self._hear: Callable[[Key, Standing], None] = balancer.hear
        self._balancer = balancer
        self._directory = directory
        self._path = directory / f"worker-{worker}-{os.getpid()}.fifo"
        self._fd = -1
        self._peers: dict[Path, int] = {}
        self._rest = b""
        self._left = LINES_MAX

    def open(self) -> None:
        """Within a running loop. Without it (a disk that is full) the board's files are all there is."""
        temporary = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            os.mkfifo(temporary, 0o600)
            # For writing too: a pipe that nobody writes to reads as ended. It gets its name when it can be written to.
            self._fd = os.open(temporary, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            temporary.rename(self._path)
            asyncio.get_running_loop().add_reader(self._fd, self._read)
            self._balancer.tell, self._balancer.listen = self.tell, self._read

    def close(self) -> None:
        self._balancer.tell = self._balancer.listen = None
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        for fd in self._peers.values():
            os.close(fd)
        self._peers.clear()

    def look(self) -> None:
        """Who is there now. Removes pipes whose readers are gone."""
        self._left = LINES_MAX
        found = {path for path in self._directory.glob("worker-*.fifo") if path != self._path}
        for path in self._peers.keys() - found:
            self._drop(path)
        for path in found - self._peers.keys():
            try:
                self._peers[path] = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                if error.errno == errno.ENXIO:  # killed
                    with contextlib.suppress(OSError):
                        path.unlink()

    def tell(self, key: Key, standing: Standing) -> None:
        if not self._peers or self._left <= 0:
            return
        self._left -= 1
        line = json.dumps([*key, *astuple(standing)], separators=(",", ":")).encode() + b"\n"
        if len(line) > select.PIPE_BUF:
            return
        for path, fd in [*self._peers.items()]:
            try:
                os.write(fd, line)
            except BlockingIOError:
                continue  # it does not read: it will learn from the board
            except OSError:
                self._drop(path)

    def _drop(self, path: Path) -> None:
        os.close(self._peers.pop(path))

    def _read(self) -> None:
        try:
            said = self._rest + os.read(self._fd, READ_BYTES)
        except OSError:
            return
        *lines, self._rest = said.split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):  # of another version, while a node is rolled
                upstream, address, *standing = json.loads(line)
                self._hear((upstream, address), Standing(*standing))
