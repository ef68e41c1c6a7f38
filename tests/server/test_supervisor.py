"""The supervisor on real processes: restart, drain, roll, give up, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.server.child import READY_FD, Program
from gateway.server.supervisor import Supervisor, pause_s
from tests.running import Running, alive, free_port, get, running, wait_for

SAMPLE = "tests.server.sample:application"
Serve = Callable[..., Running]

linux = pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG and /proc are Linux's")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def serve(tmp_path: Path, port: int) -> Iterator[Serve]:
    """`serve` in the admin role: no recorder, so no database is needed."""
    environment = {
        "GATEWAY_DATA_DIR": str(tmp_path / "data"),
        "GATEWAY_ADMIN_PORT": str(port),
        "DATABASE_URL": "postgres://nobody@127.0.0.1:1/none",
        "REDIS_URL": "redis://127.0.0.1:1/0",
    }
    with ExitStack() as stack:

        def start(*arguments: str, app: str = SAMPLE, workers: int = 2, **changed: str) -> Running:
            command = ("serve", "--role", "admin", "--workers", str(workers), "--app", app, *arguments)
            log = tmp_path / f"serve-{time.monotonic_ns()}.log"
            return stack.enter_context(running(*command, log=log, environment={**environment, **changed}))

        yield start


@pytest.mark.parametrize(
    ("deaths", "seconds"), [(1, 0), (2, 0.5), (3, 1), (4, 2), (6, 8), (7, 16), (50, 60)]
)  # fmt: skip
def test_what_keeps_dying_is_started_ever_more_rarely(deaths: int, seconds: float) -> None:
    assert pause_s(deaths) == seconds


@linux
def test_a_killed_worker_is_started_again_within_a_second(serve: Serve, port: int) -> None:
    node = serve().says("ready on")
    first, second = node.family
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: len([pid for pid in node.family if pid != first]) == 2, 1.0)
    assert get(port)[2] == str(second).encode()  # the other one serves meanwhile
    newcomer = next(pid for pid in node.family if pid not in (first, second)) and str(node.family[-1]).encode()
    os.kill(second, signal.SIGSTOP)
    try:
        wait_for(lambda: get(port)[2] == newcomer)
    finally:
        os.kill(second, signal.SIGCONT)
    assert "was killed by signal 9 (Killed)" in node.output


def test_sigterm_finishes_the_request_in_flight_and_takes_no_other(serve: Serve, port: int, tmp_path: Path) -> None:
    node = serve().says("ready on")
    with Held(port, tmp_path) as held:
        node.signal(signal.SIGTERM)
        wait_for(lambda: refused(port))
        held.release()
    assert held.answer == (200, b"released")
    assert node.wait() == 0


def test_a_second_interrupt_does_not_wait_for_requests(serve: Serve, port: int, tmp_path: Path) -> None:
    node = serve().says("ready on")
    with Held(port, tmp_path) as held:
        node.signal(signal.SIGINT)
        wait_for(lambda: refused(port))
        node.signal(signal.SIGINT)
        assert node.wait(5) == 0
    assert isinstance(held.answer, OSError)


def test_what_does_not_drain_in_time_is_cut_off(serve: Serve, port: int, tmp_path: Path) -> None:
    node = serve(GATEWAY_DRAIN_TIMEOUT_S="0.3").says("ready on")
    with Held(port, tmp_path):
        node.signal(signal.SIGTERM)
        assert node.wait(5) == 0


@linux
def test_sighup_replaces_every_worker_and_refuses_nobody(serve: Serve, port: int) -> None:
    node = serve().says("ready on")
    old = set(node.family)
    with Load(port) as load:
        node.signal(signal.SIGHUP)
        wait_for(lambda: not any(map(alive, old)) and len(node.family) == 2)
        before = load.answered
        wait_for(lambda: load.answered > before + 20)
    assert load.failures == []
    assert old.isdisjoint(node.family)
    assert int(get(port)[2]) in node.family


@linux
def test_sighup_keeps_the_old_workers_if_the_new_ones_fail(serve: Serve, port: int, tmp_path: Path) -> None:
    (tmp_path / "changing.py").write_text("from tests.server.sample import application\n")
    node = serve(app="changing:application", PYTHONPATH=str(tmp_path)).says("ready on")
    old = set(node.family)
    (tmp_path / "changing.py").write_text("raise RuntimeError('a broken release')\n")
    node.signal(signal.SIGHUP)
    node.says("the old one stays")
    assert set(node.family) == old
    assert int(get(port)[2]) in old


@linux
def test_nothing_outlives_a_killed_supervisor(serve: Serve, port: int) -> None:
    node = serve().says("ready on")
    children = node.family
    node.signal(signal.SIGKILL)
    node.wait()
    wait_for(lambda: not any(map(alive, children)), 5)
    serve().says("ready on")  # and the next start finds the port and the data directory free
    assert get(port)[0] == 200


def test_an_application_that_never_starts_ends_the_node(serve: Serve) -> None:
    node = serve(app="tests.server.sample:absent")
    assert node.wait() == 1
    assert "never was ready: giving up" in node.output


def test_a_taken_port_is_said_in_one_sentence(serve: Serve, port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        node = serve()
        assert node.wait() == 1
    assert f"Port {port} on 127.0.0.1 is taken" in node.output
    assert "GATEWAY_ADMIN_PORT=" in node.output
    assert "Traceback" not in node.output


def test_one_data_directory_has_one_node_of_a_role(serve: Serve) -> None:
    serve(workers=1).says("ready on")
    second = serve(workers=1, GATEWAY_ADMIN_PORT=str(free_port()))
    assert second.wait() == 1
    assert "is already running on" in second.output
    assert "Traceback" not in second.output


def test_stages_end_from_the_top(tmp_path: Path) -> None:
    """The recorder lies below the workers: it still runs when the last of them has gone."""
    log = tmp_path / "ends"
    stages = [[scripted("recorder", log)], [scripted("worker 1", log), scripted("worker 2", log)]]
    supervisor = Supervisor(stages, drain_timeout_s=10, on_ready=lambda: supervisor.stop())
    assert supervisor.run() == 0
    names = log.read_text().split("\n")
    assert sorted(names[:2]) == ["worker 1", "worker 2"]
    assert names[2] == "recorder"


def test_what_dies_while_others_drain_is_started_again_below(tmp_path: Path) -> None:
    log = tmp_path / "ends"
    release = tmp_path / "release"
    recorder, worker = scripted("recorder", log), scripted("worker", log, waits_for=release)
    recorder_pid = tmp_path / "recorder.pid"
    stopping: list[bool] = []
    seen: list[str] = []

    def tick() -> None:
        if stopping and (pid := recorder_pid.read_text()) and pid not in seen:
            seen.append(pid)
            if len(seen) == 1:
                os.kill(int(pid), signal.SIGKILL)
            else:
                release.touch()

    supervisor = Supervisor(
        [[recorder], [worker]],
        drain_timeout_s=20,
        on_ready=lambda: supervisor.stop(),
        on_stop=lambda: stopping.append(True),
        tick=tick,
    )
    assert supervisor.run() == 0
    assert len(seen) == 2
    assert log.read_text().split("\n")[:2] == ["worker", "recorder"]


def test_what_is_ready_only_when_it_is_stopped_is_news_to_nobody(tmp_path: Path) -> None:
    """By then the sockets are closed that the news would tell of."""
    started, news = tmp_path / "started", []
    script = f"""
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
open({str(started)!r}, "w").close()
signal.sigwait([signal.SIGTERM])
os.write(int(os.environ[{READY_FD!r}]), b"1")
"""
    late = Program("late", (sys.executable, "-c", script), dict(os.environ), tells_ready=True)
    supervisor = Supervisor(
        [[late]],
        drain_timeout_s=10,
        on_ready=lambda: news.append("ready"),
        tick=lambda: supervisor.stop() if started.exists() else None,
    )
    assert supervisor.run() == 0
    assert news == []


def scripted(name: str, log: Path, waits_for: Path | None = None) -> Program:
    """Ready at once; on SIGTERM it waits for a file, if told to, and writes its name to `log`."""
    script = f"""
