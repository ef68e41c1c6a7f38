"""What lies behind every gateway: nginx, or an asyncio server of our own that answers from memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import httptools

from benchmarks.cases import CASES, LARGE_BYTES, SMALL
from benchmarks.load import ask_once
from benchmarks.measure import Command, free_port, started, wait_until
from gateway.environment import ROOT

NGINX = """
{user} daemon off; worker_processes 1; pid {place}/nginx.pid; error_log {place}/error.log;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 300s; sendfile on; tcp_nodelay on;
  client_body_temp_path {place}/body; proxy_temp_path {place}/proxy; fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi; scgi_temp_path {place}/scgi; client_max_body_size 0;
  server {{
    listen 127.0.0.1:{port} backlog=4096; root {place}; default_type text/plain;
    location ~ /small$ {{ return 200 "{small}"; }}
  }}
}}
"""


def kind() -> str:
    return "nginx" if shutil.which("nginx") else "bundled"


@contextlib.contextmanager
def slow(directory: Path, core: int) -> Iterator[int]:
    """The port of the one that takes its time: `bulk`."""
    port = free_port()
    command = Command([sys.executable, "-m", "benchmarks.bulk", str(port)], {"PYTHONPATH": str(ROOT)})
    with started(command, directory, {core}):
        wait_until(lambda: answers(port), f"slow upstream ({directory}/log)")
        yield port


@contextlib.contextmanager
def running(directory: Path, core: int) -> Iterator[int]:
    """Its port. `/…/small` answers any method with `SMALL`, `/large` with a megabyte."""
    port = free_port()
    command = Command([sys.executable, "-m", "benchmarks.upstream", str(port)], {"PYTHONPATH": str(ROOT)})
    if kind() == "nginx":
        (directory / "large").write_bytes(b"x" * LARGE_BYTES)
        user = "" if os.geteuid() else "user root;"  # or its worker may not read the directory
        text = NGINX.format(user=user, place=directory, port=port, small=SMALL.decode().replace("\n", "\\n"))
        (directory / "nginx.conf").write_text(text)
        command = Command(["nginx", "-e", f"{directory}/error.log", "-p", str(directory), "-c", "nginx.conf"], {})
    with started(command, directory, {core}):
        wait_until(lambda: answers(port), f"upstream ({directory}/log)")
        yield port


def answers(port: int) -> bool:
    try:
        ask_once(CASES["plain"], port, {}).close()
    except OSError:
        return False
    return True


class Answering(asyncio.Protocol):
    """Answers when the request is complete, whatever it was."""

    SMALL = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(SMALL) + SMALL
    LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE_BYTES + b"x" * LARGE_BYTES

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one without deriving from it
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.answer = self.LARGE if url.endswith(b"/large") else self.SMALL

    def on_message_complete(self) -> None:
        self.transport.write(self.answer)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()
    asyncio.run(serve(int(sys.argv[1])))
