"""A WebSocket upgrade: the socket leaves the HTTP/1.1 front and becomes daphne's.

The reactor adopts a duplicate of the descriptor and the asyncio transport is aborted, which closes only its own. Of a
connection with TLS it gets one end of a socket pair, and what goes in and out there is carried to and from the TLS.
Autobahn then gets a head made for it, with what the handshake needs and nothing else: no `Daphne-Root-Path`, no
target it could read differently from us. What the application sees is `protocol.scope`, from our own reading.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from twisted.internet.protocol import ServerFactory

from gateway.server.bridge import bridge
from gateway.server.flow import Flow
from gateway.server.head import Head
from gateway.server.http1 import Connection
from gateway.server.lean import reactor
from gateway.server.scope import websocket_scope

_HANDSHAKE = frozenset({
    b"host", b"upgrade", b"connection", b"origin", b"sec-websocket-key", b"sec-websocket-version",
    b"sec-websocket-protocol", b"sec-websocket-extensions",
})  # fmt: skip


class _Single(ServerFactory):
    """Twisted adopts a connection through a factory; this one has its protocol ready."""

    noisy = False

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: object) -> Any:
        return self._protocol


def adopt(ws_factory: Any, connection: Connection, head: Head, rest: bytes) -> None:
    """`rest`: bytes the client sent after the head, frames already."""
    protocol = ws_factory.buildProtocol(None)
    protocol.flow = flow = Flow(protocol)
    protocol._raw_query_string = head.query  # daphne sets it from outside, too
    protocol.scope = websocket_scope(head, connection, flow)
    transport, ended = connection.detach()
    flow.on_end = ended
    try:
        if connection.scheme == "https":
            _adopt_pair(connection, transport, protocol)
        else:
            _adopt_socket(transport, protocol)
    except BaseException:  # no descriptor is left
        ended()
        transport.abort()
        raise
    flow.begin()
    fields = b"".join(b"%s: %s\r\n" % pair for pair in head.headers if pair[0] in _HANDSHAKE)
    protocol.dataReceived(b"GET / HTTP/1.1\r\n" + fields + b"\r\n" + rest)


def _adopt_socket(transport: asyncio.Transport, protocol: Any) -> None:
    sock: socket.socket = transport.get_extra_info("socket")
    reactor.adoptStreamConnection(sock.fileno(), sock.family, _Single(protocol))
    transport.abort()


def _adopt_pair(connection: Connection, transport: asyncio.Transport, protocol: Any) -> None:
    ours, theirs = socket.socketpair()
    with theirs:  # the reactor has a duplicate
        try:
            reactor.adoptStreamConnection(theirs.fileno(), theirs.family, _Single(protocol))
        except BaseException:
            ours.close()
            raise
    bridge(connection.loop, transport, ours)
