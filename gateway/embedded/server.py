"""What PostgreSQL and Valkey have in common: one process, one directory, one socket, one log."""

import signal
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from gateway.embedded import process
from gateway.embedded.account import Account
from gateway.embedded.errors import ServerFailed
from gateway.embedded.places import Places

READY_DEADLINE_S = 120.0  # replaying a long log takes a while; a server that fails *ends*, and is not waited for
RESTART_PAUSE_S = (0.5, 10.0)  # first and longest pause of one that dies again and again
SETTLED_S = 30.0  # lived this long: the next pause is the first again


class Server(ABC):
    """A server that is started, watched and stopped here. Call `clear`, `prepare`, `spawn`, `wait_ready`."""

    name: ClassVar[str]
    program: ClassVar[str]  # the process's name as the kernel knows it
    # Ask, insist, kill: each signal with the time it is given. The first also goes out when we die.
    stop_steps: ClassVar[tuple[tuple[signal.Signals, float], ...]]

    directory: Path
    pid_file: Path
    log: Path
    socket_files: tuple[Path, ...]

    def __init__(self, places: Places, account: Account) -> None:
        self.places = places
        self.account = account
        self.child: subprocess.Popen[bytes] | None = None
        self.spawned_s = 0.0
        self.pause_s = RESTART_PAUSE_S[0]
        self.log_start = 0

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def answers(self) -> bool:
        """Whether a client is served now. Raises ServerFailed when it never will be."""

    @abstractmethod
    def prepare(self) -> bool:
        """Makes the data directory if there is none, and says whether it did."""

    @property
    def is_dead(self) -> bool:
        return self.child is not None and self.child.poll() is not None

    def clear(self) -> None:
        """Ends what an earlier life left running in our directory, and removes the files it left.

        The caller holds the lock, so no other supervisor owns such a process. PostgreSQL's children
        outlive a killed postmaster by a moment and hold its shared memory: they are waited for.
        """
        for step, (number, patience_s) in enumerate(self.stop_steps):
            running = self._survivors()
            if not running:
                break
            leader = process.read_pid(self.pid_file)
            process.signal_all([pid for pid in running if step or pid == leader], number)
            if process.wait_until(lambda: not self._survivors(), patience_s):
                break
        else:
            raise ServerFailed(f"Processes {self._survivors()} of an earlier {self.name} do not end: kill them.")
        for path in self.socket_files:
            path.unlink(missing_ok=True)
        pid = process.read_pid(self.pid_file)
        if pid is not None and process.is_alive(pid):  # somebody else's by now, and the server would be misled
            self.pid_file.unlink()

    def spawn(self) -> None:
        self.log_start = process.log_size(self.log)
        self.spawned_s = time.monotonic()
        self.child = process.spawn(
            self.command(), account=self.account, log=self.log, death_signal=self.stop_steps[0][0]
        )

    def wait_ready(self) -> None:
        end = time.monotonic() + READY_DEADLINE_S
        while not self.answers():
            if self.is_dead:
                raise ServerFailed(f"{self.name} ended while starting ({self.status}). {self.tail()}")
            if time.monotonic() > end:
                raise ServerFailed(f"{self.name} did not answer within {READY_DEADLINE_S:g} s. {self.tail()}")
            time.sleep(process.PAUSE_S)

    @property
    def restart_due(self) -> bool:
        """Whether a dead server may be started again: at once the first time, then ever more rarely."""
        return self.is_dead and time.monotonic() - self.spawned_s >= self.pause_s

    def respawn(self) -> None:
        """Starts it again and returns at once; clients are served when it answers. Raises ServerFailed."""
        lived_s = time.monotonic() - self.spawned_s
        self.pause_s = RESTART_PAUSE_S[0] if lived_s > SETTLED_S else min(self.pause_s * 2, RESTART_PAUSE_S[1])
        self.clear()
        self.spawn()

    def ask_to_stop(self) -> None:
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(self.stop_steps[0][0])

    def wait_stopped(self) -> None:
        """After `ask_to_stop`: waits, then insists."""
        if self.child is None:
            return
        for step, (number, patience_s) in enumerate(self.stop_steps):
            if step:
                self.child.send_signal(number)
            try:
                self.child.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
            break
        self.child = None

    @property
    def status(self) -> str:
        code = self.child.returncode if self.child else 0
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"status {code}"

    def tail(self) -> str:
        return process.tail(self.log, self.log_start)

    def _survivors(self) -> list[int]:
        return process.survivors(self.program, self.directory, self.pid_file, self.account)
