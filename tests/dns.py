"""A real DNS server on loopback, UDP and TCP, in a thread of its own. What it says can be changed at any moment."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

Zone = dict[tuple[str, str], tuple[int, list[str]]]  # (name, type) -> TTL, records


def _bound() -> tuple[socket.socket, socket.socket]:
    """One free port of both kinds: a port that is free for one may be taken for the other."""
    while True:
        tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        tcp.bind(("127.0.0.1", 0))
        try:
            udp.bind(tcp.getsockname())
        except OSError:
            tcp.close()
            udp.close()
        else:
            return udp, tcp


@dataclass
class DnsServer:
    """`zone[("app.test.", "A")] = 1, ["127.0.0.1"]`. `manner`: well, silent, garbage, servfail."""

    zone: Zone = field(default_factory=dict)
    manner: str = "well"
    asked: list[tuple[str, str]] = field(default_factory=list)
    port: int = 0
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def __enter__(self) -> DnsServer:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=[ready.set], daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *reason: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _run(self, ready: Callable[[], None]) -> None:
        udp_socket, tcp_socket = _bound()
        self.port = tcp_socket.getsockname()[1]
        udp, _ = self._loop.run_until_complete(self._loop.create_datagram_endpoint(lambda: _Udp(self), sock=udp_socket))
        tcp = self._loop.run_until_complete(asyncio.start_server(self._stream, sock=tcp_socket))
        self._loop.call_soon(ready)
        self._loop.run_forever()
        udp.close()
        tcp.close()
        self._loop.run_until_complete(asyncio.sleep(0))

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = struct.unpack("!H", await reader.readexactly(2))[0]
        if said := self.answer(await reader.readexactly(length), most=65535):
            writer.write(struct.pack("!H", len(said)) + said)
        writer.close()

    def answer(self, packet: bytes, most: int = 512) -> bytes:
        query = dns.message.from_wire(packet)
        question = query.question[0]
        name, kind = question.name.to_text().lower(), question.rdtype.name
        self.asked.append((name, kind))
        if self.manner == "silent":
            return b""
        if self.manner == "garbage":
            return packet[:2] + b"\xff" * 30
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if self.manner == "servfail":
            response.set_rcode(dns.rcode.SERVFAIL)
        elif (name, kind) in self.zone:
            ttl, records = self.zone[name, kind]
            response.answer.append(dns.rrset.from_text(question.name, ttl, "IN", kind, *records))
        elif not any(known == name for known, _ in self.zone):
            response.set_rcode(dns.rcode.NXDOMAIN)
        said = response.to_wire(max_size=65535)
        if len(said) > most:
            response.answer.clear()
            response.flags |= dns.flags.TC
            return response.to_wire()
        return said


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self.server = server

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, packet: bytes, address: Any) -> None:
        if said := self.server.answer(packet):
            self.transport.sendto(said, address)
