"""Where a competitor runs, and how one says that there is nothing to compare with."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path

from benchmarks.cases import Case

HERE = Path(__file__).resolve().parent
BROUGHT = "`make bench-peers` brings it"
WHEELS = ("traefik", "caddy")  # the group `bench` of pyproject.toml


class Absent(Exception):
    """Why there is nothing to compare with."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer runs: an empty directory, the ports to listen on and to forward to, Redis for counters.

    `ours`: the environment that our own application needs for the case, for servers that run it.
    """

    directory: Path
    port: int
    upstream_port: int
    redis_socket: str
    ours: Mapping[str, str] = field(default_factory=dict)


def target(name: str = "") -> Path:
    """What `make bench-peers` installed: programs in `<venv>/bench`, what clashes with our packages apart from it."""
    return Path(sys.prefix) / (f"bench-{name}" if name else "bench")


def program(name: str) -> str:
    """Beside the interpreter, in `<venv>/bench/bin`, or on the PATH."""
    for place in (Path(sys.executable).parent, target() / "bin"):
        if (place / name).exists():
            return str(place / name)
    found = shutil.which(name)
    if not found:
        raise Absent(f"there is no {name} here" + (f", {BROUGHT}" if name in WHEELS else ""))
    return found


def package(name: str, where: Path) -> str:
    """Its version. Raises Absent."""
    for found in distributions(path=[str(where)]):
        if found.name.replace("_", "-").lower() == name:
            return found.version
    raise Absent(f"there is no {name} here, {BROUGHT}")


def only_forwards(case: Case, reason: str) -> None:
    if case.policies:
        raise Absent(reason)
    if case.routes > 1:
        raise Absent("its configuration has one route here")
