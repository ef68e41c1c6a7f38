from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.plugins.base import Plugin
from gateway.plugins.registry import ConfigProblems
from gateway.proxy.record import record_of
from tests.proxy.exchanges import finished

RECORDS = [record_of(finished(id=f"r{number}")) for number in range(3)]


@pytest.fixture
def log(make: Callable[..., Plugin], tmp_path: Path) -> Plugin:
    plugin = make("file-log", {"file": "orders.log"})
    plugin.resources = replace(plugin.resources, log_dir=tmp_path / "logs", node="gw-1")
    return plugin


def ids(file: Path) -> list[str]:
    return [json.loads(line)["request_id"] for line in file.read_text().splitlines()]


async def test_each_request_is_a_line(log: Plugin, tmp_path: Path) -> None:
    await log.batch(RECORDS[:2])  # type: ignore[misc]
    await log.batch(RECORDS[2:])  # type: ignore[misc]
    file = tmp_path / "logs" / "orders.log"
    assert ids(file) == ["r0", "r1", "r2"]
    said = json.loads(file.read_text().splitlines()[0])
    assert (said["node"], said["route"], said["consumer_id"]) == ("gw-1", "orders", 5)
    assert file.stat().st_mode & 0o777 == 0o640


async def test_a_file_that_was_moved_is_made_anew(log: Plugin, tmp_path: Path) -> None:
    file = tmp_path / "logs" / "orders.log"
    await log.batch(RECORDS[:1])  # type: ignore[misc]
    file.rename(file.with_suffix(".1"))
    await log.batch(RECORDS[1:])  # type: ignore[misc]
    assert (ids(file.with_suffix(".1")), ids(file)) == (["r0"], ["r1", "r2"])


async def test_a_link_is_not_followed(log: Plugin, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "orders.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"orders\.log"):
        await log.batch(RECORDS)  # type: ignore[misc]
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["", "../x", "/etc/x", ".hidden", "a/b", "a b", "x" * 101])
def test_only_a_name_is_a_file(registry, name: str) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("file-log", {"file": name})
