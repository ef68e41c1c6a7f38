"""Server processes: start, watch and end them; find those that an earlier life left behind.

Ctrl-C reaches the whole terminal group, so each server gets a session of its own: it ends when we say so,
after those who use it. If we are killed, the kernel ends it (Linux: PR_SET_PDEATHSIG, sent when the
*thread* that forked ends, hence the rule about the main thread); elsewhere the next start finds it by its
pid file.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from gateway.embedded.account import Account
from gateway.embedded.errors import ServerFailed

PR_SET_PDEATHSIG = 1
LOG_MAX_BYTES = 8_000_000
TAIL_LINES = 20
PAUSE_S = 0.01
WORKING_IN = """
for process in /proc/[0-9]*; do
    test "$process/cwd" -ef "$0" || continue
    { read -r name < "$process/comm"; } 2> /dev/null
    test "$name" = "$1" && echo "${process#/proc/}"
done
"""

# Looked up before any fork: a child may not take the import lock. Absent where there is no prctl.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def spawn(
    command: list[str], *, account: Account, log: Path, death_signal: signal.Signals, stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Starts `command` as `account`, its output appended to `log`. It gets `death_signal` when we die."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("embedded servers must be started from the main thread: they die with their thread")
    parent = os.getpid()

    def tie_to_parent() -> None:
        if _prctl is not None:
            _prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
            if os.getppid() != parent:  # it died before the line above
                os._exit(1)

    with _open_log(log) as output:
        return subprocess.Popen(
            command,
            cwd="/",
            # Nothing of ours: PGDATA, PGPORT or a locale that the system lacks would change the server.
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=tie_to_parent,  # runs after the change of account, which would undo it
            **account.identity,
        )


def run(command: list[str], *, account: Account, log: Path, stdin: str = "", deadline_s: float = 120) -> None:
    """Runs `command` to its end. Raises ServerFailed with what it wrote."""
    start = log_size(log)
    process = spawn(command, account=account, log=log, death_signal=signal.SIGKILL, stdin=subprocess.PIPE)
    try:
        process.communicate(stdin.encode(), timeout=deadline_s)
    except subprocess.TimeoutExpired:
        raise ServerFailed(f"{command[0]} took more than {deadline_s:g} s. {tail(log, start)}") from None
    finally:
        if process.poll() is None:  # also for KeyboardInterrupt
            process.kill()
            process.wait()
    if process.returncode:
        raise ServerFailed(f"{command[0]} failed with status {process.returncode}. {tail(log, start)}")


def wait_until(condition: Callable[[], bool], deadline_s: float) -> bool:
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(PAUSE_S)
    return True


def log_size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def tail(log: Path, start: int) -> str:
    """The last lines of `log` written since it was `start` bytes long, ready to stand in a message."""
    with log.open("rb") as file:
        file.seek(max(start, log_size(log) - 16_384))
        lines = file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
    return f"The end of {log}:\n" + "\n".join(f"  {line}" for line in lines or ["(it wrote nothing)"])


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def read_pid(pid_file: Path) -> int | None:
    """The first line as a process id; PostgreSQL writes it negative in single-user mode."""
    try:
        return abs(int(pid_file.read_text().split("\n", 1)[0]))
    except (FileNotFoundError, ValueError):
        return None


def survivors(program: str, directory: Path, pid_file: Path, account: Account) -> list[int]:
    """Processes named `program` that still work in `directory`: both servers make it their current one.

    A pid may long belong to somebody else, so the file alone is never believed. Where there is no /proc,
    only the process of the pid file is seen, and not its children.
    """
    if Path("/proc/self/cwd").is_symlink():
        # Asked as their account: root in a container, without CAP_SYS_PTRACE, may not look at them.
        command = ["/bin/sh", "-c", WORKING_IN, str(directory), program]
        found = subprocess.run(command, cwd="/", stdout=subprocess.PIPE, check=False, **account.identity)
        return [int(pid) for pid in found.stdout.split()]
    pid = read_pid(pid_file)
    if pid is None or not is_alive(pid):
        return []
    listing = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return [pid] if program in listing.stdout and str(directory) in listing.stdout else []


def _open_log(log: Path) -> BinaryIO:
    if log_size(log) > LOG_MAX_BYTES:
        log.replace(log.with_suffix(".log.1"))
    return os.fdopen(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600), "ab")
