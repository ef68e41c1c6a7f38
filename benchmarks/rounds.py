"""Takes turns: each round, everybody runs alone, fresh, for the same time, so that a busy minute hits them all."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import gateway, load, upstream
from benchmarks.cases import CASES, Case
from benchmarks.gateway import NAME, Ours
from benchmarks.measure import Command, cores, cpu_s, free_port, rss_bytes, settle, started, wait_until
from benchmarks.peers import PEERS, Absent, Place

CONNECTIONS = 32
WARM_UP_S = 1.0
START_S = 30.0
PLAIN_OF_OURS = f"{NAME}, plain"
Contender = tuple[str, Case, Callable[[Case, Place], Command], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Row:
    """One contender in one round. `kb_per_connection` instead of requests for the cases that hold connections."""

    case: str
    peer: str
    round: int
    rss_mb: float
    rss_largest_mb: float
    errors: int = 0
    requests: int = 0
    requests_per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    cpu_us: float = 0.0
    kb_per_connection: float = 0.0


def measured(
    cases: list[Case], peers: list[str], rounds: int, seconds: float, absent: dict[str, str], say: Callable[[str], None]
) -> Iterator[Row]:
    """Everything it starts is stopped when it ends. Adds to `absent` what could not be measured, and why."""
    load_core, core = cores()  # asked before `pinned` leaves us only one of them
    with tempfile.TemporaryDirectory(prefix="hg-bench-") as name, pinned(load_core), many_files():
        directory = Path(name)
        directory.chmod(0o755)  # the embedded servers may run as another account
        (directory / "upstream").mkdir()
        with upstream.running(directory / "upstream", load_core) as port, gateway.ready(directory, port) as ours:
            for case in cases:
                say(f"{case.name}: preparing")
                contenders = found(case, peers, ours, directory, absent)
                for number in range(1, rounds + 1):
                    for contender in contenders:
                        try:
                            row = one(contender, case, number, seconds, ours, directory, core)
                        except TimeoutError as error:  # a peer's trouble must not cost the others their round
                            if contender[0] == NAME:
                                raise
                            absent[f"{case.name}: {contender[0]}"] = str(error)
                        else:
                            say(f"{case.name} {number}/{rounds} {row.peer}: {told(row)}")
                            yield row


def found(case: Case, peers: list[str], ours: Ours, directory: Path, absent: dict[str, str]) -> list[Contender]:
    """Ourselves first; then who is there and can do the same work."""
    contenders: list[Contender] = [(NAME, case, ours.command, ours.prepare(case))]
    if case.routes > 1:
        contenders.append((PLAIN_OF_OURS, CASES["plain"], ours.command, ours.prepare(CASES["plain"])))
    for peer in peers:
        trial = Path(tempfile.mkdtemp(dir=directory))
        try:
            PEERS[peer](case, Place(trial, 0, 0, ""))
        except Absent as reason:
            absent[f"{case.name}: {peer}"] = str(reason)
        else:
            contenders.append((peer, case, PEERS[peer], {}))
    return contenders


def one(contender: Contender, asked: Case, number: int, seconds: float, ours: Ours, directory: Path, core: int) -> Row:
    peer, case, command, headers = contender
    place = Place(
        Path(tempfile.mkdtemp(prefix=f"{peer.split(',')[0]}-", dir=directory)), free_port(), ours.upstream_port,
        str(ours.servers.places.valkey_socket),
    )  # fmt: skip
    with started(command(case, place), place.directory, core) as pid:
        wait_until(lambda: answers(case, place.port, headers), f"{peer}'s right answer", START_S)
        if case.held:
            return held(Row(asked.name, peer, number, 0, 0), case, place, headers, pid)
        load.run(case, place.port, headers, CONNECTIONS, WARM_UP_S, place.directory)
        settle(pid)
        before_s = cpu_s(pid)
        loaded = load.run(case, place.port, headers, CONNECTIONS, seconds, place.directory)
        rss = rss_bytes(pid)
        settle(pid)
        return Row(
            asked.name, peer, number, sum(rss) / 1e6, rss[0] / 1e6, loaded.errors, loaded.requests,
            loaded.requests / loaded.seconds, loaded.p50_ms, loaded.p99_ms,
            (cpu_s(pid) - before_s) / max(1, loaded.requests) * 1e6,
        )  # fmt: skip


def held(row: Row, case: Case, place: Place, headers: Mapping[str, str], pid: int) -> Row:
    """Memory before and with all connections open, each of which had an answer."""
    load.run(case, place.port, headers, CONNECTIONS, WARM_UP_S, place.directory)
    settle(pid)
    before = sum(rss_bytes(pid))
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(load.ask_once(case, place.port, headers)) for _ in range(case.held)]
        settle(pid)
        rss = rss_bytes(pid)
        errors = sum(has_gone(each) for each in connections)
    grown = (sum(rss) - before) / case.held / 1e3
    filled = {"rss_mb": sum(rss) / 1e6, "rss_largest_mb": rss[0] / 1e6, "errors": errors, "kb_per_connection": grown}
    return Row(**{**asdict(row), **filled})


def has_gone(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False


def answers(case: Case, port: int, headers: Mapping[str, str]) -> bool:
    try:
        load.ask_once(case, port, headers).close()
    except (OSError, ValueError):
        return False
    return True


def told(row: Row) -> str:
    if row.kb_per_connection:
        return f"{row.kb_per_connection:.1f} kB per connection"
    errors = f", {row.errors} ERRORS" if row.errors else ""
    return f"{row.cpu_us:.0f} us CPU/request, {row.requests_per_s:.0f}/s, p99 {row.p99_ms:.1f} ms{errors}"


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """This process and what it starts, unless it is told otherwise."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def many_files() -> Iterator[None]:
    """As many descriptors as the machine allows, for us and our children."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
