"""The access log on a real disk: whole lines from many writers, through rotation, a full disk and a moved file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from gateway.proxy.accesslog import AccessLog, common_line, json_line
from gateway.proxy.record import record_of
from tests.proxy.exchanges import finished
from tests.proxy.test_journal import disk_full_at
from tests.running import ROOT

AT_S = 1_790_000_040.25


def dropped() -> float:
    return REGISTRY.get_sample_value("hydragate_access_log_dropped_total") or 0


def test_a_line_of_json_has_the_words_of_a_usage_row() -> None:
    record = record_of(finished(at_s=AT_S, bytes_out=42))
    assert json_line(record, "n1").endswith("}\n")
    said = json.loads(json_line(record, "n1"))
    assert said.pop("request_id") == record.request_id
    assert said == {
        "at": "2026-09-21T14:14:00.250Z", "node": "n1", "path": "/orders/1", "config_version": 0, "method": "GET",
        "host": "api.example.com", "status": 200, "outcome": "ok", "client_ip": "192.0.2.1", "route": "orders",
        "target": "127.0.0.1:9000", "consumer_id": 5, "key_id": 11, "bytes_in": 0, "bytes_out": 42, "tries": 1,
        "duration_ms": 12.0, "gateway_ms": 0.5, "upstream_ms": 10.0,
    }  # fmt: skip


def test_no_query_and_no_line_break_comes_into_a_line() -> None:
    record = record_of(finished(at_s=AT_S, raw_path=b'/a"\\\n\xff?x'))
    for line in (json_line(record, "n1"), common_line(record, "n1")):
        assert "secret" not in line
        assert line.count("\n") == 1
    assert json.loads(json_line(record, "n1"))["path"] == '/a"\\\n\xff?x'


def test_the_common_log_format() -> None:
    exchange = finished(at_s=AT_S, bytes_out=42)
    assert common_line(record_of(exchange), "n1") == (
        '192.0.2.1 - 5 [21/Sep/2026:14:14:00 +0000] "GET /orders/1 HTTP/1.1" 200 42\n'
    )
    stranger = finished(at_s=AT_S, key_id=None, peer_ip="", client_ip="", status=404)
    assert common_line(record_of(stranger), "n1") == (
        '- - - [21/Sep/2026:14:14:00 +0000] "GET /orders/1 HTTP/1.1" 404 -\n'
    )


WRITER = """
import sys
from pathlib import Path
from gateway.proxy.accesslog import AccessLog
from gateway.proxy.record import record_of
from tests.proxy.exchanges import finished
log = AccessLog(Path(sys.argv[1]), "json", node=sys.argv[2], max_bytes=20_000, keep=100)
for number in range(200):
    log.fold([record_of(finished(detail=f"{number}-{part}")) for part in range(5)])
    while log._pending > 100:
        pass
log.close()
"""


def test_several_workers_share_one_file_and_rotate_it_without_losing_a_line(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    workers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), f"n{number}"], cwd=ROOT) for number in range(3)
    ]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    files = [file for file in tmp_path.iterdir() if not file.name.endswith(".lock")]
    assert len(files) > 10
    assert max(file.stat().st_size for file in files) <= 20_000 + 3 * 5 * 500  # three may append at the same moment
    said = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert {(row["node"], row["detail"]) for row in said} == {
        (f"n{worker}", f"{number}-{part}") for worker in range(3) for number in range(200) for part in range(5)
    }
    assert len(said) == 3000


def test_the_oldest_file_goes(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "a.log", "common", node="n1", max_bytes=100, keep=2)
    for number in range(6):
        log.fold([record_of(finished(status=200 + number, at_s=AT_S))])
    log.close()
    lines = {file.name: file.read_text().split('" ')[1][:3] for file in tmp_path.iterdir() if "lock" not in file.name}
    assert lines == {"a.log": "205", "a.log.1": "204", "a.log.2": "203"}


def test_a_file_that_was_moved_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    log = AccessLog(path, "common", node="n1")
    log.fold([record_of(finished())])
    while log._pending:
        pass
    os.rename(path, tmp_path / "moved")
    log.fold([record_of(finished())])
    log.close()
    assert [len(file.read_text().splitlines()) for file in (path, tmp_path / "moved")] == [1, 1]


def test_a_full_disk_drops_lines_says_so_once_and_harms_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = AccessLog(tmp_path / "a.log", "json", node="n1")
    before = dropped()
    with disk_full_at(0):
        for _ in range(3):
            log.fold([record_of(finished())])
        log.close()
    assert dropped() == before + 3
    assert [record.message for record in caplog.records] == [
        f"the access log cannot be written to {tmp_path}/a.log: [Errno 27] File too large"
    ]
