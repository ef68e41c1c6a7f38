"""The daphne worker as a process of its own: HTTP, WebSockets, signals, with and without uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.server.limits import Limits
from tests.server.front import DEADLINE_S, Client

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
UPGRADE = (
    b"Host: a.test\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
TEXT, BINARY, CLOSE = 1, 2, 8


@dataclass
class Worker:
    process: asyncio.subprocess.Process
    address: Any
    clients: list[Client] = field(default_factory=list)

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            return (await self.process.stdout.readline()).decode().strip()

    async def connect(self) -> Client:
        if isinstance(self.address, str):
            self.clients.append(Client(*await asyncio.open_unix_connection(self.address)))
        else:
            self.clients.append(Client(*await asyncio.open_connection(*self.address)))
        return self.clients[-1]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        async with asyncio.timeout(DEADLINE_S):
            return await self.process.wait()


@asynccontextmanager
async def started(uvloop: str, drain_timeout_s: float, sock: socket.socket | None = None) -> AsyncIterator[Worker]:
    with sock or socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.server.worker", str(listening.fileno()), str(drain_timeout_s)),
            pass_fds=[listening.fileno()],
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "GATEWAY_UVLOOP": uvloop},
        )
        running = Worker(process, listening.getsockname())
    try:
        assert await running.line() == "start"
        yield running
    finally:
        for client in running.clients:
            client.abort()
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture(params=["on", "off"], ids=["uvloop", "asyncio"])
async def worker(request: pytest.FixtureRequest) -> AsyncIterator[Worker]:
    async with started(request.param, request.node.callspec.params.get("drain_timeout_s", 10)) as running:
        yield running


def frame(opcode: int, payload: bytes = b"") -> bytes:
    """A whole short frame, masked with zeros."""
    return struct.pack("!BB4x", 0x80 | opcode, 0x80 | len(payload)) + payload


async def read_frame(client: Client) -> tuple[int, bytes]:
    async with asyncio.timeout(DEADLINE_S):
        first, length = await client.reader.readexactly(2)
        if length == 126:
            (length,) = struct.unpack("!H", await client.reader.readexactly(2))
        return first & 15, await client.reader.readexactly(length)


async def open_websocket(worker: Worker, target: bytes = b"/ws", extra: bytes = b"", early: bytes = b"") -> Any:
    client = await worker.connect()
    await client.send(b"GET " + target + b" HTTP/1.1\r\n" + UPGRADE + extra + b"\r\n" + early)
    async with asyncio.timeout(DEADLINE_S):
        head = await client.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    opcode, seen = await read_frame(client)
    assert opcode == TEXT
    return client, json.loads(seen)


async def test_http_on_daphnes_loop(worker: Worker, request: pytest.FixtureRequest) -> None:
    client = await worker.connect()
    answer = await client.ask(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc")
    assert answer.body == b"got abc"
    assert answer["x-loop"].startswith("uvloop" if "uvloop" in request.node.name else "asyncio")
    assert (await client.ask(GET)).status == 200
    assert (await (await worker.connect()).ask(b"GET / HTTP/1.1\r\n\r\n")).status == 400
    assert await worker.line() == "refused bad_request"


async def test_websocket_is_handed_to_daphne(worker: Worker) -> None:
    extra = b"Daphne-Root-Path: /evil\r\nX-A: 1\r\nX-A: 2\r\nSec-WebSocket-Protocol: b, c\r\n"
    client, seen = await open_websocket(worker, b"//ws/%C3%A4;x?q=1", extra, frame(TEXT, b"early"))
    assert (seen["path"], seen["raw_path"], seen["query_string"]) == ("//ws/ä;x", "//ws/%C3%A4;x", "q=1")
    assert (seen["root_path"], seen["scheme"], seen["subprotocols"]) == ("", "ws", ["b", "c"])
    assert seen["client"] == list(client.writer.get_extra_info("sockname"))
    assert [value for name, value in seen["headers"] if name == "x-a"] == ["1", "2"]
    assert await read_frame(client) == (TEXT, b"early")
    for opcode, payload in [(TEXT, b"a"), (BINARY, b"\x00\xff"), (TEXT, b""), (BINARY, b"")]:
        await client.send(frame(opcode, payload))
        assert await read_frame(client) == (opcode, payload)
    await client.send(frame(CLOSE, struct.pack("!H", 1000)))
    assert await worker.line() == "websocket closed 1000"
    assert (await (await worker.connect()).ask(GET)).status == 200


async def test_websockets_that_fail_leave_the_worker_well(worker: Worker) -> None:
    for target, extra, status in [(b"/refused", b"", 403), (b"/ws", b"Sec-WebSocket-Key: again\r\n", 400)]:
        client = await worker.connect()
        await client.send(b"GET " + target + b" HTTP/1.1\r\n" + UPGRADE + extra + b"\r\n")
        async with asyncio.timeout(DEADLINE_S):
            assert (await client.reader.readline()).split()[1] == b"%d" % status
    client = await worker.connect()
    await client.send(b"GET /broken HTTP/1.1\r\n" + UPGRADE + b"\r\n")
    async with asyncio.timeout(DEADLINE_S):
        assert (await client.reader.readuntil(b"\r\n\r\n")).split()[1] == b"101"
    assert await read_frame(client) == (CLOSE, struct.pack("!H", 1011))
    client, _ = await open_websocket(worker)
    await client.send(frame(TEXT, b"still here"))
    assert await read_frame(client) == (TEXT, b"still here")


async def test_sigterm_answers_what_is_under_way_then_ends(worker: Worker) -> None:
    slow, idle = await worker.connect(), await worker.connect()
    await idle.ask(GET)
    websocket, _ = await open_websocket(worker)
    await slow.send(b"GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert await worker.line() == "slow"
    worker.signal(signal.SIGHUP)  # ignored
    worker.signal(signal.SIGTERM)
    assert await worker.line() == "drain"
    assert await read_frame(websocket) == (CLOSE, struct.pack("!H", 1001))
    await websocket.send(frame(CLOSE, struct.pack("!H", 1001)))
    assert await worker.line() == "websocket closed 1001"
    assert await idle.rest() == b""
    with pytest.raises(ConnectionError):
        await worker.connect()
    answer = await slow.answer()
    assert (answer.status, answer["connection"]) == (200, "close")
    slow.writer.close()
    assert [await worker.line(), await worker.line()] == ["stop", "end 0 0"]
    assert await worker.ended() == 0


async def test_a_handshake_under_way_is_told_to_end_as_soon_as_it_is_over(worker: Worker) -> None:
    client = await worker.connect()
    await client.send(b"GET /late HTTP/1.1\r\n" + UPGRADE + b"\r\n")
    assert await worker.line() == "late"
    worker.signal(signal.SIGTERM)
    assert await worker.line() == "drain"
    async with asyncio.timeout(DEADLINE_S):
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    assert await read_frame(client) == (CLOSE, struct.pack("!H", 1001))
    await client.send(frame(CLOSE, struct.pack("!H", 1001)))
    assert [await worker.line() for _ in range(2)] == ["websocket closed 1001", "stop"]
    assert await worker.ended() == 0


@pytest.mark.parametrize(
    ("limits", "status"), [({"max_connections_per_address": 2}, 429), ({"max_connections": 2}, 503)]
)
async def test_a_websocket_counts_as_the_connection_it_was(
    monkeypatch: pytest.MonkeyPatch, limits: dict[str, int], status: int
) -> None:
    monkeypatch.setenv("LIMITS", json.dumps(limits | {"linger_timeout_s": 0.05, "sweep_s": 0.02}))
    async with started("on", 10) as running:
        first, _ = await open_websocket(running)
        second, _ = await open_websocket(running)
        assert (await (await running.connect()).answer()).status == status
        await first.send(frame(CLOSE, struct.pack("!H", 1000)))
        assert await read_frame(first) == (CLOSE, struct.pack("!H", 1000))
        second.abort()
        for _ in range(3):  # one that is refused gives its place back, too
            await _until_there_is_room(running)


async def _until_there_is_room(worker: Worker) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            client = await worker.connect()
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await client.send(b"GET /refused HTTP/1.1\r\n" + UPGRADE + b"\r\n")
                if (await client.answer()).status == 403:
                    return


@pytest.mark.parametrize("drain_timeout_s", [0.2, 60])
async def test_a_drain_ends_by_its_limit_or_a_second_signal(worker: Worker, drain_timeout_s: float) -> None:
    stuck = await worker.connect()
    await stuck.send(b"GET /stuck HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert await worker.line() == "stuck"
    worker.signal(signal.SIGINT)
    assert await worker.line() == "drain"
    if drain_timeout_s == 60:
        worker.signal(signal.SIGTERM)
    assert [await worker.line(), await worker.line()] == ["stop", "end 0 0"]
    assert await worker.ended() == 0
    assert await stuck.rest() == b""


async def test_a_start_that_hangs_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEVER_STARTS", "1")
    async with started("on", 10) as hanging:
        hanging.signal(signal.SIGTERM)
        assert [await hanging.line(), await hanging.line()] == ["stop", "end 0 0"]
        assert await hanging.ended() == 0


@pytest.mark.parametrize("uvloop", ["on", "off"])
async def test_a_websocket_on_a_unix_socket(uvloop: str, tmp_path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "s"))
    sock.listen()
    async with started(uvloop, 10, sock) as running:
        client, seen = await open_websocket(running)
        assert seen["client"] is None
        await client.send(frame(TEXT, b"a"))
        assert await read_frame(client) == (TEXT, b"a")


async def test_a_low_soft_limit_of_open_files_is_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))  # inherited by the worker
    try:
        async with started("on", 10) as running:
            limits = Path(f"/proc/{running.process.pid}/limits").read_text()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert int(line.split()[3]) == min(hard, 2 * Limits().max_connections + 256)
