"""One supervised process: started clean, ready when it says so, ended by signals, never outliving its parent.

Each child gets a process group of its own, for Ctrl-C reaches the whole group of the terminal: ours end when the
supervisor says so, in its order. On Linux the kernel kills a child whose parent has died (PR_SET_PDEATHSIG).
That signal follows the *thread* that forked, so children start from the main thread only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

READY_FD = "GATEWAY_READY_FD"
MUST_SERVE = "GATEWAY_MUST_SERVE"
READY, RECYCLE = b"1", b"R"  # what a child may tell
PATIENCE_S = 15.0  # for which one that is to wait does; then it is started again
ROLL = signal.SIGUSR1  # to a worker whose successor is ready: drain, and do not wait for load balancers
PR_SET_PDEATHSIG = 1

# Looked up before any fork: a child may not take the import lock. Absent where there is no prctl.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. `environment` is the whole of it; `fds` are open descriptors it inherits under the same numbers.

    One that `tells_ready` writes READY to the descriptor named in GATEWAY_READY_FD, and later perhaps RECYCLE: replace
    me. Any other is ready once started. With GATEWAY_MUST_SERVE it joins others that serve: if it has nothing to serve,
    a successor (`roll`) ends instead of being ready, and a restarted one (`wait`) is not ready until it has something,
    or ends after PATIENCE_S.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    fds: tuple[int, ...] = ()
    tells_ready: bool = False


class Child:
    """A running `Program`. `ready_fd` is for the supervisor's selector; -1 when it will not tell anything any more."""

    def __init__(self, program: Program, *, must_serve: Literal["", "roll", "wait"] = "") -> None:
        self.program = program
        self.ready = not program.tells_ready
        self.wants_recycling = False
        self.ready_fd = -1
        self.kill_at_s: float | None = None  # set once it was asked to end
        self.started_s = time.monotonic()
        self._process = self._spawn(must_serve)
        self.pid = self._process.pid

    def __str__(self) -> str:
        return f"{self.program.name} (process {self.pid})"

    @property
    def ended(self) -> bool:
        """Also reaps it."""
        return self._process.poll() is not None

    @property
    def reason(self) -> str:
        """How it ended, as the rest of a sentence."""
        status = self._process.returncode
        if status < 0:
            return f"was killed by signal {-status} ({signal.strsignal(-status)})"
        return f"ended with status {status}" if status else "ended by itself"

    def end(self, kill_at_s: float, number: signal.Signals = signal.SIGTERM) -> None:
        """Asks it to end; the supervisor kills it at `kill_at_s`. A later call can only bring that forward."""
        if self.kill_at_s is None:
            self._process.send_signal(number)
            self.kill_at_s = kill_at_s
        self.kill_at_s = min(self.kill_at_s, kill_at_s)

    def kill(self) -> None:
        self._process.kill()

    def hear(self) -> bool:
        """Call when `ready_fd` is readable. False when there is nothing more to come: the child has gone."""
        told = os.read(self.ready_fd, 64)
        self.ready = self.ready or READY in told
        self.wants_recycling = self.wants_recycling or RECYCLE in told
        return bool(told)

    def close(self) -> None:
        if self.ready_fd >= 0:
            os.close(self.ready_fd)
            self.ready_fd = -1

    def _spawn(self, must_serve: str) -> subprocess.Popen[bytes]:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("children must be started from the main thread: they die with their thread")
        environment, fds = dict(self.program.environment), self.program.fds
        told_fd = -1
        if self.program.tells_ready:
            self.ready_fd, told_fd = os.pipe()
            environment |= {READY_FD: str(told_fd), MUST_SERVE: must_serve}
            fds = (*fds, told_fd)
        try:
            return subprocess.Popen(
                self.program.command,
                env=environment,
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                process_group=0,
                preexec_fn=tied_to(os.getpid()),
            )
        finally:
            if told_fd >= 0:
                os.close(told_fd)


def tied_to(parent: int) -> Callable[[], None]:
    """A `preexec_fn`: the kernel kills the child when `parent` ends, in whatever way."""

    def tie() -> None:
        end_with(parent, signal.SIGKILL)

    return tie


def end_with(parent: int, number: signal.Signals) -> None:
    """From now on the kernel sends this process `number` when its parent ends (Linux; elsewhere nothing happens)."""
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
