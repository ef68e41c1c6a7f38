"""A syslog server on loopback that reads RFC 5424, and the frames of RFC 6587 §3.4.1, to the letter, or raises."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

SD_NAME = r"[!#-<>-\\^-~]{1,32}"
PARAM = rf' ({SD_NAME})="((?:[^"\\\]]|\\["\\\]])*)"'
MESSAGE = re.compile(
    rf"<(0|[1-9][0-9]{{0,2}})>1 "
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)) "
    r"(-|[!-~]{1,255}) (-|[!-~]{1,48}) (-|[!-~]{1,128}) (-|[!-~]{1,32}) "
    rf"\[({SD_NAME})((?:{PARAM})*)\](?: (.*))?",
    re.DOTALL,
)
_COUNT = re.compile(rb"([1-9][0-9]*) ")


@dataclass(frozen=True, slots=True)
class Message:
    facility: int
    severity: int
    at: str
    host: str
    app: str
    process: str
    id: str
    values_id: str
    values: dict[str, str]
    text: str


def read(raw: bytes) -> Message:
    found = MESSAGE.fullmatch(raw.decode())
    assert found is not None, raw
    number = int(found[1])
    assert number <= 191, raw
    pairs = [(name, re.sub(r"\\(.)", r"\1", value)) for name, value in re.findall(PARAM, found[8])]
    assert len(dict(pairs)) == len(pairs), raw
    assert not re.search(r"[\x00-\x1f\x7f]", raw.decode()), raw
    return Message(
        number >> 3, number & 7, found[2], found[3], found[4], found[5], found[6], found[7], dict(pairs),
        found[11] or "",
    )  # fmt: skip


class Syslogd:
    """`deaf`: takes connections and reads nothing of them. `resets`: so many connections are reset before they are
    read."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.sizes: list[int] = []
        self.connections = 0
        self.resets = 0
        self.deaf = False
        self.ended = threading.Event()
        self.port = 0

    def take(self, raw: bytes) -> None:
        self.messages.append(read(raw))
        self.sizes.append(len(raw))

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.messages) < count:
                await asyncio.sleep(0.005)

    def serve(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Blocking, so that it reads when it says so and not before."""
        while not self.ended.is_set():
            try:
                connection, _ = listening.accept()
                connection.settimeout(5)
                self._connected(connection if tls is None else tls.wrap_socket(connection, server_side=True))
            except OSError:
                continue

    def _connected(self, connection: socket.socket) -> None:
        self.connections += 1
        with connection:
            if self.deaf:
                self.ended.wait()
            elif self.resets:
                self.resets -= 1
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                stream = b"".join(iter(lambda: connection.recv(65_536), b""))
                self._read(stream)
                if isinstance(connection, ssl.SSLSocket):
                    connection.unwrap()

    def _read(self, stream: bytes) -> None:
        while stream:
            counted = _COUNT.match(stream)
            assert counted is not None, stream
            end = counted.end() + int(counted[1])
            assert end <= len(stream), stream
            self.take(stream[counted.end() : end])
            stream = stream[end:]


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, daemon: Syslogd) -> None:
        self._daemon = daemon

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._daemon.take(data)


@asynccontextmanager
async def streams(tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[Syslogd]:
    daemon = Syslogd()
    with socket.create_server(("127.0.0.1", port)) as listening:
        listening.settimeout(0.05)
        daemon.port = listening.getsockname()[1]
        serving = asyncio.create_task(asyncio.to_thread(daemon.serve, listening, tls))
        try:
            yield daemon
        finally:
            daemon.ended.set()
            await serving


@asynccontextmanager
async def datagrams(path: Path | None = None, port: int = 0) -> AsyncIterator[Syslogd]:
    daemon = Syslogd()
    sock = socket.socket(socket.AF_INET if path is None else socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", port) if path is None else str(path))
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: _Datagrams(daemon), sock=sock)
    daemon.port = 0 if path is not None else sock.getsockname()[1]
    try:
        yield daemon
    finally:
        transport.close()
        await asyncio.sleep(0)