import os, signal, sys, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
open({str(log.parent / (name + ".pid"))!r}, "w").write(str(os.getpid()))
os.write(int(os.environ[{READY_FD!r}]), b"1")
signal.sigwait([signal.SIGTERM])
while {waits_for is not None} and not os.path.exists({str(waits_for)!r}):
    time.sleep(0.01)
with open({str(log)!r}, "a") as file:
    file.write({name + chr(10)!r})
"""
    return Program(name, (sys.executable, "-c", script), dict(os.environ), tells_ready=True)


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return True
    return False


class Held:
    """A request that a worker is busy with, until `release` or the end of the block."""

    def __init__(self, port: int, directory: Path) -> None:
        self.path = directory / "release"
        self.answer: tuple[int, bytes] | OSError | None = None
        self._thread = threading.Thread(target=self._ask, args=(port,))

    def __enter__(self) -> Held:
        self._thread.start()
        wait_for(self.path.with_suffix(".held").exists)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._thread.join()

    def release(self) -> None:
        self.path.touch()

    def _ask(self, port: int) -> None:
        try:
            status, _, body = get(port, f"/hold?{self.path}")
            self.answer = status, body
        except OSError as error:
            self.answer = error


class Load:
    """Requests one after another, each over its own connection, from two threads."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answered = 0
        self.failures: list[Exception] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        wait_for(lambda: self.answered)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._ended.wait(0.002):
            try:
                assert get(self.port)[0] == 200
                self.answered += 1
            except Exception as error:
                self.failures.append(error)
