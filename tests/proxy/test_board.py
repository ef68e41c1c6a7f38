from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from gateway.proxy.board import STALE_S, Board
from gateway.proxy.health import Probed
from gateway.proxy.sightings import Report

DOWN = Probed(up=False, since_s=5.0, fault="Status 500.")
PROBES = {("up", "10.0.0.1:80"): DOWN, ("up", "[::1]:80"): Probed()}
REPORT = Report("up", "10.0.0.1:80", 2, 1.5, 0, False, 0.0)


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_what_one_posts_others_read(tmp_path: Path) -> None:
    Board(tmp_path).post_probes(PROBES)
    Board(tmp_path).post_reports(1, [REPORT])
    Board(tmp_path).post_reports(2, [REPORT, REPORT])
    reader = Board(tmp_path)
    assert reader.probes() == PROBES
    assert reader.reports() == [REPORT] * 3
    assert len(list(reader.directory.iterdir())) == 3


def test_before_anybody_posted_there_is_nothing(tmp_path: Path) -> None:
    assert (Board(tmp_path).probes(), Board(tmp_path).reports()) == ({}, [])


@pytest.mark.parametrize("later_s", [STALE_S + 0.1, -900.0])
def test_what_nobody_renews_does_not_count(tmp_path: Path, later_s: float) -> None:
    clock = Clock()
    board = Board(tmp_path, clock)
    board.post_probes(PROBES)
    clock.now_s += later_s
    assert board.probes() == {}
    if later_s > 0:
        assert board.probes(stale_s=3600) == PROBES  # whoever comes back may begin with it


def test_unchanged_it_is_renewed_but_not_at_every_turn(tmp_path: Path) -> None:
    clock = Clock()
    board = Board(tmp_path, clock)
    board.post_probes(PROBES)
    path = board.directory / "probes.json"
    path.unlink()
    board.post_probes(PROBES)
    assert not path.exists()
    clock.now_s += 3
    board.post_probes(PROBES)
    assert path.exists()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"at_s": 1', '{"at_s": 1000, "rows": [[1]]}', '{"at_s": 1000, "rows": [{}]}']
)
def test_nonsense_is_nothing(tmp_path: Path, text: str) -> None:
    board = Board(tmp_path, Clock())
    board.directory.mkdir()
    for name in ("probes", "worker-1"):
        (board.directory / f"{name}.json").write_text(text)
    assert (board.probes(), board.reports()) == ({}, [])


def test_a_disk_that_cannot_be_written_to_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "health").write_text("in the way")
    board = Board(tmp_path)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            board.post_probes(PROBES)
    assert caplog.text.count("cannot be told") == 1


def test_what_a_worker_left_is_removed(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.post_reports(1, [REPORT])
    board.post_probes(PROBES)
    board.tidy()
    assert board.reports() == [REPORT]
    for path in board.directory.iterdir():
        os.utime(path, (0, 0))
    board.tidy()
    assert [path.name for path in board.directory.iterdir()] == ["probes.json"]
