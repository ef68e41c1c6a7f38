"""The recorder as a process that dies, and without its database."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection
from prometheus_client import REGISTRY

from dashboard.recorder import Recorder
from dashboard.spool import AlreadyRunning, Spool
from gateway.proxy.exchange import Exchange
from gateway.proxy.segments import SegmentWriter, spool_dir
from tests.dashboard.segments import lines_of, segment_write, stored_ids, sums
from tests.proxy.exchanges import finished, ids
from tests.running import ROOT, Stopwatch, free_port, wait_for

pytestmark = pytest.mark.usefixtures("committed")


@contextmanager
def recording(spool: Spool) -> Iterator[threading.Thread]:
    """A recorder in a thread of its own, with a connection of its own."""
    stop = threading.Event()
    thread = threading.Thread(target=Recorder(spool, "n1", 30).run, args=[stop])
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join()


def database_url() -> str:
    found = connection.settings_dict
    return f"postgres://{found['USER']}:{found['PASSWORD']}@/{found['NAME']}?host={found['HOST']}&port={found['PORT']}"


@contextmanager
def process(data_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "DATABASE_URL": database_url(), "REDIS_URL": settings.REDIS_URL}
    command = [sys.executable, "manage.py", "recorder"]
    recorder = subprocess.Popen(command, cwd=ROOT, env={**environment, "GATEWAY_DATA_DIR": str(data_dir)})
    try:
        yield recorder
    finally:
        recorder.kill()
        recorder.wait()


class Producer(threading.Thread):
    """A worker's writer under load: a segment every few milliseconds, until stopped."""

    def __init__(self, spool: Path) -> None:
        super().__init__()
        self.exchanges: list[Exchange] = []
        self._writer = SegmentWriter(spool, "w1", max_bytes=1 << 30, segment_s=0.01, segment_bytes=1 << 20)
        self._stop_asked = threading.Event()

    def run(self) -> None:
        while not self._stop_asked.wait(0.004):
            exchanges = [finished() for _ in range(random.randint(1, 20))]
            self._writer.write(lines_of(exchanges))
            self.exchanges += exchanges
        self._writer.close()

    def stop(self) -> list[Exchange]:
        self._stop_asked.set()
        self.join()
        return self.exchanges


def test_killed_at_any_moment_it_neither_loses_nor_doubles_a_row(tmp_path):
    spool = Spool(spool_dir(tmp_path))
    producer = Producer(spool.path)
    producer.start()
    try:
        for _ in range(6):
            before = len(stored_ids())
            with process(tmp_path) as recorder:
                wait_for(lambda before=before: len(stored_ids()) > before)
                time.sleep(random.uniform(0, 0.3))  # any moment is what this test is about
                recorder.send_signal(signal.SIGKILL)
    finally:
        exchanges = producer.stop()
    with process(tmp_path) as recorder:
        wait_for(lambda: not list(spool.path.glob("*.ready")))
        recorder.terminate()
        assert recorder.wait() == 0
    found = stored_ids()
    assert len(found) == len(exchanges)
    assert set(found) == ids(exchanges)
    assert sums() == {len(exchanges)}


def test_a_row_is_in_the_database_within_two_seconds(spool):
    with recording(spool):
        writer = SegmentWriter(spool.path, "w1", max_bytes=1 << 30, segment_s=0.5, segment_bytes=1 << 20)
        watch = Stopwatch()
        writer.write(lines_of([finished()]))
        while writer.is_open:  # as the journal does
            time.sleep(0.2)
            writer.write(b"")
        wait_for(stored_ids)
        assert watch.s < 2


def test_segments_of_a_dead_writer_are_adopted_and_of_a_live_one_left_alone(spool):
    orphans, own = [finished(), finished()], [finished()]
    segment_write(spool.path, lines_of(orphans) + b"torn", suffix="open")
    writer = SegmentWriter(spool.path, "w2", max_bytes=1 << 30, segment_s=60, segment_bytes=1 << 20)
    writer.write(lines_of(own))
    with recording(spool):
        wait_for(lambda: set(stored_ids()) == ids(orphans))
        assert len(list(spool.path.glob("*.open"))) == 1
        writer.close()
        wait_for(lambda: set(stored_ids()) == ids(orphans + own))


def test_an_empty_open_segment_may_be_about_to_be_locked(spool):
    path = segment_write(spool.path, b"", suffix="open")
    spool.adopt()
    assert path.exists()
    os.utime(path, (0, 0))
    spool.adopt()
    assert path.with_suffix(".ready").exists()


def test_without_postgres_segments_wait_and_then_go_in(spool, monkeypatch, caplog):
    port = connection.settings_dict["PORT"]
    exchanges = [finished() for _ in range(10)]
    path = segment_write(spool.path, exchanges)
    monkeypatch.setitem(connection.settings_dict, "PORT", str(free_port()))
    with recording(spool):
        wait_for(lambda: "wait on disk" in caplog.text)
        wait_for(lambda: REGISTRY.get_sample_value("hydragate_usage_spool_bytes") == path.stat().st_size)
        assert path.exists()
        monkeypatch.setitem(connection.settings_dict, "PORT", port)
        wait_for(lambda: set(stored_ids()) == ids(exchanges))
    assert caplog.text.count("wait on disk") == 1


def test_postgres_dropping_the_connection_is_survived(spool):
    first, second = [finished()], [finished()]
    with recording(spool):
        segment_write(spool.path, first)
        wait_for(lambda: len(stored_ids()) == 1)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        segment_write(spool.path, second)
        wait_for(lambda: set(stored_ids()) == ids(first + second))


def test_one_recorder_for_a_spool(spool):
    with spool.taken(), pytest.raises(AlreadyRunning):
        Recorder(spool, "n1", 30).run(threading.Event())


def test_it_ships_once_more_when_it_is_stopped(spool):
    stop = threading.Event()
    stop.set()
    segment_write(spool.path, [finished()])
    Recorder(spool, "n1", 30).run(stop)
    assert len(stored_ids()) == 1


def test_two_nodes_add_to_the_same_rollups(tmp_path):
    spools = [Spool(tmp_path / name) for name in ("a", "b")]
    for spool in spools:
        spool.path.mkdir()
        for _ in range(30):
            segment_write(spool.path, [finished(route=None), finished(), finished()])
    with recording(spools[0]), recording(spools[1]):
        wait_for(lambda: len(stored_ids()) == 180)
    with connection.cursor() as cursor:
        cursor.execute("SELECT grain_s, sum(requests) FROM usage_traffic WHERE route_id = -1 GROUP BY 1")
        assert dict(cursor.fetchall()) == {60: 180, 3600: 180, 86_400: 180}
    assert sums() == {180}
