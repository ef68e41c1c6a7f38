"""Large bodies and those who do not take them: what waits, waits in somebody else's memory.

Blocking sockets in threads, for a gigabyte through Python's streams would measure those.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.e2e.gateway import wait_until
from tests.hazards.conftest import MB, Hardened
from tests.hazards.origin import RawClient

GB = 1024 * MB
pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a peak of memory")


@pytest.fixture(scope="module")
def zeros() -> Iterator[BinaryIO]:
    """A gigabyte that takes no disk."""
    with tempfile.TemporaryFile() as file:
        file.truncate(GB)
        yield file


@contextlib.contextmanager
def upstream(port: int, script: Callable[[socket.socket, bytes], None]) -> Iterator[None]:
    """Each connection in a thread of its own, until its script ends."""
    open_: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listening.accept()
                open_.append(client)
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, ValueError):
            script(client, read_head(client))

    with socket.create_server(("127.0.0.1", port), backlog=1000) as listening:
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            accepting.join(5)
            for client in open_:
                with contextlib.suppress(OSError):  # closed by its script
                    client.shutdown(socket.SHUT_RDWR)


def read_head(sock: socket.socket) -> bytes:
    """A head that comes in one packet, without what follows it."""
    size = sock.recv(65536, socket.MSG_PEEK).index(b"\r\n\r\n") + 4
    return sock.recv(size)


def discard(sock: socket.socket, size: int) -> int:
    """Reads away so much, or until the end. How much it was."""
    left, buffer = size, bytearray(MB)
    while left and (read := sock.recv_into(buffer, min(left, MB))):
        left -= read
    return size - left


def pour(sock: socket.socket, zeros: BinaryIO, size: int) -> bool:
    """Whether it was taken to its end."""
    with contextlib.suppress(ConnectionError):
        return sock.sendfile(zeros, 0, size) == size
    return False


def test_stalled_readers_of_400_mb_cost_less_than_10_mb_each(hardened: Hardened, zeros: BinaryIO) -> None:
    def answer(client: socket.socket, head: bytes) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (400 * MB))
        pour(client, zeros, 400 * MB)

    with upstream(hardened.raw_port, answer), contextlib.ExitStack() as stack, hardened.peak() as growth:
        clients = [stack.enter_context(RawClient(hardened.port)) for _ in range(20)]
        for client in clients:
            client.send(b"GET /raw/x HTTP/1.1\r\nHost: a.test\r\n\r\n")
            assert client.socket.recv(1) == b"H"
        wait_until(lambda: hardened.front()["connections"] <= 1, 30, "the end of those who take nothing")
        assert growth() < 20 * 10 * MB
        for client in clients:
            with pytest.raises(ConnectionError):  # cut, and visibly so
                discard(client.socket, 400 * MB)


def test_a_gigabyte_to_a_slow_upstream_costs_less_than_10_mb(hardened: Hardened, zeros: BinaryIO) -> None:
    taken: list[int] = []

    def take(client: socket.socket, head: bytes) -> None:
        slow = 0
        for _ in range(30):
            slow += discard(client, 256 * 1024)
            time.sleep(0.05)
        taken.append(slow + discard(client, GB - slow))
        client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    with upstream(hardened.raw_port, take), RawClient(hardened.port, 60) as client, hardened.peak() as growth:
        client.send(b"POST /raw/x HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n" % GB)
        assert pour(client.socket, zeros, GB)
        reply = client.reply()
        assert reply is not None
        assert reply.status == 200
        assert taken == [GB]
        assert growth() < 10 * MB


def test_a_gigabyte_to_a_client_costs_less_than_10_mb(hardened: Hardened, zeros: BinaryIO) -> None:
    def answer(client: socket.socket, head: bytes) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % GB)
        pour(client, zeros, GB)

    with upstream(hardened.raw_port, answer), RawClient(hardened.port, 60) as client, hardened.peak() as growth:
        client.send(b"GET /raw/x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        assert b"content-length: %d\r\n" % GB in read_head(client.socket)
        assert discard(client.socket, 2 * GB) == GB
        assert growth() < 10 * MB


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_an_upload_over_the_routes_limit_is_a_413_to_a_client_that_only_sends(
    hardened: Hardened, zeros: BinaryIO, framing: str
) -> None:
    """It sends all of its 200 MB before it looks, as many do; what is announced is refused before it is read."""
    size = 200 * MB
    hardened.origin.take()
    with RawClient(hardened.port, 30) as client, hardened.peak() as growth:
        head = b"POST /small/x HTTP/1.1\r\nHost: a.test\r\n"
        if framing == "length":
            client.send(head + b"Content-Length: %d\r\n\r\n" % size)
        else:
            client.send(head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % size)
        assert pour(client.socket, zeros, size)
        reply = client.reply()
        assert reply is not None
        assert reply.status == 413
        assert b"body_too_large" in reply.body
        assert client.ended()
        assert growth() < 5 * MB
    assert hardened.origin.take() == []


@pytest.mark.parametrize(
    ("target", "length", "status"), [("/small/x", 200 * MB, 413), ("/keyed/x", 5, 401), ("/open/x", 99 * GB, 413)]
)
def test_a_refusal_comes_instead_of_100_continue(hardened: Hardened, target: str, length: int, status: int) -> None:
    head = f"POST {target} HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
    hardened.origin.take()
    costs = []
    for _ in range(3):  # the worker does other things, too
        with RawClient(hardened.port) as client, hardened.peak() as growth:
            client.send(head.encode())
            reply = client.reply()
            assert reply is not None
            assert reply.status == status
            assert client.ended()
            costs.append(growth())
    assert min(costs) < 5 * MB
    assert hardened.origin.take() == []


def test_a_413_comes_while_the_client_still_sends(hardened: Hardened, zeros: BinaryIO) -> None:
    """Of a client that looks: before it has sent more than the kernels hold."""
    with RawClient(hardened.port) as client:
        client.send(b"POST /small/x HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n" % (200 * MB))
        reply = client.reply()
        assert reply is not None
        assert reply.status == 413
