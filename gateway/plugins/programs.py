"""jq programs, in helper processes: a program may run without end, and nothing else could stop it.

    fault = programs.fault(".a | |")                                      what jq says of it; "": nothing
    async with kept.use(programs.KEY, Pool) as pool:
        text = await pool.run(".a", b'{"a": 1}', timeout_s=0.5, max_bytes=1000)

A worker has PROCESSES at most, started with the first request that needs one, and ended with the worker. One that takes
too long is killed, and the next call starts another. What a helper can reach: `gateway.plugins.jq_helper`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import struct
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from gateway.plugins import jq_helper
from gateway.plugins.jq_helper import ANSWER, ASK, CHECK

KEY = "jq"
PROCESSES = 2  # of a worker; machines have a worker for each core
MAX_WAITING = 64  # requests of a worker that wait for one; what comes then is refused
MEMORY_BYTES = 512 << 20  # of a helper, at most
ALARM_MS = 50  # later than the worker, which kills it first, if it is still there
CHECK_S = 5.0
LONGEST_MESSAGE = 1_000


class Refused(ValueError):
    """A sentence: the program says no to this body, or it is no JSON."""


class Unavailable(Exception):
    """A sentence: it was not found out, for want of time, memory or a place in the queue."""


class Pool:
    """One per worker, for all programs."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(PROCESSES)
        self._waiting = 0
        self._idle: list[_Helper] = []
        self._ending: set[asyncio.Task[int]] = set()

    async def run(self, program: str, body: bytes, timeout_s: float, max_bytes: int) -> bytes:
        """The one value that comes of it, as JSON. Raises Refused, Unavailable. `timeout_s`: with all waiting."""
        if self._waiting >= MAX_WAITING:
            raise Unavailable(f"{MAX_WAITING} requests wait for jq already.")
        try:
            async with asyncio.timeout(timeout_s):
                self._waiting += 1
                try:
                    await self._free.acquire()
                finally:
                    self._waiting -= 1
                try:
                    letter, said = await self._asked(program, body, timeout_s, max_bytes)
                finally:
                    self._free.release()
        except TimeoutError:
            raise Unavailable(f"jq was not done within {timeout_s * 1000:.0f} ms.") from None
        except (OSError, EOFError) as error:
            raise Unavailable("The process of jq has ended: the program wanted too much memory, or time.") from error
        return _value(letter, said, max_bytes)

    async def _asked(self, program: str, body: bytes, timeout_s: float, max_bytes: int) -> tuple[bytes, bytes]:
        helper, well = self._idle.pop() if self._idle else _Helper(), False
        try:
            answer = await helper.ask(program, body, timeout_s, max_bytes)
            well = True
            return answer
        finally:
            if well:
                self._idle.append(helper)
            else:
                self._end(helper)

    def _end(self, helper: _Helper) -> None:
        helper.kill()
        task = asyncio.get_running_loop().create_task(asyncio.to_thread(helper.process.wait))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def aclose(self) -> None:
        while self._idle:
            self._end(self._idle.pop())
        await asyncio.gather(*self._ending)


class _Helper:
    """The process starts with the object, which takes about a millisecond."""

    def __init__(self) -> None:
        self.process, self._sock = _started()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, program: str, body: bytes, timeout_s: float, max_bytes: int) -> tuple[bytes, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_unix_connection(sock=self._sock)
        reader, writer = self._streams
        writer.write(_frame(program, body, len(body), timeout_s, max_bytes))
        writer.write(body)
        await writer.drain()
        letter, size = ANSWER.unpack(await reader.readexactly(ANSWER.size))
        return letter, await reader.readexactly(size)

    def kill(self) -> None:
        self.process.kill()
        if self._streams is None:
            self._sock.close()
        else:
            self._streams[1].transport.abort()


@lru_cache(maxsize=1024)
def fault(program: str) -> str:
    """What is wrong with it, in jq's words; empty: nothing. Takes 30 ms the first time; not for the event loop."""
    process, sock = _started()
    try:
        sock.settimeout(CHECK_S)
        sock.sendall(_frame(program, b"", CHECK, CHECK_S, LONGEST_MESSAGE))
        with sock.makefile("rb") as answers:
            letter, size = ANSWER.unpack(answers.read(ANSWER.size))
            said = answers.read(size).decode(errors="replace")
    except (OSError, ValueError, struct.error):
        return f"jq was not done with this program within {CHECK_S:.0f} s, or it is too large for it."
    finally:
        process.kill()
        process.wait()
        sock.close()
    lines = [line.strip() for line in said.splitlines() if line.startswith("jq: error")]
    return "" if letter == b"o" else " ".join(lines) or said or "jq cannot compile this."


def _started() -> tuple[subprocess.Popen[bytes], socket.socket]:
    library = importlib.util.find_spec("jq")
    if library is None or library.origin is None:
        raise FileNotFoundError("The package jq is not installed here.")
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-I", "-S", jq_helper.__file__, str(Path(library.origin).parent), str(MEMORY_BYTES)]
        process = subprocess.Popen(
            command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={},
            start_new_session=True,
        )  # fmt: skip
    ours.setblocking(False)
    return process, ours


def _frame(program: str, body: bytes, size: int, timeout_s: float, max_bytes: int) -> bytes:
    text = program.encode()
    time_ms = int(timeout_s * 1000) + ALARM_MS
    return ASK.pack(time_ms, max(max_bytes, LONGEST_MESSAGE), len(text), size) + text


def _value(letter: bytes, said: bytes, max_bytes: int) -> bytes:
    if letter == b"o" and len(said) <= max_bytes:
        return said
    if letter in b"ol":
        raise Unavailable(f"What jq has made is larger than {max_bytes} bytes.")
    text = said.decode(errors="replace")[:LONGEST_MESSAGE]
    if letter == b"u":
        raise Refused(f"It is no valid JSON: {text}.")
    raise Refused(f"The jq program gives {text}, not one." if letter == b"n" else f"jq: {text}.")
