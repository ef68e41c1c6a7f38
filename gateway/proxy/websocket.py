"""The upstream's half of a WebSocket: a target is chosen as for any request, then `websockets` speaks to it.

Used in the place of `Forwarder.forward`: after it the exchange has status 101 and `connection` is open, or it has the
upstream's own answer to the handshake. Pings are answered on each hop; compression (RFC 7692) is offered on neither,
for each connection would hold 32 to 300 kB for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
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
from gateway.proxy.guard import Guard
from gateway.proxy.headers import Pairs, append_token, end_to_end
from gateway.proxy.health import NOT_ITS_FAULT, blames
from gateway.proxy.snapshot import TargetSpec, UpstreamSpec

KEEP_ALIVE_S = 20.0
CLOSE_TIMEOUT_S = 5.0
#: The handshake's own fields: each hop has its own, but `Sec-WebSocket-Protocol` is passed on by other means.
_HANDSHAKE_PREFIX = b"sec-websocket-"

logger = logging.getLogger(__name__)
logging.getLogger("websockets.client").setLevel(logging.CRITICAL)  # what fails is on the usage row


@dataclass(frozen=True, slots=True)
class _Handshake:
    """What every target is asked. `own_host` empty: the target's."""

    own_host: bytes
    path: bytes
    pairs: Pairs


class UpstreamSocket:
    """`subprotocols`: those the client offers. `max_bytes`: of a message from upstream."""

    connection: ClientConnection | None = None

    def __init__(self, forwarder: Forwarder, subprotocols: Sequence[str], max_bytes: int) -> None:
        self._forwarder = forwarder
        self._subprotocols = [Subprotocol(name) for name in subprotocols]
        self._max_bytes = max_bytes
        self._state: TargetState | None = None
        self._leave: Callable[[], None] | None = None  # the ceiling

    async def open(self, exchange: Exchange) -> None:
        """Raises UpstreamError. An open socket keeps its place below the upstream's ceiling until it ends."""
        upstream, route = exchange.upstream, exchange.route
        assert upstream is not None
        assert route is not None
        own_host, pairs, _ = request_headers(exchange, route)
        handshake = _Handshake(own_host, request_target(exchange, route), pairs)
        if upstream.care is None:
            await self._try(exchange, upstream, handshake, None)
            return
        guard = self._forwarder.guards.of(upstream, upstream.care)
        await guard.ceiling.enter(_deadline_s(upstream))
        self._leave = guard.ceiling.leave
        try:
            guard.budget.request()
            await self._try(exchange, upstream, handshake, guard)
        finally:
            if exchange.status != 101:
                self._give_back()

    async def _try(
        self, exchange: Exchange, upstream: UpstreamSpec, handshake: _Handshake, guard: Guard | None
    ) -> None:
        """One target after another, as long as none can be connected to. Each counts for the circuit breaker."""
        breaker = None if guard is None else guard.breaker
        tried: set[str] = set()
        while True:
            trial = breaker.admit() if breaker is not None else False
            try:
                await self._attempt(exchange, upstream, handshake, tried)
            except BaseException as error:
                if breaker is not None and isinstance(error, UpstreamError) and blames(error, False):
                    breaker.settle(trial, True, perf_counter() - exchange.sent_s)
                elif breaker is not None:
                    breaker.abandon(trial)
                if not isinstance(error, ConnectFailed | UpstreamForbidden) or exchange.tries > upstream.retries:
                    raise
                if guard is not None and not _may_again(guard):
                    raise
                continue
            if breaker is not None:
                status, took_s = exchange.status, exchange.upstream_head_s - exchange.sent_s
                breaker.settle(trial, status >= 500 and status not in NOT_ITS_FAULT, took_s)
            return

    async def _attempt(
        self, exchange: Exchange, upstream: UpstreamSpec, handshake: _Handshake, tried: set[str]
    ) -> None:
        state = self._forwarder.balancer.pick(upstream.base or upstream, tried, exchange)
        tried.add(state.target.address)
        exchange.target = state.target.address
        exchange.tries += 1
        exchange.sent_s = perf_counter()
        state.asked(exchange.sent_s)
        try:
            self.connection = await self._opened(upstream, state.target, handshake)
        except InvalidStatus as refused:
            state.in_flight -= 1
            self._answered(exchange, state, refused.response.status_code)
            _deliver(exchange, refused.response)
            return
        except BaseException as error:
            state.gave_up()
            trouble = _translated(error)
            if trouble is None:
                raise
            state.broke(trouble, False)
            raise trouble from error
        self._answered(exchange, state, 101)
        self._state = state
        exchange.status, exchange.response_headers, exchange.answer_body = 101, [], b""
        exchange.release = self.aclose

    def abort(self) -> None:
        """The client is gone without a word: so are we."""
        if self.connection is not None:
            self.connection.transport.abort()

    async def aclose(self, code: int = 1001, reason: str = "") -> None:
        """Closing twice is harmless."""
        self._give_back()
        if self.connection is not None:
            await self.connection.close(code, reason)

    def _give_back(self) -> None:
        state, self._state = self._state, None
        if state is not None:
            state.in_flight -= 1
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    @staticmethod
    def _answered(exchange: Exchange, state: TargetState, status: int) -> None:
        exchange.upstream_head_s = perf_counter()
        state.heard(exchange.upstream_head_s)
        state.answered(status, exchange.upstream_head_s - exchange.sent_s)

    async def _opened(self, upstream: UpstreamSpec, target: TargetSpec, handshake: _Handshake) -> ClientConnection:
        if target.host.startswith("unix:"):
            return await self._at({"unix": True, "path": target.host[5:]}, upstream, target, handshake)
        async with asyncio.timeout(upstream.connect_timeout_s):
            *others, last = await self._forwarder.transports.fence.addresses(target.host, target.port)
        for address in others:
            with contextlib.suppress(OSError):
                return await self._at({"host": address, "port": target.port}, upstream, target, handshake)
        return await self._at({"host": last, "port": target.port}, upstream, target, handshake)

    async def _at(
        self, place: dict[str, Any], upstream: UpstreamSpec, target: TargetSpec, handshake: _Handshake
    ) -> ClientConnection:
        secure = upstream.protocol == "https"
        if secure:
            local = target.host.startswith("unix:")
            place["ssl"] = tls_context(upstream.tls)
            place["server_hostname"] = upstream.tls.server_name or (
                "localhost" if local else target.name or target.host
            )
        host = handshake.own_host or target.authority
        return await connect(
            f"{'wss' if secure else 'ws'}://{host.decode('latin-1')}{handshake.path.decode('ascii')}",
            additional_headers=[
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in handshake.pairs
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


def _deadline_s(upstream: UpstreamSpec) -> float:
    """Until when the handshake may wait for a place, in the loop's time."""
    return asyncio.get_running_loop().time() + upstream.total_timeout_s if upstream.total_timeout_s else inf


def _may_again(guard: Guard) -> bool:
    """As `Attempts` of requests: not while the circuit is open, and only as far as the budget goes."""
    return (guard.breaker is None or guard.breaker.phase == "closed") and guard.budget.take()


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
