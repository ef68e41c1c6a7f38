"""Takes turns: each round, everybody runs alone, fresh, for the same time, so that a busy minute hits them all."""

from __future__ import annotations

import contextlib
import os
import resource
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import gateway, load, upstream
from benchmarks.cases import CASES, Case
from benchmarks.gateway import NAME, Ours
from benchmarks.measure import Command, cores, free_port, started, wait_until
from benchmarks.peers import OURSELVES_ON, PEERS
from benchmarks.place import Absent, Place
from benchmarks.row import Row
from benchmarks.trial import Trial

START_S = 60.0  # LiteLLM takes a quarter of it
MAXIMUM_S = 2.0
PLAIN_OF_OURS = f"{NAME}, plain"
TWO_WORKERS = f"{NAME}, 2 workers"
NO_GATEWAY = "no gateway"


@dataclass(frozen=True, slots=True)
class Contender:
    """`case`: what it is set up for, mostly what is asked. Without a `command` the upstream itself is asked."""

    name: str
    case: Case
    command: Callable[[Case, Place], Command] | None
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Stage:
    """What all contenders of a case share. `per_s`: the rate of the cases that have one."""

    ours: Ours
    directory: Path
    cores: list[int]
    upstream_port: int
    seconds: float
    per_s: float = 0.0


def measured(
    cases: list[Case], peers: list[str], rounds: int, seconds: float, absent: dict[str, str], say: Callable[[str], None]
) -> Iterator[Row]:
    """Everything it starts is stopped when it ends. Adds to `absent` what could not be measured, and why."""
    allowed = cores()  # asked before `pinned` leaves us only one of them
    with tempfile.TemporaryDirectory(prefix="hg-bench-") as name, pinned(allowed[0]), many_files():
        directory = Path(name)
        directory.chmod(0o755)  # the embedded servers may run as another account
        places = [directory / each for each in ("upstream", "slow")]
        for place in places:
            place.mkdir()
        with (
            upstream.running(places[0], allowed[0]) as port, upstream.slow(places[1], allowed[0]) as slow_port,
            gateway.ready(directory) as ours,
        ):  # fmt: skip
            for case in cases:
                say(f"{case.name}: preparing")
                stage = Stage(ours, directory, allowed, slow_port if case.bulk_bytes else port, seconds)
                contenders = found(case, peers, stage, absent)
                try:
                    if case.at_share:
                        stage = replace(stage, per_s=case.at_share * maximum(contenders[0], stage))
                    for number in range(1, min(rounds, case.most_rounds) + 1):
                        yield from turns(case, number, contenders, stage, absent, say)
                except (OSError, ValueError) as error:  # ours: nothing to compare with, but other cases are to come
                    say(f"{case.name}: {error}")
                    absent[f"{case.name}: {NAME}"] = str(error)


def turns(
    case: Case, number: int, contenders: list[Contender], stage: Stage, absent: dict[str, str],
    say: Callable[[str], None],
) -> Iterator[Row]:  # fmt: skip
    """A round. A peer's trouble must not cost the others theirs."""
    for contender in contenders:
        try:
            row = one(contender, case, number, stage)
        except (OSError, ValueError) as error:  # a TimeoutError is an OSError
            if contender.name == NAME:
                raise
            absent[f"{case.name}: {contender.name}"] = str(error)
        else:
            say(f"{case.name} {number} {row.peer}: {row}")
            yield row


def found(case: Case, peers: list[str], stage: Stage, absent: dict[str, str]) -> list[Contender]:
    """Ourselves first; then who is there and can do the same work."""
    ours = stage.ours
    own = ours.prepare(case, stage.upstream_port)
    contenders = [Contender(NAME, case, ours.command, own)]
    if case.routes > 1 or case.cached:
        plain = CASES["plain"]
        contenders.append(Contender(PLAIN_OF_OURS, plain, ours.command, ours.prepare(plain, stage.upstream_port)))
    if case.at_share:
        contenders.append(Contender(NO_GATEWAY, case, None, {}))
    if case.cached:
        return contenders
    if case.alone:
        return [*contenders, Contender(TWO_WORKERS, replace(case, workers=2), ours.command, own)]
    for peer in peers:
        trial = Path(tempfile.mkdtemp(dir=stage.directory))
        try:
            PEERS[peer](case, Place(trial, 0, 0, ""))
        except Absent as reason:
            absent[f"{case.name}: {peer}"] = str(reason)
        else:
            contenders.append(Contender(peer, case, PEERS[peer], own if peer in OURSELVES_ON else {}))
    return contenders


def maximum(contender: Contender, stage: Stage) -> float:
    """Requests a second of a closed loop."""
    return one(contender, contender.case, 0, replace(stage, seconds=MAXIMUM_S)).requests_per_s


def one(contender: Contender, asked: Case, number: int, stage: Stage) -> Row:
    prefix, case = f"{contender.name.split(',')[0]}-", contender.case
    row = Row(asked.name, contender.name, number, 0, 0)
    place = Place(
        Path(tempfile.mkdtemp(prefix=prefix, dir=stage.directory)), free_port(), stage.upstream_port,
        str(stage.ours.servers.places.valkey_socket),
    )  # fmt: skip
    place = replace(place, ours=stage.ours.environment(case, place.port))
    trial = Trial(case, place.port, contender.headers, 0, place.directory, stage.seconds, stage.per_s)
    if contender.command is None:
        return replace(trial, port=stage.upstream_port).measure(row)
    with started(contender.command(case, place), place.directory, stage.cores[-case.workers :]) as pid:
        wait_until(lambda: answers(case, place.port, contender.headers), f"{contender.name}'s right answer", START_S)
        return replace(trial, pid=pid).measure(row)


def answers(case: Case, port: int, headers: Mapping[str, str]) -> bool:
    try:
        load.ask_once(case, port, headers).close()
    except (OSError, ValueError):
        return False
    return True


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
