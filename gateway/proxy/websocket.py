"""The upstream's half of a WebSocket: a target is chosen as for any request, then `websockets` speaks to it.

Used in the place of `Forwarder.forward`: after it the exchange has status 101 and `connection` is open, or it has the
upstream's own answer to the handshake. Pings are answered on each hop; compression (RFC 7692) is offered on neither,
for each connection would hold 32 to 300 kB for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, ProxyError
from websockets.typing import Subprotocol

from gateway.proxy.balancer import TargetState
from gateway.proxy.certificates import tls_context
from gateway.proxy.errors import ConnectFailed, UpstreamBroke, UpstreamError, UpstreamForbidden, UpstreamTimeout
from gateway.proxy.exchange import Exchange
from gateway.proxy.forward import VIA, Forwarder, request_headers, request_target
from gateway.proxy.headers import Pairs, append_token, end_to_end
from gateway.proxy.snapshot import TargetSpec, UpstreamSpec

KEEP_ALIVE_S = 20.0
CLOSE_TIMEOUT_S = 5.0
#: The handshake's own fields: each hop has its own, but `Sec-WebSocket-Protocol` is passed on by other means.
_HANDSHAKE_PREFIX = b"sec-websocket-"

logger = logging.getLogger(__name__)
logging.getLogger("websockets.client").setLevel(logging.CRITICAL)  # what fails is on the usage row


class UpstreamSocket:
    """`subprotocols`: those the client offers. `max_bytes`: of a message from upstream."""

    connection: ClientConnection | None = None

    def __init__(self, forwarder: Forwarder, subprotocols: Sequence[str], max_bytes: int) -> None:
        self._forwarder = forwarder
        self._subprotocols = [Subprotocol(name) for name in subprotocols]
        self._max_bytes = max_bytes
        self._state: TargetState | None = None

    async def open(self, exchange: Exchange) -> None:
        """Raises UpstreamError."""
        upstream, route = exchange.upstream, exchange.route
        assert upstream is not None
        assert route is not None
        own_host, pairs = request_headers(exchange, route)
        path = request_target(exchange, route)
        tried: set[str] = set()
        while True:
            state = self._forwarder.balancer.pick(upstream.base or upstream, tried)
            exchange.target = state.target.address
            exchange.tries += 1
            exchange.sent_s = perf_counter()
            state.in_flight += 1
            try:
                host = own_host or state.target.authority
                self.connection = await self._opened(upstream, state.target, host, path, pairs)
            except InvalidStatus as refused:
                state.in_flight -= 1
                self._answered(exchange, state, refused.response.status_code)
                _deliver(exchange, refused.response)
                return
            except BaseException as error:
                state.in_flight -= 1
                trouble = _translated(error)
                if trouble is None:
                    raise
                state.broke(trouble, False)
                tried.add(state.target.address)
                if exchange.tries > upstream.retries or not isinstance(trouble, ConnectFailed | UpstreamForbidden):
                    raise trouble from error
                continue
            self._answered(exchange, state, 101)
            self._state = state
            exchange.status, exchange.response_headers, exchange.answer_body = 101, [], b""
            exchange.release = self.aclose
            return

    def abort(self) -> None:
        """The client is gone without a word: so are we."""
        if self.connection is not None:
            self.connection.transport.abort()

    async def aclose(self, code: int = 1001, reason: str = "") -> None:
        """Closing twice is harmless."""
        state, self._state = self._state, None
        if state is not None:
            state.in_flight -= 1
        if self.connection is not None:
            await self.connection.close(code, reason)

    @staticmethod
    def _answered(exchange: Exchange, state: TargetState, status: int) -> None:
        exchange.upstream_head_s = perf_counter()
        state.answered(status, exchange.upstream_head_s - exchange.sent_s)

    async def _opened(
        self, upstream: UpstreamSpec, target: TargetSpec, host: bytes, path: bytes, pairs: Pairs
    ) -> ClientConnection:
        if target.host.startswith("unix:"):
            return await self._at({"unix": True, "path": target.host[5:]}, upstream, target, host, path, pairs)
        async with asyncio.timeout(upstream.connect_timeout_s):
            *others, last = await self._forwarder.transports.fence.addresses(target.host, target.port)
        for address in others:
            with contextlib.suppress(OSError):
                return await self._at({"host": address, "port": target.port}, upstream, target, host, path, pairs)
        return await self._at({"host": last, "port": target.port}, upstream, target, host, path, pairs)

    async def _at(
        self, place: dict[str, Any], upstream: UpstreamSpec, target: TargetSpec, host: bytes, path: bytes, pairs: Pairs
    ) -> ClientConnection:
        secure = upstream.protocol == "https"
        if secure:
            local = target.host.startswith("unix:")
            place["ssl"] = tls_context(upstream.tls)
            place["server_hostname"] = upstream.tls.server_name or (
                "localhost" if local else target.name or target.host
            )
        return await connect(
            f"{'wss' if secure else 'ws'}://{host.decode('latin-1')}{path.decode('ascii')}",
            additional_headers=[
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in pairs
                if not name.startswith(_HANDSHAKE_PREFIX)
            ],
            subprotocols=self._subprotocols or None,
            compression=None,
            user_agent_header=None,
            proxy=None,
            open_timeout=upstream.connect_timeout_s + upstream.first_byte_timeout_s,
            ping_interval=KEEP_ALIVE_S,
            ping_timeout=KEEP_ALIVE_S,
            close_timeout=CLOSE_TIMEOUT_S,
            max_size=self._max_bytes,
            max_queue=4,
            **place,
        )


def _translated(error: BaseException) -> UpstreamError | None:
    if isinstance(error, UpstreamForbidden):
        return error
    if isinstance(error, TimeoutError):
        trouble = UpstreamTimeout()
        trouble.phase = "first_byte"
        return trouble
    if isinstance(error, InvalidHandshake) and not isinstance(error, ProxyError):
        return UpstreamBroke("The upstream does not speak WebSocket as it should.")
    if isinstance(error, (OSError, EOFError)):
        return ConnectFailed()
    return None


def _deliver(exchange: Exchange, response: Any) -> None:
    """What the upstream said instead of 101: it may say how to authenticate, for example."""
    pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.raw_items()]
    exchange.status = response.status_code
    exchange.response_headers = [pair for pair in end_to_end(pairs) if pair[0] != b"content-length"]
    append_token(exchange.response_headers, b"via", VIA)
    exchange.answer_body = bytes(response.body or b"")
    exchange.response_headers.append((b"content-length", b"%d" % len(exchange.answer_body)))


async def finished(task: asyncio.Task[None]) -> None:
    """Ends a task of ours, whatever it does."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
