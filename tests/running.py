"""A command of ours as a process of its own: its output, its descendants, and waiting for conditions."""

from __future__ import annotations

import http.client
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TypeVar

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: No other tests run meanwhile (`make test ARGS='-n 0'`): a second is a second.
ALONE = "PYTEST_XDIST_WORKER" not in os.environ
T = TypeVar("T")


def wait_for(condition: Callable[[], T], deadline_s: float = 15.0) -> T:
    """The first true value of `condition`."""
    end_s = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end_s, f"not within {deadline_s} s"
        time.sleep(0.01)
    return value


class Stopwatch:
    """Seconds since it was made, without those in which somebody on this machine waited for a core.

    A bound on it means what it says on a quiet machine, and a busy one does not break it. Where the kernel does not
    tell (no Linux, no pressure stall information), it is a plain clock.
    """

    def __init__(self) -> None:
        self._begun_s = time.monotonic() - waited_s()

    @property
    def s(self) -> float:
        return time.monotonic() - waited_s() - self._begun_s


def waited_s() -> float:
    """For how long, since the machine was started, some process could have run and had no core."""
    try:
        return int(Path("/proc/pressure/cpu").read_text().split("total=")[1].split()[0]) / 1e6
    except OSError:
        return 0.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """Linux only: reads /proc."""
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [found for child in children for found in (child, *descendants(child))]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ordinary_user() -> pwd.struct_passwd:
    """`nobody`, able to run our code. Skips where we are not root, or where the interpreter or the checkout lies in a
    directory that is closed to others."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    user = pwd.getpwnam("nobody")
    command, environment = [sys.executable, "-B", "-c", "import gateway.embedded"], {"PYTHONPATH": str(ROOT)}
    try:
        probe = subprocess.run(
            command, cwd="/", env=os.environ | environment,
            stderr=subprocess.PIPE, text=True, check=False, user=user.pw_uid, group=user.pw_gid, extra_groups=[],
        )  # fmt: skip
    except PermissionError as error:
        pytest.skip(f"nobody cannot run {sys.executable}: {error}")
    if probe.returncode:
        pytest.skip(f"nobody cannot import the checkout: {probe.stderr[-200:]}")
    return user


def get(
    port: int, path: str = "/", headers: Mapping[str, str] | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


class Running:
    """`manage.py <arguments>`. Its output goes to a file, so that nobody has to read along."""

    def __init__(self, *arguments: str, log: Path, environment: Mapping[str, str], **popen: object) -> None:
        self.log = log
        python = str(popen.pop("python", sys.executable))
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [python, str(popen.pop("manage", ROOT / "manage.py")), *arguments],
                env={**os.environ, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                **popen,  # type: ignore[call-overload]
            )
        self.pid = self.process.pid

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def family(self) -> list[int]:
        return descendants(self.pid)

    def says(self, text: str, deadline_s: float = 30.0) -> Self:
        """Waits until the output holds `text`."""

        def said() -> bool:
            assert text in self.output or self.process.poll() is None, self.output
            return text in self.output

        try:
            wait_for(said, deadline_s)
        except AssertionError as error:
            raise AssertionError(f"never said {text!r}: {self.output}") from error
        return self

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, deadline_s: float = 30.0) -> int:
        return self.process.wait(deadline_s)


@contextmanager
def running(*arguments: str, log: Path, environment: Mapping[str, str], **popen: object) -> Iterator[Running]:
    """Ends in whatever way the test ended it; what is left after that is killed."""
    process = Running(*arguments, log=log, environment=environment, **popen)
    try:
        yield process
    finally:
        left = process.family
        if process.process.poll() is None:
            process.signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.process.kill()
                process.wait()
        for pid in left:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
