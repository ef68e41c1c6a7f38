"""The journal on a real disk: nothing lost that was written, nothing raised when it cannot be, no secret in a line."""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from gateway.proxy import journal as journal_module
from gateway.proxy.journal import COLUMNS, Journal, line
from gateway.proxy.record import record_of
from gateway.proxy.segments import SegmentWriter
from tests.proxy.exchanges import finished, ids
from tests.running import ROOT, wait_for

MEGABYTE = 1 << 20


def writer(spool: Path, *, max_bytes: int = MEGABYTE, segment_s: float = 60, segment_bytes: int = MEGABYTE):
    return SegmentWriter(spool, "w1", max_bytes=max_bytes, segment_s=segment_s, segment_bytes=segment_bytes)


def journal(spool: Path, **options) -> Journal:
    return Journal(spool, "w1", **({"node": "n1", "max_bytes": MEGABYTE, "flush_s": 0.01} | options))


def rows(spool: Path, suffix: str = "*") -> list[list[str]]:
    lines = [text for path in sorted(spool.glob(f"*.{suffix}")) for text in path.read_text().split("\n")[:-1]]
    return [text.split("\t") for text in lines]


def written(spool: Path, suffix: str = "*") -> set[str]:
    return {row[COLUMNS.index("request_id")] for row in rows(spool, suffix)}


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def dropped(reason: str) -> float:
    return REGISTRY.get_sample_value("hydragate_usage_dropped_total", {"reason": reason}) or 0


