"""`python -m benchmarks --cases plain,policies --peers traefik,caddy --seconds 5 --rounds 3 --json FILE`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import load, plugins, report, rounds, trial, upstream
from benchmarks.cases import ABSENT, CASES
from benchmarks.gateway import NAME
from benchmarks.peers import PEERS, version_of
from benchmarks.place import HERE, Absent

#: Of contenders, and what each of our plugins adds.
ALL = [*CASES, "plugins"]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("python -m benchmarks", description="What a request costs us and others.")
    made.add_argument("--cases", type=names(ALL, ABSENT), default=ALL, metavar="A,B", help=", ".join(ALL))
    made.add_argument(
        "--peers", type=names(PEERS), default=list(PEERS), metavar="A,B", help=f"{', '.join(PEERS)}; empty: only us"
    )
    made.add_argument("--seconds", type=float, default=4.0, help="of load, per contender and round (default: 4)")
    made.add_argument("--rounds", type=int, default=3, help="turns that everybody gets (default: 3)")
    made.add_argument("--json", type=Path, metavar="FILE", help="raw rows, ratios, versions")
    made.add_argument("--save", action="store_true", help="write benchmarks/results/<date>-<commit>.json and .md")
    return made


def names(*known: Iterable[str]) -> Any:
    allowed = [name for each in known for name in each]

    def parse(text: str) -> list[str]:
        asked = [word.strip() for word in text.split(",") if word.strip()]
        if wrong := [word for word in asked if word not in allowed]:
            raise argparse.ArgumentTypeError(f"no {', '.join(wrong)}; there are {', '.join(allowed)}")
        return asked

    return parse


def main(arguments: Sequence[str] | None = None) -> int:
    asked = parser().parse_args(arguments)
    if sys.platform != "linux":
        raise SystemExit("CPU time is read from /proc: Linux only.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    absent = dict(ABSENT) if asked.cases == ALL else {c: ABSENT[c] for c in asked.cases if c in ABSENT}
    about = {
        "date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "commit": commit(), "machine": report.machine(),
        "interpreter": report.interpreter(), "versions": versions(asked.peers), "generator": load.generator(),
        "upstream": upstream.kind(), "connections": trial.CONNECTIONS, "seconds": asked.seconds,
        "rounds": asked.rounds,
    }  # fmt: skip
    cases = [CASES[name] for name in asked.cases if name in CASES]
    rows = list(rounds.measured(cases, asked.peers, asked.rounds, asked.seconds, absent, say))
    about["plugins"] = plugins.measured() if "plugins" in asked.cases else {}
    about |= {"absent": absent, "load_average_after": [round(each, 2) for each in os.getloadavg()]}
    table, data = report.markdown(about, rows), json.dumps(report.as_json(about, rows), indent=1) + "\n"
    print(table)  # noqa: T201
    if asked.json:
        asked.json.write_text(data)
    if asked.save:
        file = HERE / "results" / f"{about['date'][:10]}-{about['commit']}"
        file.parent.mkdir(exist_ok=True)
        file.with_suffix(".json").write_text(data)
        file.with_suffix(".md").write_text(table)
    return int(any(failed.endswith(f": {NAME}") for failed in absent))


def versions(peers: Iterable[str]) -> dict[str, str]:
    found = {}
    for peer in peers:
        try:
            found[peer] = version_of(peer)
        except Absent:
            continue  # the report says it per case
    return found


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    raise SystemExit(main())
