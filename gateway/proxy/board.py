"""The board: a directory in which the workers and the recorder of a node tell each other of their targets.

    health/probes.json              by the recorder: what its probes found
    health/worker-<n>-<pid>.json    by each worker: what its traffic shows
    health/ejected-<n>-<pid>.json   by each worker: the targets it has ejected, for the others and for its successor
    health/discovered.json          by the recorder: what discovery found last; also counts when it is old

Plain files, so it works whatever else is down. Each is replaced whole, and counts only while it is renewed: whoever
died has nothing more to say. Nothing here raises for a disk that is full, or for a file that holds nonsense.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from math import inf
from pathlib import Path
from time import monotonic, time
from typing import Any, TypeVar

from gateway.proxy.discovery import Discovered, from_row, row_of
from gateway.proxy.health import Probed, Standing
from gateway.proxy.sightings import Key, Report

T = TypeVar("T")
logger = logging.getLogger(__name__)

#: A file renewed longer ago says nothing. Longer than a recorder that died takes to come back.
STALE_S = 10.0
#: Unchanged files are renewed this often.
RENEW_S = 2.0
#: And one of a worker is left over.
GONE_S = 60.0
PROBES, DISCOVERED = "probes", "discovered"


class Board:
    """One process's. Blocking. `clock` must be the same for all processes of the machine, as `time.monotonic` is."""

    def __init__(self, data_dir: Path, clock: Callable[[], float] = monotonic) -> None:
        self.directory = data_dir / "health"
        self._clock = clock
        self._posted: dict[str, tuple[str, float]] = {}
        self._complaint = ""

    def post_probes(self, probes: Mapping[Key, Probed]) -> None:
        self._post(PROBES, [[*key, asdict(probed)] for key, probed in probes.items()])

    def post_reports(self, worker: int, reports: Iterable[Report]) -> None:
        self._post(f"worker-{worker}-{os.getpid()}", [asdict(report) for report in reports])

    def post_standings(self, worker: int, standings: Iterable[tuple[Key, Standing]]) -> None:
        rows = [[*key, asdict(standing)] for key, standing in standings]
        self._post(f"ejected-{worker}-{os.getpid()}", rows)

    def standings(self) -> list[tuple[Key, Standing]]:
        """Of all workers, also of those that ended a moment ago."""
        paths = sorted(self.directory.glob("ejected-*.json"))
        return [row for path in paths for row in self._read(path, STALE_S, _standing)]

    def probes(self, stale_s: float = STALE_S) -> dict[Key, Probed]:
        rows = self._read(self._path(PROBES), stale_s, lambda row: ((row[0], row[1]), Probed(**row[2])))
        return dict(rows)

    def post_discovered(self, discovered: Iterable[Discovered]) -> None:
        self._post(DISCOVERED, [row_of(one) for one in discovered])

    def discovered(self) -> list[Discovered]:
        return self._read(self._path(DISCOVERED), inf, from_row)

    def reports(self) -> list[Report]:
        """Of all workers."""
        paths = sorted(self.directory.glob("worker-*.json"))
        return [report for path in paths for report in self._read(path, STALE_S, lambda row: Report(**row))]

    def tidy(self) -> None:
        """Removes what workers left that are gone. For the recorder."""
        for path in [*self.directory.glob("worker-*.json"), *self.directory.glob("ejected-*.json")]:
            with contextlib.suppress(OSError):
                if time() - path.stat().st_mtime > GONE_S:
                    path.unlink()

    def _path(self, name: str) -> Path:
        return self.directory / f"{name}.json"

    def _post(self, name: str, rows: list[Any]) -> None:
        now_s = self._clock()
        text = json.dumps(rows, separators=(",", ":"))
        before, at_s = self._posted.get(name, ("", 0.0))
        if text == before and now_s - at_s < RENEW_S:
            return
        temporary = self.directory / f"{name}.{os.getpid()}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            temporary.write_text(f'{{"at_s":{now_s},"rows":{text}}}')
            temporary.replace(self._path(name))
        except OSError as error:
            self._complain(f"cannot write to {self.directory}: {error.strerror}")
            return
        self._posted[name] = text, now_s
        self._complain("")

    def _read(self, path: Path, stale_s: float, build: Callable[[Any], T]) -> list[T]:
        try:
            said = json.loads(path.read_bytes())
            age_s = self._clock() - said["at_s"]  # negative: of before the machine started
            return [build(row) for row in said["rows"]] if 0 <= age_s <= stale_s or stale_s == inf else []
        except (OSError, ValueError, TypeError, LookupError):  # none yet, or another version's while a node is rolled
            return []

    def _complain(self, complaint: str) -> None:
        """Once for each change."""
        if complaint and complaint != self._complaint:
            logger.warning("targets' health cannot be told: %s", complaint)
        self._complaint = complaint


def _standing(row: Any) -> tuple[Key, Standing]:
    return (row[0], row[1]), Standing(**row[2])
