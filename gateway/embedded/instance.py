"""Both servers of one data directory, as one thing that starts, is watched, and stops."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gateway.embedded import account, places, programs
from gateway.embedded.errors import AlreadyRunning, PlaceUnusable
from gateway.embedded.places import Places
from gateway.embedded.postgres import Postgres
from gateway.embedded.server import Server
from gateway.embedded.valkey import Valkey

Progress = Callable[[str, float], None]  # what was done, and the seconds it took


def _silent(step: str, seconds: float) -> None:
    pass


@contextmanager
def servers(
    data_dir: Path, progress: Progress = _silent, *, postgres: bool = True, valkey: bool = True
) -> Iterator["Servers"]:
    running = Servers(data_dir, progress, postgres=postgres, valkey=valkey)
    running.start()
    try:
        yield running
    finally:
        running.stop()


class Servers:
    """Starts from the main thread only (see `process`). Holds `<data dir>/lock` from start to stop."""

    def __init__(
        self, data_dir: Path, progress: Progress = _silent, *, postgres: bool = True, valkey: bool = True
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.progress = progress
        self.wanted = (postgres, valkey)
        self._servers: list[Server] = []
        self._locks: list[BinaryIO] = []

    @property
    def places(self) -> Places:
        return places.at(self.data_dir)

    def start(self) -> None:
        """Returns when all of them answer. Raises EmbeddedError, and then nothing is left running."""
        if self._locks:
            raise AlreadyRunning(f"The servers of {self.data_dir} are already running in this process.")
        try:
            self._start()
        except OSError as error:
            self.stop()
            raise PlaceUnusable(
                f"{error.filename or self.data_dir}: {error.strerror}. The servers need a directory that the "
                "account which starts them can write to: change to its owner, or set GATEWAY_DATA_DIR."
            ) from error
        except BaseException:  # Ctrl-C too: the half that runs must not stay
            self.stop()
            raise

    def poll(self) -> list[str]:
        """The names of those that died."""
        return [server.name for server in self._servers if server.is_dead]

    def restart_dead(self) -> list[str]:
        """Starts the dead again on the same data, without waiting until they answer; returns their names.

        One that keeps dying is tried ever more rarely, at last every ten seconds.
        """
        due = [server for server in self._servers if server.restart_due]
        for server in due:
            began_s = time.monotonic()
            status = server.status
            server.respawn()
            self.progress(f"{server.name} had died ({status}): started again", time.monotonic() - began_s)
        return [server.name for server in due]

    def stop(self) -> None:
        """Stops what runs, both at once, and waits for the end. May be called at any time, also twice."""
        began_s = time.monotonic()
        for server in self._servers:
            server.ask_to_stop()
        for server in self._servers:
            server.wait_stopped()
        if self._servers:
            names = " and ".join(server.name for server in self._servers)
            self.progress(f"{names} stopped", time.monotonic() - began_s)
        self._servers = []
        while self._locks:
            self._locks.pop().close()

    def _start(self) -> None:
        began_s = time.monotonic()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock(self.data_dir / "lock")
        runner = account.choose(*(self.data_dir / "servers" / name for name in ("postgres", "valkey")))
        here = places.settle(self.data_dir, runner, lambda step: self.progress(step, 0.0))
        self._lock(here.servers / "lock")  # a copy of the data directory may hold a link to the same servers
        self._servers = self._build(here, runner)
        # Valkey loads its file while PostgreSQL makes its cluster or replays its log.
        for server in self._servers:
            server.clear()
            if server.prepare():
                self.progress(f"{server.name} has a new data directory", time.monotonic() - began_s)
            server.spawn()
        for server in self._servers:
            server.wait_ready()
            self.progress(f"{server.name} ready, as {runner.name}", time.monotonic() - began_s)

    def _build(self, here: Places, runner: account.Account) -> list[Server]:
        built: list[Server] = []
        postgres, valkey = self.wanted
        if valkey:
            binary = programs.reachable_valkey(programs.valkey(), runner, here.programs)
            built.append(Valkey(here, runner, binary))
        if postgres:
            home = programs.reachable_postgres(programs.postgres_home(), runner, here.programs)
            built.append(Postgres(here, runner, home))
        return built

    def _lock(self, path: Path) -> None:
        """Takes the lock until `stop`, or until this process ends in whatever way."""
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read(200).decode(errors="replace").strip() or "another process"
            file.close()
            raise AlreadyRunning(
                f"The servers of {self.data_dir} are already running ({holder}). "
                "Stop them first, or give this instance a GATEWAY_DATA_DIR of its own."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()}".encode())
        file.flush()
        self._locks.append(file)
