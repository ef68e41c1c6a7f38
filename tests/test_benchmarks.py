"""The benchmark itself: what it is asked, what it divides, and one short run against ourselves."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import load, report, upstream
from benchmarks.cases import CASES, LARGE_BYTES, Case, document
from benchmarks.measure import Command, cpu_s, rss_bytes, started, tree, wait_until
from benchmarks.peers import PEERS, Absent, program
from benchmarks.rounds import Row
from routes import portable, services

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def row(peer: str, number: int, cpu_us: float, **fields: object) -> Row:
    return replace(Row("plain", peer, number, 90, 60, 0, 1000, 1000.0, 1.0, 2.0, cpu_us), **fields)  # type: ignore[arg-type]


def test_without_arguments_everything_is_measured() -> None:
    asked = command.parser().parse_args([])
    assert asked.cases == list(CASES)
    assert asked.peers == list(PEERS)


def test_cases_and_peers_are_lists_and_misspelt_ones_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    asked = command.parser().parse_args(["--cases", "plain,policies", "--peers", "", "--seconds", "0.5"])
    assert (asked.cases, asked.peers, asked.seconds) == (["plain", "policies"], [], 0.5)
    with pytest.raises(SystemExit):
        command.parser().parse_args(["--peers", "traefic"])
    assert "no traefic; there are traefik" in capsys.readouterr().err


def test_a_ratio_is_ours_by_theirs_in_the_same_round() -> None:
    rows = [row("hydragate", 1, 50), row("other", 1, 100), row("hydragate", 2, 90), row("other", 2, 100)]
    assert report.ratios(rows) == [{"case": "plain", "peer": "other", "cpu_ratio": 0.7, "spread": 0.571, "rounds": 2}]


def test_a_round_with_wrong_answers_does_not_count() -> None:
    rows = [row("hydragate", 1, 50), row("other", 1, 10, errors=3), row("hydragate", 2, 50), row("other", 2, 100)]
    assert [(each["cpu_ratio"], each["rounds"]) for each in report.ratios(rows)] == [(0.5, 1)]


def test_held_connections_are_compared_by_memory() -> None:
    rows = [row("hydragate", 1, 0, kb_per_connection=10), row("other", 1, 0, kb_per_connection=40)]
    assert [(each["cpu_ratio"], each["memory_ratio"]) for each in report.ratios(rows)] == [(None, 0.25)]


@pytest.mark.django_db
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_our_configuration_of_every_case_compiles(case: Case) -> None:
    small = replace(case, routes=min(case.routes, 3))
    services.replace(
        portable.from_yaml(json.dumps(document(small, 8000))), author="test", source="import", dry_run=True
    )


def test_a_program_that_is_missing_is_absent() -> None:
    with pytest.raises(Absent, match="no such-gateway here"):
        program("such-gateway")


@linux
def test_cpu_time_and_memory_are_of_the_whole_tree_and_it_is_ended(tmp_path: Path) -> None:
    burn = "import time; e = time.process_time() + 0.2\nwhile time.process_time() < e: pass\ntime.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    with started(Command([sys.executable, "-c", parent], {}), tmp_path, None) as pid:
        wait_until(lambda: cpu_s(pid) > 0.2, "the child's work", 20)
        family = tree(pid)
        assert len(family) == len(rss_bytes(pid)) == 2
    assert not any(Path(f"/proc/{each}").exists() for each in family[:1])


@linux
@pytest.mark.parametrize("bundled", [False, True])
def test_the_upstream_answers_what_the_cases_expect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled: bool
) -> None:
    if bundled:
        monkeypatch.setattr(shutil, "which", lambda _: None)
    with upstream.running(tmp_path, core=0) as port:
        for case in CASES.values():
            load.ask_once(case, port, {}).close()
        assert CASES["large"].answer_bytes == LARGE_BYTES
        loaded = load.run(CASES["post-10k"], port, {}, connections=2, seconds=0.2, directory=tmp_path)
    assert loaded.requests > 0
    assert loaded.errors == 0
    assert 0 < loaded.p50_ms <= loaded.p99_ms


@linux
def test_plain_against_ourselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    words = ["--cases", "plain,cache-hit", "--peers", "", "--seconds", "1", "--rounds", "1", "--json", str(file)]
    assert command.main(words) == 0
    result = json.loads(file.read_text())
    (measured,) = result["rows"]
    assert measured["peer"] == "hydragate"
    assert measured["requests"] > 0
    assert measured["errors"] == 0
    assert measured["cpu_us"] > 0
    assert result["ratios"] == []
    assert "cache-hit" in result["absent"]
    assert "| plain | hydragate |" in capsys.readouterr().out
