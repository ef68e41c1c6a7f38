"""jq in real processes: what they give, what they cannot reach, and that none stays."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.plugins import programs
from gateway.plugins.programs import MAX_WAITING, PROCESSES, Pool, Refused, Unavailable
from tests.running import ROOT, alive, descendants, wait_for

ENDLESS = "def f: f; f"


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool()
    yield pool
    await pool.aclose()
    assert helpers() == []


def helpers(of: int = 0) -> list[int]:
    return [
        pid for pid in descendants(of or os.getpid()) if b"jq_helper.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


async def run(
    pool: Pool, program: str, body: bytes = b'{"a": 1}', timeout_s: float = 5, most: int = 1_000_000
) -> bytes:
    return await pool.run(program, body, timeout_s, most)


@pytest.mark.parametrize(
    ("program", "body", "after"),
    [
        (".", b'{"a": 1}', {"a": 1}), ("{b: .a}", b'{"a": [1, 2]}', {"b": [1, 2]}), (".a | add", b'{"a": [1, 2]}', 3),
        ('"\\n\\(.a)"', b'{"a": "x\\ny"}', "\nx\ny"), (".", '"ü€😀"'.encode(), "ü€😀"), (".", b"\xef\xbb\xbf1", 1),
        ("[.[] | select(. > 1)]", b"[1, 2, 3]", [2, 3]), (".a", b"{}", None), (".", b"0.1", 0.1),
    ],
)  # fmt: skip
async def test_what_a_program_makes(pool: Pool, program: str, body: bytes, after: object) -> None:
    assert json.loads(await run(pool, program, body)) == after


@pytest.mark.parametrize("body", [b"{", b"", b"NaN", b"[1] [2]", b"\xff", b"'a'", b"1e999", b"[" * 100_000, b"// c\n1"])
async def test_what_is_no_json_is_refused(pool: Pool, body: bytes) -> None:
    with pytest.raises(Refused, match="valid JSON"):
        await run(pool, ".", body)
    assert await run(pool, ".a") == b"1"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (".a.b", "Cannot index number"), ('error("no")', "jq: no"), ("empty", "no value"), (".a, .a", "several values"),
        ("halt", "no value"), ("halt_error", "no value"), ("input", "break"), (". | |", "syntax error"),
    ],
)  # fmt: skip
async def test_a_program_that_does_not_take_a_body_says_why(pool: Pool, program: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        await run(pool, program)
    assert await run(pool, ".a") == b"1"


# --- what hurts nobody


@pytest.mark.parametrize("program", [ENDLESS, "[range(infinite)]", "repeat(1)", "[limit(1e9; repeat(1))] | length"])
async def test_a_program_without_end_is_ended_and_the_next_is_not_hurt(pool: Pool, program: str) -> None:
    begun_s = time.monotonic()
    with pytest.raises(Unavailable):
        await run(pool, program, timeout_s=0.3)
    assert time.monotonic() - begun_s < 3
    assert await run(pool, ".a") == b"1"


async def test_what_is_too_large_is_left_with_the_helper(pool: Pool) -> None:
    with pytest.raises(Unavailable, match="larger than 2000 bytes"):
        await run(pool, '"x" * 3000', most=2000)
    with pytest.raises(Unavailable, match="larger than 10 bytes"):
        await run(pool, '"x" * 30', most=10)
    assert len(await run(pool, '"x" * 900000')) == 900_002
    [helper] = helpers()
    assert await run(pool, "[range(200000)] | length", b"[" + b"1," * 300_000 + b"1]") == b"200000"
    assert helpers() == [helper]


async def test_memory_is_bounded(pool: Pool) -> None:
    with pytest.raises(Unavailable, match="memory"):
        await run(pool, '"x" * 1e9 | length', timeout_s=20)
    assert await run(pool, ".a") == b"1"


@pytest.mark.parametrize(
    ("program", "after"),
    [
        ("env", {}),
        ("$ENV", {}),
        ("env.PATH", None),
        ("input_filename", None),
        ("[inputs]", []),
        ("now | type", "number"),
    ],
)
async def test_there_is_nothing_to_be_seen(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, program: str, after: object
) -> None:
    monkeypatch.setenv("SECRET_KEY", "s")
    assert json.loads(await run(pool, program)) == after


@pytest.mark.parametrize(
    "program",
    [
        'import "known" as $f {{search: "{0}"}}; $f', 'include "known" {{search: "{0}"}}; f',
        'import "known" as k {{search: "{0}"}}; k::f',
    ],
)  # fmt: skip
async def test_no_file_can_be_read(pool: Pool, tmp_path: Path, program: str) -> None:
    (tmp_path / "known.json").write_text('{"secret": 1}')
    (tmp_path / "known.jq").write_text("def f: 1;")
    program = program.format(tmp_path)
    assert programs.fault(program)
    with pytest.raises(Refused) as caught:
        await run(pool, program)
    assert "secret" not in str(caught.value)


async def test_processes_are_few_and_the_queue_is_bounded(pool: Pool) -> None:
    calls = [asyncio.create_task(run(pool, ENDLESS, timeout_s=0.5)) for _ in range(PROCESSES + MAX_WAITING)]
    await asyncio.sleep(0)
    await asyncio.to_thread(wait_for, lambda: len(helpers()) == PROCESSES)
    with pytest.raises(Unavailable, match="wait for jq already"):
        await run(pool, ".a")
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(end, Unavailable) for end in ends)
    assert await run(pool, ".a") == b"1"


async def test_a_request_that_is_given_up_leaves_no_process_busy(pool: Pool) -> None:
    call = asyncio.create_task(run(pool, ENDLESS, timeout_s=60))
    [helper] = await asyncio.to_thread(wait_for, helpers)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await asyncio.to_thread(wait_for, lambda: not alive(helper))


async def test_calls_share_processes(pool: Pool) -> None:
    answers = await asyncio.gather(*(run(pool, ".a", json.dumps({"a": number}).encode()) for number in range(50)))
    assert answers == [str(number).encode() for number in range(50)]
    assert len(helpers()) == PROCESSES


WORKER = """
import asyncio, sys
from gateway.plugins.programs import Pool
async def main():
    pool = Pool()
    await pool.run(".", b"1", 5, 100)
    call = asyncio.create_task(pool.run(sys.argv[1], b"1", 1, 100)) if sys.argv[1] else None
    await asyncio.sleep(0.05)
    print("ready", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("program", ["", ENDLESS])
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_with_the_worker_its_helpers_end_however_it_ends(program: str, by: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", WORKER, program], cwd=ROOT, stdout=subprocess.PIPE) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"ready\n"
            [helper] = helpers(worker.pid)
        finally:
            worker.send_signal(by)
    wait_for(lambda: not alive(helper), 5)


# --- programs


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (".a | |", "syntax error, unexpected '|'"), ("foo", "foo/0 is not defined"), ("{", "syntax error"),
        ("." + "[." * 6000 + "]" * 6000, "jq"),
    ],
)  # fmt: skip
def test_a_bad_program_is_told_in_jqs_words(program: str, said: str) -> None:
    fault = programs.fault(program)
    assert said in fault
    assert "\n" not in fault


def test_a_good_one_has_no_fault_and_is_not_run() -> None:
    assert programs.fault(".a") == ""
    assert programs.fault(ENDLESS) == ""
    assert helpers() == []