@contextmanager
def disk_full_at(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size`: a short write, then an error, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_every_request_is_on_disk_soon_and_ready_after_close(tmp_path):
    exchanges = [finished() for _ in range(500)]
    subject = journal(tmp_path / "spool", segment_s=60)
    await subject.start()
    for exchange in exchanges:
        subject.append(exchange)
    await until(lambda: written(tmp_path / "spool", "open") == ids(exchanges))
    late = finished()
    subject.append(late)
    await subject.aclose()
    assert written(tmp_path / "spool", "ready") == ids([*exchanges, late])
    assert not list((tmp_path / "spool").glob("*.open"))


async def test_a_segment_becomes_ready_by_itself(tmp_path):
    subject = journal(tmp_path, segment_s=0.05)
    await subject.start()
    subject.append(finished())
    await until(lambda: rows(tmp_path, "ready"))
    await subject.aclose()


def test_a_segment_is_handed_over_when_it_is_large(tmp_path):
    subject = writer(tmp_path, segment_bytes=10)
    subject.write(b"123456789\n")
    assert not subject.is_open
    assert len(list(tmp_path.glob("*.ready"))) == 1


def test_a_row_says_what_happened():
    exchange = finished(duration_ms=12, upstream_ms=10, at_s=1_795_346_837.25, client_ip="2001:db8::1%eth0", bytes_in=4)
    row = dict(zip(COLUMNS, line(record_of(exchange), "n1\tw1").rstrip("\n").split("\t"), strict=True))
    assert row == {
        "at": "2026-11-22 11:27:17.250000+00", "request_id": exchange.id, "node": "n1", "worker": "w1",
        "config_version": "0", "method": "GET", "host": "api.example.com", "path": "/orders/1", "status": "200",
        "outcome": "ok", "detail": "", "client_ip": "2001:db8::1", "route_id": "3", "upstream_id": "7",
        "target": "127.0.0.1:9000", "consumer_id": "5", "key_id": "11", "duration_ms": "12.000", "gateway_ms": "0.500",
        "upstream_ms": "10.000", "bytes_in": "4", "bytes_out": "0", "tries": "1", "cache_status": "",
    }  # fmt: skip


def test_what_never_happened_is_null():
    exchange = finished(route=None, upstream_ms=None, key_id=None, client_ip="", duration_ms=3)
    row = dict(zip(COLUMNS, line(record_of(exchange), "n1\tw1").rstrip("\n").split("\t"), strict=True))
    nulls = {name for name, value in row.items() if value == "\\N"}
    assert nulls == {"route_id", "upstream_id", "consumer_id", "key_id", "client_ip", "upstream_ms"}
    assert row["gateway_ms"] == row["duration_ms"] == "3.000"


def test_an_upstream_that_never_answered_was_waited_for_to_the_end():
    record = record_of(finished(duration_ms=1000, upstream_head_s=0.0))
    assert record.upstream_ms == pytest.approx(999.5)


def test_no_query_string_and_no_credential_in_a_line():
    exchange = finished(headers=[(b"apikey", b"secret")])
    text = line(record_of(exchange), "n1\tw1")
    assert "secret" not in text
    assert "hg_live" not in text


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/a\tb", "/a\\tb"),
        (b"/a\nb\r", "/a\\nb\\r"),
        (b"/a\\N", "/a\\\\N"),
        (b"/a\0b", "/ab"),
        (b"/\xff\xfe", "/\ufffd\ufffd"),
        ("/ü".encode(), "/ü"),
        (b"/" + b"x" * 5000, "/" + "x" * 2046 + "…"),
    ],
)
def test_paths_are_escaped_for_copy(path, expected):
    row = line(record_of(finished(raw_path=path)), "n1\tw1").rstrip("\n").split("\t")
    assert row[COLUMNS.index("path")] == expected


def test_lone_surrogates_do_not_stop_a_batch():
    line(record_of(finished(host="a\udcffb")), "n1\tw1").encode()


async def test_a_record_that_cannot_be_written_goes_alone(tmp_path, caplog):
    before = dropped("malformed")
    good = [finished() for _ in range(3)]
    subject = journal(tmp_path)
    await subject.start()
    for exchange in (good[0], finished(raw_path=None), *good[1:]):
        subject.append(exchange)
    await subject.aclose()
    assert written(tmp_path) == ids(good)
    assert dropped("malformed") == before + 1


async def test_a_watcher_sees_every_record_and_may_fail(tmp_path, caplog):
    seen: list[str] = []

    def watch(batch):
        seen.extend(record.request_id for record in batch)
        raise RuntimeError("a chart broke")

    exchanges = [finished() for _ in range(200)]
    subject = journal(tmp_path, on_batch=watch)
    await subject.start()
    for exchange in exchanges:
        subject.append(exchange)
    await subject.aclose()
    assert set(seen) == written(tmp_path) == ids(exchanges)
    assert len(seen) == 200


async def test_records_waiting_for_a_hung_disk_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "WAITING_MAX", 3)
    before = dropped("disk_slow")
    subject = journal(tmp_path, flush_s=60)
    await subject.start()
    exchanges = [finished() for _ in range(5)]
    for exchange in exchanges:
        subject.append(exchange)
    await subject.aclose()
    assert written(tmp_path) == ids(exchanges[:3])
    assert dropped("disk_slow") == before + 2


def test_a_full_spool_drops_new_rows_and_keeps_the_old(tmp_path, caplog):
    before = dropped("spool_full")
    old = tmp_path / "0000000000001-w0-00000000000000000000000000000000.ready"
    old.write_bytes(b"x" * 90)
    subject = writer(tmp_path, max_bytes=100)
    subject.write(b"12345\n")
    subject.write(b"123456789\n123456789\n")
    subject.write(b"123456789\n")
    assert dropped("spool_full") == before + 3
    assert old.stat().st_size == 90
    assert [record.levelname for record in caplog.records] == ["ERROR"]  # once
    subject.close()


def test_a_full_disk_keeps_whole_lines_and_counts_the_rest(tmp_path, caplog):
    before = dropped("disk_error")
    subject = writer(tmp_path)
    with disk_full_at(26):
        subject.write(b"row one 4\n" * 1)
        subject.write(b"row two 4\nrow three\nrow four \n")
    subject.write(b"row five \n")
    subject.close()
    segments = sorted(tmp_path.glob("*.ready"), key=lambda path: path.stat().st_mtime_ns)
    assert [path.read_bytes() for path in segments] == [b"row one 4\nrow two 4\n", b"row five \n"]
    assert dropped("disk_error") == before + 2


async def test_a_spool_that_cannot_be_made_harms_no_request(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    before = dropped("disk_error")
    subject = journal(tmp_path / "file" / "spool")
    await subject.start()
    for _ in range(3):
        subject.append(finished())
    await subject.aclose()
    assert dropped("disk_error") == before + 3


WORKER = """
import asyncio, sys
from pathlib import Path
from gateway.proxy.journal import Journal
from tests.proxy.exchanges import finished

async def main():
    journal = Journal(Path(sys.argv[1]), "w1", node="n1", max_bytes=1 << 30, flush_s=0.01, segment_s=60)
    await journal.start()
    while True:
        for _ in range(20):
            journal.append(finished())
        await asyncio.sleep(0.001)

asyncio.run(main())
"""


def test_a_killed_worker_leaves_whole_lines_and_a_free_lock(tmp_path):
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], cwd=ROOT)
    try:
        wait_for(lambda: len(rows(tmp_path, "open")) > 1000)
        (segment,) = tmp_path.glob("*.open")
        assert not lock_is_free(segment)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    assert lock_is_free(segment)
    assert segment.read_bytes().endswith(b"\n")
    assert {len(row) for row in rows(tmp_path)} == {len(COLUMNS)}


def lock_is_free(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(fd)
