"""From rows to ratios: round by round ours divided by theirs, so that the machine's mood cancels out."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import plugins
from benchmarks.gateway import NAME
from benchmarks.rounds import NO_GATEWAY
from benchmarks.row import Row


def ratios(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """`cpu_ratio` (or `memory_ratio` where connections are held): median of the rounds; `spread`: (max - min) / median.

    A round in which either side gave a wrong answer does not count.
    """
    good = {(row.case, row.peer, row.round): row for row in rows if not row.errors}
    found: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for (case, peer, number), theirs in good.items():
        ours = good.get((case, NAME, number))
        if peer == NAME or ours is None:
            continue
        kind = "memory_ratio" if theirs.kb_per_connection else "cpu_ratio"
        both = [row.kb_per_connection or row.cpu_us for row in (ours, theirs)]
        if min(both) > 0:
            found.setdefault((case, peer), []).append((kind, both[0] / both[1]))
    return [
        {
            "case": case,
            "peer": peer,
            "cpu_ratio": None,
            each[0][0]: round(middle := median(value for _, value in each), 3),
            "spread": round((max(each)[1] - min(each)[1]) / middle, 3),
            "rounds": len(each),
        }
        for (case, peer), each in found.items()
    ]


def added(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """What each gateway adds to the upstream's own latency at the same rate: percentile minus percentile of the same
    round, medians of the rounds. Not the percentile of the differences, which nobody can measure."""
    good = {(row.case, row.peer, row.round): row for row in rows if not row.errors}
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for (case, peer, number), row in good.items():
        bare = good.get((case, NO_GATEWAY, number))
        if bare and peer != NO_GATEWAY:
            each = (row.requests_per_s, row.p50_ms - bare.p50_ms, row.p99_ms - bare.p99_ms)
            found.setdefault((case, peer), []).append(each)
    return [
        {"case": case, "peer": peer, "requests_per_s": round(rate), "p50_ms": round(p50, 3), "p99_ms": round(p99, 3)}
        for (case, peer), each in found.items()
        for rate, p50, p99 in [map(median, zip(*each, strict=True))]
    ]


def machine() -> dict[str, Any]:
    """What a reader must know to compare, and nothing that names it."""
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return {
        "processor": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(memory[1]) / 1e6, 1) if memory else None,
        "kernel": ".".join(re.findall(r"\d+", platform.release())[:2]),
        "load_average": [round(each, 2) for each in os.getloadavg()],
    }


def interpreter() -> dict[str, str]:
    names = ("daphne", "django", "httptools", "httpx", "redis", "uvloop")
    return {"python": f"{platform.python_implementation()} {platform.python_version()}"} | {
        name: version(name) for name in names
    }


def as_json(report: dict[str, Any], rows: Iterable[Row]) -> dict[str, Any]:
    rows = list(rows)
    return {**report, "ratios": ratios(rows), "added": added(rows), "rows": [asdict(row) for row in rows]}


def markdown(report: dict[str, Any], rows: Iterable[Row]) -> str:
    """Medians of the rounds, and the ratio to us with its spread."""
    rows = list(rows)
    by_pair = {(each["case"], each["peer"]): each for each in ratios(rows)}
    there = report["machine"]
    lines = [
        f"{there['processor']}, {there['cores']} cores, {there['memory_gb']} GB, Linux {there['kernel']}.",
        f"Load average {there['load_average'][0]} at the start, {report['load_average_after'][0]} at the end.",
        ", ".join(f"{name} {value}" for name, value in (report["interpreter"] | report["versions"]).items()) + ".",
        f"{report['generator']}, {report['connections']} connections, upstream {report['upstream']}.",
        f"{report['rounds']} rounds of {report['seconds']:g} s each.",
        "",
        "| case | peer | requests/s | p50 ms | p99 ms | CPU µs | RSS MB | kB/connection | ours/theirs | spread |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case, peer in dict.fromkeys((row.case, row.peer) for row in rows if row.grown_down_mb is None):
        mine = [row for row in rows if (row.case, row.peer) == (case, peer)]
        lines.append(line(case, peer, mine, by_pair.get((case, peer))))
    lines += latencies(rows) + growths(rows)
    if report["plugins"]:
        lines += ["", *plugins.lines(report["plugins"])]
    if report["absent"]:
        lines += ["", *(f"- {what}: not measured, {why}." for what, why in report["absent"].items())]
    return "\n".join(lines) + "\n"


def latencies(rows: list[Row]) -> list[str]:
    lines = [f"| {e['peer']} | {e['requests_per_s']} | {e['p50_ms']:.2f} | {e['p99_ms']:.2f} |" for e in added(rows)]
    head = ["", "| latency added by | requests/s | p50 ms | p99 ms |", "|---|---|---|---|"]
    return [*head, *lines] if lines else []


def growths(rows: list[Row]) -> list[str]:
    lines = [
        f"| {row.peer} | {row.grown_down_mb:.1f} | {row.grown_up_mb:.1f} |"
        for row in rows
        if row.grown_down_mb is not None
    ]
    head = ["", "| memory for 1 GB | to a slow reader, MB | to a slow upstream, MB |", "|---|---|---|"]
    return [*head, *lines] if lines else []


def line(case: str, peer: str, rows: list[Row], ratio: dict[str, Any] | None) -> str:
    def middle(of: Callable[[Row], float], digits: int) -> str:
        value = median(map(of, rows))
        return f"{value:.{digits}f}" if value else ""

    name = f"{peer} ({sum(row.errors for row in rows)} errors)" if any(row.errors for row in rows) else peer
    cells = [
        case, name, middle(lambda row: row.requests_per_s, 0), middle(lambda row: row.p50_ms, 2),
        middle(lambda row: row.p99_ms, 2), middle(lambda row: row.cpu_us, 0), middle(lambda row: row.rss_mb, 0),
        middle(lambda row: row.kb_per_connection, 1),
    ]  # fmt: skip
    value = ratio and (ratio["cpu_ratio"] or ratio.get("memory_ratio"))
    cells += [f"{value:.2f}", f"{ratio['spread']:.0%}"] if ratio and value else ["", ""]
    return f"| {' | '.join(cells)} |"
