"""Asks over keep-alive connections as fast as answers come (closed loop): wrk where it is, else asyncio of our own.

The bundled one is slow: it measures a gateway's CPU per request as well as wrk does, but not its requests per second.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import httptools

from benchmarks.answer import Answer, Loaded, loaded
from benchmarks.cases import Case

TIMEOUT_S = 30

WRK_SCRIPT = """
wrk.method = {method}
wrk.body = {body}
{headers}
done = function(summary, latency, requests)
  local e = summary.errors
  io.stderr:write(string.format(
    '{{"requests": %d, "seconds": %f, "errors": %d, "p50_ms": %f, "p99_ms": %f}}',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


def generator() -> str:
    return "wrk" if shutil.which("wrk") else "bundled"


def run(case: Case, port: int, headers: Mapping[str, str], connections: int, seconds: float, directory: Path) -> Loaded:
    fields = {**case.headers, **headers}
    if generator() == "wrk":
        return wrk(case, port, fields, connections, seconds, directory)
    return asyncio.run(bundled(head(case, fields) + case.body, port, connections, seconds))


def wrk(case: Case, port: int, fields: Mapping[str, str], connections: int, seconds: float, directory: Path) -> Loaded:
    """wrk's unit of time is the second, and never none of them."""
    script = directory / "wrk.lua"
    lines = "\n".join(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in fields.items())
    body = json.dumps(case.body.decode()) if case.body else "nil"
    script.write_text(WRK_SCRIPT.format(method=json.dumps(case.method), body=body, headers=lines))
    whole_s = max(1, round(seconds))
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{whole_s}s", f"--timeout={TIMEOUT_S}s", "-s", str(script),
         f"http://127.0.0.1:{port}{case.path}"],
        capture_output=True, text=True, timeout=whole_s + TIMEOUT_S + 10, check=True,
    )  # fmt: skip
    return Loaded(**json.loads(done.stderr[done.stderr.index("{") :]))


def head(case: Case, fields: Mapping[str, str]) -> bytes:
    lines = [f"{case.method} {case.path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    lines += [f"Content-Length: {len(case.body)}"] if case.body else []
    return "\r\n".join([*lines, "", ""]).encode()


class Client(asyncio.Protocol):
    """One connection: the same bytes again as soon as the answer is complete, until it is told to stop."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.times_s: list[float] = []
        self.errors = 0
        self.stopping = False
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.ask()

    def ask(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.begun_s = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.times_s.append(time.perf_counter() - self.begun_s)
        self.errors += self.parser.get_status_code() >= 400
        if self.stopping:
            self.transport.close()
        else:
            asyncio.get_running_loop().call_soon(self.ask)  # not inside the parser's own call

    def connection_lost(self, exc: Exception | None) -> None:
        self.errors += not self.stopping
        self.closed.set_result(None)


async def bundled(request: bytes, port: int, connections: int, seconds: float) -> Loaded:
    loop = asyncio.get_running_loop()
    begun_s = time.perf_counter()
    clients = [
        (await loop.create_connection(lambda: Client(request), "127.0.0.1", port))[1] for _ in range(connections)
    ]
    await asyncio.sleep(seconds)
    for client in clients:
        client.stopping = True
    taken_s = time.perf_counter() - begun_s
    _, late = await asyncio.wait([client.closed for client in clients], timeout=TIMEOUT_S)
    errors = sum(client.errors for client in clients) + len(late)
    return loaded((each for client in clients for each in client.times_s), taken_s, errors)


def ask_once(case: Case, port: int, headers: Mapping[str, str]) -> socket.socket:
    """The connection, kept, after one whole answer of the right length. Raises OSError or ValueError."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
    try:
        answer = Answer()
        connection.sendall(head(case, {**case.headers, **headers}) + case.body)
        while not answer.complete:
            data = connection.recv(65_536)
            if not data:
                raise ConnectionResetError("closed before the answer was complete")
            answer.parser.feed_data(data)
        status = answer.parser.get_status_code()
        if status != 200 or answer.size != case.answer_bytes:
            raise ValueError(f"{status} with {answer.size} bytes instead of 200 with {case.answer_bytes}")
    except BaseException:
        connection.close()
        raise
    return connection
