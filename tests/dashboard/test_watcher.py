"""The watcher on real sockets: what is in the document on disk is probed, and what is found is told."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from dashboard.recorder import Recorder
from dashboard.watcher import Watcher
from gateway.proxy.board import Board
from gateway.proxy.sightings import Report
from routes.health import Healths
from routes.kept import keep
from routes.models import Target, TargetReport, Upstream
from tests.running import free_port, wait_for

PROBE = {"probe": "tcp", "probe_interval_ms": 100, "probe_healthy_after": 1, "probe_unhealthy_after": 1}


@contextmanager
def watching(data_dir: Path) -> Iterator[Watcher]:
    watcher = Watcher(data_dir)
    watcher.start()
    try:
        yield watcher
    finally:
        watcher.stop()
        assert not watcher.is_alive()


@contextmanager
def listening(port: int) -> Iterator[None]:
    """In a loop of its own, as the test itself has none."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


def configure(data_dir: Path, *ports: int, **fields: Any) -> None:
    targets = [{"host": "127.0.0.1", "port": port} for port in ports]
    document = {"format": 1, "upstreams": [{"name": "users", "targets": targets, **fields}], "plugins": [{"name": "?"}]}
    keep(data_dir, document, 1, "digest")


def states(watcher: Watcher) -> dict[str, str]:
    return {one.address: one.state for one in watcher.sightings}


def gauge(port: int) -> float | None:
    labels = {"upstream": "users", "target": f"127.0.0.1:{port}"}
    return REGISTRY.get_sample_value("hydragate_upstream_target_up", labels)


def test_targets_are_watched_from_the_document_on_disk(tmp_path):
    port, address = (found := free_port()), f"127.0.0.1:{found}"
    with watching(tmp_path) as watcher:
        configure(tmp_path, port, **PROBE)
        wait_for(lambda: states(watcher) == {address: "down"})
        wait_for(lambda: gauge(port) == 0)
        assert not Board(tmp_path).probes()["users", address].up
        with listening(port):
            wait_for(lambda: states(watcher) == {address: "up"})
            wait_for(lambda: gauge(port) == 1)
        wait_for(lambda: states(watcher) == {address: "down"})
        configure(tmp_path, port, port + 1)  # no more probes: nobody says that it is down
        wait_for(lambda: states(watcher) == {address: "up", f"127.0.0.1:{port + 1}": "up"})
        configure(tmp_path, port + 1)
        wait_for(lambda: (gone := gauge(port)) is not None and gone != gone)


def test_one_that_starts_again_begins_with_what_was_known(tmp_path):
    configure(tmp_path, port := free_port(), **PROBE)
    with watching(tmp_path) as watcher:
        wait_for(lambda: states(watcher) == {f"127.0.0.1:{port}": "down"})
    configure(tmp_path, port, **{**PROBE, "probe_interval_ms": 3_600_000})
    with watching(tmp_path) as watcher:
        wait_for(lambda: watcher.sightings)
        assert watcher.sightings[0].state == "down"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"document": 1}'])
def test_a_document_that_cannot_be_read_changes_nothing(tmp_path, text):
    configure(tmp_path, free_port())
    with watching(tmp_path) as watcher:
        wait_for(lambda: watcher.sightings)
        before = watcher.sightings
        (tmp_path / "config" / "live.json").write_text(text)
        wait_for(lambda: watcher.sightings is not before)
        assert watcher.sightings == before
        configure(tmp_path, 1, 2)
        wait_for(lambda: len(watcher.sightings) == 2)


@pytest.mark.usefixtures("committed")
def test_the_recorder_tells_what_workers_and_probes_see(tmp_path, spool):
    upstream = Upstream.objects.create(name="users")
    target = Target.objects.create(upstream=upstream, host="127.0.0.1", port=free_port())
    configure(tmp_path, target.port)
    board = Board(tmp_path)
    report = Report("users", str(target), 3, 12.5, 5, True, 1000.0)
    stop = threading.Event()
    recorder = threading.Thread(target=Recorder(spool, "n1", 30, Watcher(tmp_path)).run, args=[stop])
    recorder.start()
    try:

        def seen() -> bool:
            board.post_reports(1, [report])
            found = Healths().of(upstream, target)
            return (found.state, found.failures, found.in_flight, found.latency_ms) == ("ejected", 5, 3, 12.5)

        wait_for(seen)
        assert TargetReport.objects.get().node == "n1"
    finally:
        stop.set()
        recorder.join()
    assert os.listdir(tmp_path / "health")
