"""Hundreds of clients that only just do not stop: all are ended in time, and meanwhile everybody else is served."""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import socket
import statistics
import time
from collections.abc import Iterator

import pytest

from gateway import environment
from gateway.server.limits import Limits
from tests.hazards.conftest import DEADLINES, MB, Hardened
from tests.hazards.origin import RawClient
from tests.hazards.test_memory import upstream

EACH = 400
LONGEST_S = 30.0  # some 7 s where nothing else runs
HEAD = b"POST /open/x HTTP/1.1\r\nHost: a.test\r\n"
KINDS = {
    "head": (b"GET /open/x HTTP/1.1\r\nHost: a.test\r\nX: ", b"a"),
    "fields": (b"GET /open/x HTTP/1.1\r\nHost: a.test\r\n", b"X: y\r\n"),
    "body": (HEAD + b"Content-Length: 100000\r\n\r\n", b"a"),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    "silence": (b"", b""),
    "reader": (b"GET /raw/x HTTP/1.1\r\nHost: a.test\r\n\r\n", b""),
}


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard == resource.RLIM_INFINITY else min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class SlowClient:
    """Sends a little, or reads a little, whenever it is told to; never closes."""

    def __init__(self, port: int, kind: str) -> None:
        self.start, self.drop = KINDS[kind]
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(self.start)
        self.socket.setblocking(False)

    def trickle(self) -> None:
        with contextlib.suppress(OSError):  # refused by now
            if self.drop:
                self.socket.send(self.drop)
            else:
                self.socket.recv(4)


def test_slow_heads_bodies_and_readers_are_ended_and_others_served(hardened: Hardened) -> None:
    """400 of each, all at once, where an upstream has 256 connections. They go on for as long as they are let."""
    chunk = bytes(MB)

    def flood(client: socket.socket, head: bytes) -> None:
        if b"/raw/served" in head:
            client.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")
            return
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # this machine has to hold 400 of them
        client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (400 * MB))
        for _ in range(400):  # and stops for good when all that lie between are full
            client.sendall(chunk)

    with upstream(hardened.raw_port, flood), contextlib.ExitStack() as stack:
        half = EACH // 2
        wanted = [("head", half), ("fields", half), ("body", half), ("chunks", half), ("reader", EACH), ("silence", 50)]
        clients = [SlowClient(hardened.port, kind) for kind, count in wanted for _ in range(count)]
        for client in clients:
            stack.callback(client.socket.close)
        begun_s, waits_s, left = time.monotonic(), [], len(clients)
        while left:
            for client in clients:
                client.trickle()
            for path in (b"open", b"raw"):  # the same upstreams that the slow ones use: none may be locked up
                asked_s = time.monotonic()
                with RawClient(hardened.port) as other:
                    other.send(b"GET /%b/served HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n" % path)
                    reply = other.reply()
                    assert reply is not None
                    assert reply.status == 200
                waits_s.append(time.monotonic() - asked_s)
            left = hardened.front()["connections"] - 1
            assert time.monotonic() - begun_s < LONGEST_S, f"{left} are still there"
            time.sleep(0.1)
    assert len(waits_s) > 10
    assert statistics.median(waits_s) < 0.1
    assert max(waits_s) < 10  # the first: a thousand connections and 400 answers come at the same time, on one core


def test_by_default_each_ends_within_30_s() -> None:
    """The deadlines that the test above made short; what a deadline's refusal still reads is added."""
    defaults = Limits.of(environment.Environment.model_construct(**{
        name: field.get_default() for name, field in environment.Environment.model_fields.items()
        if name in {field.name for field in dataclasses.fields(Limits)}
    }))  # fmt: skip
    late_s = 2 * defaults.sweep_s
    assert defaults.head_timeout_s + defaults.linger_timeout_s + late_s <= 30
    assert defaults.body_timeout_s + defaults.linger_timeout_s + late_s <= 30
    assert defaults.write_timeout_s + late_s <= 30
    assert defaults.min_body_bytes_per_s > 0
    assert defaults.min_answer_bytes_per_s > 0


def test_status_shows_every_limit_in_force(hardened: Hardened) -> None:
    shown = hardened.front()["limits"]
    assert shown.keys() == {field.name for field in dataclasses.fields(Limits)}
    assert shown["head_timeout_s"] == float(DEADLINES["GATEWAY_HEAD_TIMEOUT_S"])
    assert shown["max_connections_per_address"] == 5000


def test_every_limit_of_a_client_is_a_setting() -> None:
    """But for how the front does its work."""
    inner = {"sweep_s", "high_water_bytes", "skip_bytes", "linger_bytes"}
    assert {field.name for field in dataclasses.fields(Limits)} - inner <= set(environment.Environment.model_fields)
