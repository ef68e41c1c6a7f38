"""The benchmark itself: what it is asked, what it divides, and one short run against ourselves."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import bulk, load, openloop, plugins, report, rounds, upstream
from benchmarks.cases import CASES, LARGE_BYTES, Case, document
from benchmarks.measure import Command, cpu_s, rss_bytes, started, tree, wait_until
from benchmarks.peers import PEERS, version_of
from benchmarks.place import Absent, Place, package, program
from benchmarks.row import Row
from gateway.environment import PLUGINS
from gateway.plugins.registry import Registry
from routes import portable, services

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def row(peer: str, number: int, cpu_us: float, **fields: object) -> Row:
    return replace(Row("plain", peer, number, 90, 60, 0, 1000, 1000.0, 1.0, 2.0, cpu_us), **fields)  # type: ignore[arg-type]


def test_without_arguments_everything_is_measured() -> None:
    asked = command.parser().parse_args([])
    assert asked.cases == [*CASES, "plugins"]
    assert asked.peers == list(PEERS)


def test_cases_and_peers_are_lists_and_misspelt_ones_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    asked = command.parser().parse_args(["--cases", "plain,policies", "--peers", "", "--seconds", "0.5"])
    assert (asked.cases, asked.peers, asked.seconds) == (["plain", "policies"], [], 0.5)
    with pytest.raises(SystemExit):
        command.parser().parse_args(["--peers", "traefic"])
    assert "no traefic; there are traefik" in capsys.readouterr().err


def test_a_kept_answer_is_one_of_the_cases() -> None:
    (plugin,) = document(CASES["cache-hit"], 9000)["plugins"]
    assert plugin["name"] == "response-cache"
    assert document(CASES["plain"], 9000)["plugins"] == []


def test_a_ratio_is_ours_by_theirs_in_the_same_round() -> None:
    rows = [row("hydragate", 1, 50), row("other", 1, 100), row("hydragate", 2, 90), row("other", 2, 100)]
    assert report.ratios(rows) == [{"case": "plain", "peer": "other", "cpu_ratio": 0.7, "spread": 0.571, "rounds": 2}]


def test_a_round_with_wrong_answers_does_not_count() -> None:
    rows = [row("hydragate", 1, 50), row("other", 1, 10, errors=3), row("hydragate", 2, 50), row("other", 2, 100)]
    assert [(each["cpu_ratio"], each["rounds"]) for each in report.ratios(rows)] == [(0.5, 1)]


def test_held_connections_are_compared_by_memory() -> None:
    rows = [row("hydragate", 1, 0, kb_per_connection=10), row("other", 1, 0, kb_per_connection=40)]
    assert [(each["cpu_ratio"], each["memory_ratio"]) for each in report.ratios(rows)] == [(None, 0.25)]


def test_latency_is_what_a_gateway_adds_to_the_upstream_alone_in_the_same_round() -> None:
    times = [(rounds.NO_GATEWAY, 1, 0.1, 0.5), ("hydragate", 1, 0.4, 2.5), (rounds.NO_GATEWAY, 2, 0.2, 1.0)]
    rows = [row(peer, number, 0, case="latency", p50_ms=p50, p99_ms=p99) for peer, number, p50, p99 in times]
    (added,) = report.added(rows)
    assert (added["peer"], added["p50_ms"], added["p99_ms"]) == ("hydragate", 0.3, 2.0)
    assert "| hydragate | 1000 | 0.30 | 2.00 |" in report.latencies(rows)


def test_growth_has_a_table_of_its_own() -> None:
    grown = row("hydragate", 1, 0, case="slow", grown_down_mb=1.8, grown_up_mb=0.0)
    assert "| hydragate | 1.8 | 0.0 |" in report.growths([grown])
    assert report.growths([row("hydragate", 1, 50)]) == []


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


def test_a_package_that_was_not_brought_is_absent(tmp_path: Path) -> None:
    with pytest.raises(Absent, match="no litellm here, `make bench-peers` brings it"):
        package("litellm", tmp_path)


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_says_its_version_or_that_it_is_absent(peer: str) -> None:
    with contextlib.suppress(Absent):
        assert version_of(peer)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_every_peer_can_be_started_for_a_case_or_says_why_not(peer: str, case: Case, tmp_path: Path) -> None:
    with contextlib.suppress(Absent):
        assert PEERS[peer](replace(case, routes=min(case.routes, 2)), Place(tmp_path, 1, 2, "socket")).arguments


@linux
def test_cpu_time_and_memory_are_of_the_whole_tree_and_it_is_ended(tmp_path: Path) -> None:
    burn = "import time; e = time.process_time() + 0.3\nwhile time.process_time() < e: pass\ntime.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    with started(Command([sys.executable, "-c", parent], {}), tmp_path) as pid:
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
def test_requests_come_at_their_rate_and_a_stall_counts_for_each_of_them() -> None:
    """Half of a second of requests waits for the server: a closed loop would have seen one slow answer."""
    with stalling(stall_s=0.5) as port:
        loaded = openloop.run(b"GET / HTTP/1.1\r\n\r\n", port, per_s=200, seconds=1)
    assert (loaded.requests, loaded.errors) == (200, 0)
    assert loaded.p50_ms < 250
    assert loaded.p99_ms > 400


@linux
def test_a_rate_that_is_too_high_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openloop, "GRACE_S", 0.2)
    with stalling(stall_s=3) as port, pytest.raises(openloop.Overwhelmed, match="does not answer 100 requests"):
        openloop.run(b"GET / HTTP/1.1\r\n\r\n", port, per_s=100, seconds=0.1)


@contextlib.contextmanager
def stalling(stall_s: float) -> Iterator[int]:
    """A server that does nothing at all for a while at its first request, and so keeps everybody waiting."""
    ended = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    thread = threading.Thread(target=serve, args=(listening, [stall_s], ended))
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        ended.set()
        thread.join()


def serve(listening: socket.socket, stalls: list[float], ended: threading.Event) -> None:
    with contextlib.ExitStack() as stack:
        watched = {stack.enter_context(listening)}
        while not ended.is_set():
            for each in select.select(watched, (), (), 0.02)[0]:
                if each is listening:
                    watched.add(stack.enter_context(listening.accept()[0]))
                elif each.recv(1000):
                    time.sleep(stalls.pop() if stalls else 0)
                    with contextlib.suppress(ConnectionError):
                        each.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                else:
                    watched.remove(each)


@linux
def test_bulk_moves_every_byte_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "STALL_S", 0.0)
    size = 8 * bulk.BLOCK_BYTES
    with upstream.slow(tmp_path, core=0) as port:
        down_mb, up_mb = bulk.grown(port, os.getpid(), size)
        with pytest.raises(ValueError, match="bytes instead of"):
            bulk.download(port, size + 1)
    assert min(down_mb, up_mb) >= 0


@linux
def test_plain_against_ourselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    words = ["--cases", "plain", "--peers", "", "--seconds", "1", "--rounds", "1", "--json", str(file)]
    assert command.main(words) == 0
    result = json.loads(file.read_text())
    (measured,) = result["rows"]
    assert measured["peer"] == "hydragate"
    assert measured["requests"] > 0
    assert measured["errors"] == 0
    assert measured["cpu_us"] > 0
    assert result["ratios"] == []
    assert result["absent"] == {}
    assert "| plain | hydragate |" in capsys.readouterr().out


def test_every_plugin_has_a_figure_or_a_reason() -> None:
    assert {*plugins.SAMPLES, *plugins.UNMEASURED} == {*Registry.load(PLUGINS).names}
    assert not plugins.SAMPLES.keys() & plugins.UNMEASURED.keys()
    found = plugins.measured(requests=20)
    assert list(found) == list(plugins.SAMPLES)
    assert max(found.values()) < 1000
    assert plugins.lines({"cors": 1.25})[2] == "| cors | 1.2 |"
