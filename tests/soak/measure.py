"""What the workers hold, over time, and whether it grows."""

from __future__ import annotations

import json
import statistics
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ASKS = 24  # connections choose their worker


@dataclass(frozen=True)
class Sample:
    """Of one worker."""

    at_s: float
    pid: int
    rss_mb: float
    fds: int
    tasks: int
    in_flight: int


def samples(url: str, pids: Sequence[int], at_s: float) -> list[Sample]:
    """One for each worker that answered for its tasks; the others are missing this time."""
    told: dict[int, dict[str, int]] = {}
    for _ in range(ASKS):
        if len(told) < len(pids):
            with urllib.request.urlopen(f"{url}/status", timeout=10) as answer:
                state = json.load(answer)
            told[state["pid"]] = state
    return [
        Sample(at_s, pid, rss_mb(pid), fds(pid), told[pid]["front"]["tasks"], told[pid]["requests_in_flight"])
        for pid in pids
        if pid in told
    ]


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


def fds(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def slope_per_min(points: Sequence[tuple[float, float]]) -> float:
    """Least squares; 0 with fewer than three points."""
    if len(points) < 3:
        return 0.0
    seconds, values = zip(*points, strict=True)
    return statistics.linear_regression(seconds, values).slope * 60


def grown(values: Sequence[float]) -> float:
    """The median of the last third above that of the first."""
    third = max(1, len(values) // 3)
    return statistics.median(values[-third:]) - statistics.median(values[:third])
