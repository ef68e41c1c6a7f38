"""Processes under measurement: started on one core, CPU time and memory read from /proc, ended with their children."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
CHILDREN_OF_THE_DEAD = slice(13, 15)  # cutime, cstime: of children that were waited for


def cores() -> list[int]:
    """The first is for the load and everything behind, the last ones for what is measured."""
    return sorted(os.sched_getaffinity(0))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Command:
    """How a server is started. Its working directory and log are its own."""

    arguments: list[str]
    environment: Mapping[str, str]


@contextlib.contextmanager
def started(command: Command, directory: Path, cores: Iterable[int] = ()) -> Iterator[int]:
    """Its process id. On these cores, or on any. Ends it and whatever it started, in whatever way the block ends."""
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(
            command.arguments, cwd=directory, env={**os.environ, **command.environment}, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
        )  # fmt: skip
    try:
        yield process.pid
    finally:
        family = tree(process.pid)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in family[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def tree(pid: int) -> list[int]:
    """The process and its living descendants, the process first."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        below = [int(word) for task in tasks for word in (task / "children").read_text().split()]
    except OSError:
        return [pid]
    return [pid, *(found for child in below for found in tree(child))]


def cpu_s(pid: int) -> float:
    """User and system time of the tree so far, ended children included."""
    ticks = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:13])) + sum(map(int, fields[CHILDREN_OF_THE_DEAD]))
    return ticks / TICKS_PER_S


def rss_bytes(pid: int) -> list[int]:
    """Resident memory of each process of the tree, the largest first. Shared pages count in each."""
    sizes = []
    for each in tree(pid):
        with contextlib.suppress(OSError):
            sizes.append(int(Path(f"/proc/{each}/statm").read_text().split()[1]) * PAGE_BYTES)
    return sorted(sizes, reverse=True)


def settle(pid: int, deadline_s: float = 5.0) -> None:
    """Waits until the tree has done what it put off (our recorder ships rows, Go tidies up): that counts, too."""
    end_s = time.monotonic() + deadline_s
    before_s = cpu_s(pid)
    while time.monotonic() < end_s:
        time.sleep(0.3)
        now_s = cpu_s(pid)
        if now_s - before_s < 0.02:
            return
        before_s = now_s


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = 60.0) -> None:
    end_s = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end_s:
            raise TimeoutError(f"{what}: not within {deadline_s:g} s")
        time.sleep(0.02)
