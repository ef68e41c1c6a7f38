"""Segments into a real PostgreSQL: exactly once, whatever is in them."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from django.db import connection

from dashboard import shipping
from dashboard.models import UsageRow, UsageSegment
from dashboard.shipping import Shipped, ship
from gateway.proxy.journal import COLUMNS
from keys.services import consumer_create, key_create
from tests.dashboard.segments import lines_of, segment_write, stored_ids, sums
from tests.proxy.exchanges import finished, ids

pytestmark = pytest.mark.usefixtures("committed")


def test_rows_arrive_as_they_were_written(spool):
    path = "/ä\\.\t\n\"'%20" + "x" * 10
    exchange = finished(
        at_s=1_795_346_837.25, raw_path=path.encode(), host="ho\\st", detail="a\ttab", client_ip="::ffff:10.0.0.1",
        status=503, outcome="no_target", bytes_in=1 << 40, config_version=9,
    )  # fmt: skip
    segment_write(spool.path, [exchange])
    assert ship(spool, "n1").rows == 1
    row = UsageRow.objects.get()
    assert row.at == datetime(2026, 11, 22, 11, 27, 17, 250_000, UTC)
    assert (row.path, row.host, row.detail, row.client_ip) == (path, "ho\\st", "a\ttab", "::ffff:10.0.0.1")
    assert (row.node, row.worker, row.config_version, row.bytes_in) == ("n1", "w1", 9, 1 << 40)
    assert (row.route_id, row.upstream_id, row.consumer_id, row.key_id) == (3, 7, 5, 11)
    assert (row.duration_ms, row.gateway_ms, row.upstream_ms) == pytest.approx((12, 0.5, 10))
    assert not list(spool.path.glob("*.ready"))


def test_a_segment_shipped_before_is_only_removed(spool):
    """Killed between COMMIT and unlink: the file is still there, its rows are in."""
    exchanges = [finished() for _ in range(50)]
    path = segment_write(spool.path, exchanges)
    shutil.copy(path, spool.path / "copy")
    assert ship(spool, "n1").rows == 50
    (spool.path / "copy").rename(path)
    assert ship(spool, "n1").rows == 0
    assert sorted(stored_ids()) == sorted(ids(exchanges))
    assert sums() == {50}
    assert not path.exists()


def test_new_segments_beside_a_shipped_one_are_taken(spool):
    path = segment_write(spool.path, [finished()])
    shutil.copy(path, spool.path / "copy")
    ship(spool, "n1")
    (spool.path / "copy").rename(path)
    segment_write(spool.path, [finished(), finished()])
    assert ship(spool, "n1").rows == 2
    assert sums() == {3}


def test_many_segments_go_in_and_leave_nothing_behind(spool):
    exchanges = [finished() for _ in range(200)]
    for first in range(0, 200, 2):
        segment_write(spool.path, exchanges[first : first + 2])
    assert ship(spool, "n1") == Shipped(rows=128, more=True)
    assert set(stored_ids()) == ids(exchanges[:128])  # the oldest
    assert ship(spool, "n1") == Shipped(rows=72, more=False)
    assert sorted(stored_ids()) == sorted(ids(exchanges))
    assert UsageSegment.objects.count() == 100


def test_a_torn_last_line_is_left_out(spool, caplog):
    exchanges = [finished() for _ in range(3)]
    segment_write(spool.path, lines_of(exchanges) + lines_of([finished()])[:-20])
    assert ship(spool, "n1").rows == 3
    assert sorted(stored_ids()) == sorted(ids(exchanges))


def test_other_files_are_left_alone(spool):
    for name in ("notes.ready", "recorder.lock", "1-w1-xyz.ready"):
        (spool.path / name).write_bytes(lines_of([finished()]))
    assert ship(spool, "n1") == Shipped(rows=0, more=False)
    assert len(list(spool.path.iterdir())) == 3


@pytest.mark.parametrize("content", [b"", b"no newline"])
def test_a_segment_without_a_whole_line_is_removed(spool, content):
    segment_write(spool.path, content)
    assert ship(spool, "n1").rows == 0
    assert not list(spool.path.glob("*.ready"))


@pytest.mark.parametrize(
    "bad",
    [
        b"nonsense\n",
        b"\xff\xfe\xfd\n",
        b"\0" * 400 + b"\n",  # what a file system may leave after the machine failed
        lines_of([finished(outcome="ok")]).replace(b"\t200\tok\t", b"\t99999999\tok\t"),
        lines_of([finished()]).replace(b"\t200\tok\t", b"\t\\N\tok\t"),
    ],
    ids=["nonsense", "not utf-8", "zeros", "out of range", "null"],
)
def test_bad_lines_are_set_aside_and_the_others_stored(spool, caplog, bad):
    good = [finished() for _ in range(20)]
    content = lines_of(good[:13]) + bad + lines_of(good[13:])
    segment_write(spool.path, content)
    behind = [finished()]
    segment_write(spool.path, behind)
    assert ship(spool, "n1").rows == 21
    assert sorted(stored_ids()) == sorted(ids(good + behind))
    assert sums() == {21}
    (kept,) = (spool.path / "bad").iterdir()
    assert kept.read_bytes() == bad
    assert spool.bad_files() == 1
    assert not list(spool.path.glob("*.ready"))


def test_lines_of_an_older_version_have_fewer_columns(spool, monkeypatch):
    """COLUMNS only ever grows at its end: what an old line lacks gets the table's default."""
    monkeypatch.setattr(shipping, "COLUMNS", (*COLUMNS, "later"))
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE usage_row ADD COLUMN later text NOT NULL DEFAULT 'unknown'")
        try:
            segment_write(spool.path, [finished()])
            assert ship(spool, "n1").rows == 1
            cursor.execute("SELECT later FROM usage_row")
            assert cursor.fetchall() == [("unknown",)]
        finally:
            cursor.execute("ALTER TABLE usage_row DROP COLUMN later")


def test_the_key_knows_when_it_was_last_used(spool):
    key, _ = key_create(consumer_create(f"ann-{uuid4().hex[:8]}"))
    at_s = 1_795_346_837.25
    segment_write(spool.path, [finished(key_id=key.pk, at_s=at_s), finished(key_id=key.pk, at_s=at_s - 7)])
    ship(spool, "n1")
    key.refresh_from_db()
    assert key.last_used_at == datetime(2026, 11, 22, 11, 27, 17, 250_000, UTC)
