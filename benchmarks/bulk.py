"""A gigabyte to a slow reader, a gigabyte to a slow upstream: how much of it does a gateway hold?

The slow side takes nothing for two seconds, then about 128 MB/s; the other side is as fast as it is let. As a program
(`python -m benchmarks.bulk PORT`) this is the upstream: it sends, and it takes slowly.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

from benchmarks.cases import BULK_BYTES, SMALL
from benchmarks.measure import rss_bytes

STALL_S = 2.0
BYTES_PER_S = 128e6
BLOCK_BYTES = 1 << 18
SAMPLE_S = 0.02
TIMEOUT_S = 60


def grown(port: int, pid: int, size: int = BULK_BYTES) -> tuple[float, float]:
    """MB of resident memory that the tree of `pid` grows by at most during a download, and during an upload."""
    with peak(pid) as down:
        download(port, size)
    with peak(pid) as up:
        upload(port, size)
    return down.mb, up.mb


class Growth:
    """Above what there was at the start."""

    mb = 0.0

    def sample(self, pid: int, before: int) -> None:
        self.mb = max(self.mb, (sum(rss_bytes(pid)) - before) / 1e6)


@contextlib.contextmanager
def peak(pid: int) -> Iterator[Growth]:
    growth, before, done = Growth(), sum(rss_bytes(pid)), threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_S):
            growth.sample(pid, before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield growth
    finally:
        done.set()
        watcher.join()
    growth.sample(pid, before)


def download(port: int, size: int) -> None:
    """Raises ValueError if less comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.sendall(f"GET /bulk?{size} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        time.sleep(STALL_S)
        with connection.makefile("rb") as answer:
            while answer.readline() not in (b"\r\n", b""):
                pass
            taken = slowly(answer.read, size)
    if taken < size:
        raise ValueError(f"{taken} bytes instead of {size}")


def upload(port: int, size: int) -> None:
    """Raises ValueError if it is not answered with 200."""
    head = f"POST /bulk HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
    block = bytes(BLOCK_BYTES)
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.sendall(head.encode())
        for _ in range(size // BLOCK_BYTES):
            connection.sendall(block)
        if not (answer := connection.recv(BLOCK_BYTES)).startswith(b"HTTP/1.1 200"):
            raise ValueError(f"{answer[:40]!r} to an upload")


def slowly(read: object, size: int) -> int:
    """At `BYTES_PER_S`; ends when nothing comes any more."""
    assert callable(read)
    taken, begun_s = 0, time.monotonic()
    while taken < size and (block := read(min(BLOCK_BYTES, size - taken))):
        taken += len(block)
        time.sleep(max(0.0, begun_s + taken / BYTES_PER_S - time.monotonic()))
    return taken


class Slow(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        _, _, size = self.path.partition("?")
        self.answer(int(size or len(SMALL)))
        block = bytes(BLOCK_BYTES) if size else SMALL
        for _ in range(int(size) // BLOCK_BYTES if size else 1):
            self.wfile.write(block)

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        time.sleep(STALL_S)
        slowly(self.rfile.read, size)
        self.answer(0)

    def answer(self, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Nobody reads it."""


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Slow).serve_forever()
