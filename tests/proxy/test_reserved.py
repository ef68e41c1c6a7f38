"""Counters when the disk has no room: they count on, and readers find nothing they cannot read."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.proxy.reserved import FIRST_BYTES, ReservedDict


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """EFBIG instead of ENOSPC, from the same calls."""
    before, earlier = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, earlier)


def count(counters: ReservedDict, names: range) -> None:
    for number in names:
        key = f"counter-{number}"
        counters.write_value(key, counters.read_value(key)[0] + 1, 0.0)


def kept(path: Path) -> dict[str, float]:
    return {key.strip(): value for key, value, *_ in ReservedDict.read_all_values_from_file(path)}


def test_what_it_will_use_is_reserved(tmp_path: Path) -> None:
    path = tmp_path / "counter.db"
    counters = ReservedDict(str(path))
    count(counters, range(5000))
    assert path.stat().st_blocks * 512 >= path.stat().st_size > FIRST_BYTES
    assert kept(path) == {f"counter-{number}": 1.0 for number in range(5000)}
    counters.close()
    again = ReservedDict(str(path))
    assert again.read_value("counter-7") == (1.0, 0.0)
    again.close()


def test_without_room_to_begin_it_counts_in_memory_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "counter.db"
    with files_up_to(4096):
        counters = ReservedDict(str(path))
        count(counters, range(3000))
        count(counters, range(3000))
    assert counters.read_value("counter-2999") == (2.0, 0.0)
    assert not path.exists()
    counters.close()


def test_without_room_to_grow_it_keeps_what_it_counted(tmp_path: Path) -> None:
    path = tmp_path / "counter.db"
    counters = ReservedDict(str(path))
    count(counters, range(100))
    with files_up_to(FIRST_BYTES):
        count(counters, range(5000))
    assert counters.read_value("counter-0") == (2.0, 0.0)
    assert counters.read_value("counter-4999") == (1.0, 0.0)
    assert kept(path)["counter-0"] == 2.0  # as far as the file goes, others can read it
    counters.close()
