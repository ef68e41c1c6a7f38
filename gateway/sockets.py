"""WebSockets of routes: a Channels consumer between a client and the upstream's half (`proxy/websocket.py`).

connect      the pipeline decides as for any request: route, access plugins, a target; then 101, or a real HTTP answer
receive      client → upstream; who is not read from is not read from either (`server/flow.py`)
disconnect   the other side is told the same code; one usage row for all of it
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic, perf_counter, time
from typing import Any

from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from websockets.exceptions import ConnectionClosed

from gateway import runtime
from gateway.plugins.websocket_limits import WebsocketLimits, WebsocketLimitsConfig
from gateway.proxy import metrics
from gateway.proxy.exchange import Exchange
from gateway.proxy.roster import OpenSocket
from gateway.proxy.tasks import ended
from gateway.proxy.websocket import UpstreamSocket
from gateway.server.flow import Flow, NoFlow

MAX_MESSAGE_BYTES = 1 << 20
NORMAL, GOING_AWAY, NO_CODE, ABNORMAL = 1000, 1001, 1005, 1006
POLICY, TOO_BIG, FAILED = 1008, 1009, 1011
_NEVER_SENT = frozenset({NO_CODE, ABNORMAL, 1015})


class ProxyConsumer(AsyncWebsocketConsumer):
    channel_layer_alias = "none"  # it needs no messages from elsewhere, and no trip to Redis

    exchange: Exchange
    upstream: UpstreamSocket
    limits = WebsocketLimitsConfig()
    reader: asyncio.Task[None] | None = None
    outcome = "client_closed"
    open: OpenSocket | None = None
    told: tuple[int, str, str] | None = None  # an operator ends it: code, reason, who

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.flow: Flow | NoFlow = scope.get("extensions", {}).get("hydragate.flow") or NoFlow()
        try:
            await super().__call__(scope, receive, send)
        finally:  # also when the server ends us
            await self._end(ABNORMAL)

    async def websocket_connect(self, message: Any) -> None:
        current = runtime.current()
        self.exchange = exchange = exchange_of(self.scope)
        self.upstream = UpstreamSocket(current.forwarder, self.scope.get("subprotocols", ()), MAX_MESSAGE_BYTES)
        await current.pipeline.handle(exchange, self.upstream.open)
        connection = self.upstream.connection
        if exchange.status != 101 or connection is None:
            self.outcome = "ok"
            await self._refuse()
            raise StopConsumer
        limits = exchange.notes.get(WebsocketLimits.name)
        if limits is not None:
            self.limits = limits
        self.rate = Rate(self.limits.messages_per_second, self.limits.bytes_per_second)
        await self.accept(connection.subprotocol)
        self.open = current.roster.enter(exchange, self._told_to_close)
        metrics.WEBSOCKETS_OPEN.inc()
        self.reader = asyncio.create_task(self._from_upstream(), name="websocket from upstream")

    async def websocket_receive(self, message: Any) -> None:
        data: str | bytes = message["bytes"] if message.get("bytes") is not None else message["text"]
        size = len(data) if isinstance(data, bytes) else len(data.encode())
        assert self.open is not None
        self.open.heard_s = monotonic()
        if size > self.limits.client_max_payload:
            self.flow.close(TOO_BIG, "The message is too large.")
            return
        if not self.rate.takes(size):
            self.flow.close(POLICY, "Too many messages, or too much.")
            return
        self.open.messages_in += 1
        self.exchange.bytes_in += size
        connection = self.upstream.connection
        assert connection is not None
        try:
            with self.flow.noticing(self.upstream.abort):  # a client that leaves must not wait for a slow upstream
                await connection.send(data)
        except ConnectionClosed:
            pass  # the reader says so
        finally:
            self.flow.took(size)

    async def websocket_disconnect(self, message: Any) -> None:
        code = message.get("code", NO_CODE)
        if self.outcome == "client_closed" and code not in _NEVER_SENT:
            self.outcome = "ok"
        await self._end(code)
        raise StopConsumer

    async def _from_upstream(self) -> None:
        connection, entry = self.upstream.connection, self.open
        assert connection is not None
        assert entry is not None
        try:
            async with asyncio.timeout(None) as idle:
                while True:
                    idle.reschedule(self._idle_at_s(entry))
                    try:
                        message = await connection.recv()
                    except ConnectionClosed:
                        break
                    entry.heard_s = monotonic()
                    size = len(message) if isinstance(message, bytes) else len(message.encode())
                    if size > self.limits.upstream_max_payload:
                        await self.upstream.aclose(TOO_BIG)
                        self._close(TOO_BIG, "A message of the upstream is too large.")
                        return
                    entry.messages_out += 1
                    self.exchange.bytes_out += size
                    await self.send(
                        **({"bytes_data": message} if isinstance(message, bytes) else {"text_data": message})
                    )
                    await self.flow.drained()
        except TimeoutError:
            if self._idle_at_s(entry) > asyncio.get_running_loop().time():  # the client spoke meanwhile
                self.reader = asyncio.create_task(self._from_upstream(), name="websocket from upstream")
                return
            self._close(GOING_AWAY, "Nothing was said for too long.")
            return
        code = connection.close_code
        self._close(code if code is not None else ABNORMAL, connection.close_reason or "")

    def _idle_at_s(self, entry: OpenSocket) -> float:
        return asyncio.get_running_loop().time() + entry.heard_s + self.limits.idle_timeout_s - monotonic()

    def _close(self, code: int, reason: str) -> None:
        """Towards the client. The upstream broke off, or ended in its own words."""
        self.outcome = "upstream_broke" if code == ABNORMAL else "ok"
        self.flow.close(FAILED if code in _NEVER_SENT - {NO_CODE} else None if code == NO_CODE else code, reason)

    def _told_to_close(self, code: int, reason: str, by: str) -> None:
        """By an operator. A client that does not answer the close frame within a second is cut off."""
        self.told, self.outcome = (code, reason, by), "ok"
        if self.reader is not None:
            self.reader.cancel()
        self.flow.close(code, reason)

    async def _refuse(self) -> None:
        exchange = self.exchange
        body = exchange.answer_body if isinstance(exchange.answer_body, bytes) else b""
        exchange.bytes_out = len(body)
        if "websocket.http.response" not in self.scope.get("extensions", {}):
            await self.close()  # a plain 403, on servers that have no other
            return
        kind = "websocket.http.response"
        await self.base_send(
            {"type": f"{kind}.start", "status": exchange.status, "headers": exchange.response_headers or []}
        )
        await self.base_send({"type": f"{kind}.body", "body": body})

    async def _end(self, code: int) -> None:
        """Once, whoever comes first."""
        exchange = getattr(self, "exchange", None)
        if exchange is None or exchange.finished_s:
            return
        reason, by = self.flow.reason, ""
        if self.told is not None:
            code, reason, by = self.told
        if self.open is not None:
            self._leave(self.open, f"closed with {code}{f' by {by}' if by else ''}")
        if self.reader is not None:
            await ended([self.reader])
        if code in (ABNORMAL, 1015):
            self.upstream.abort()
        elif self.upstream.connection is not None:
            await self.upstream.aclose(NORMAL if code == NO_CODE else code, reason)
        await runtime.current().pipeline.finish(exchange, self.outcome)

    def _leave(self, entry: OpenSocket, words: str) -> None:
        self.open = None
        runtime.current().roster.leave(entry.exchange)
        metrics.WEBSOCKETS_OPEN.dec()
        metrics.WEBSOCKET_MESSAGES.labels("in").inc(entry.messages_in)
        metrics.WEBSOCKET_MESSAGES.labels("out").inc(entry.messages_out)
        entry.exchange.detail = f"WebSocket: {entry.messages_in} messages in, {entry.messages_out} out, {words}"


class Rate:
    """Messages and bytes in any second, at most; 0: no limit. A token bucket of one second each."""

    def __init__(self, messages: int, size: int) -> None:
        self._most = (messages, size)
        self._left = [float(messages), float(size)]
        self._at_s = monotonic()

    def takes(self, size: int) -> bool:
        now_s = monotonic()
        passed_s, self._at_s = now_s - self._at_s, now_s
        for place, cost in enumerate((1, size)):
            most = self._most[place]
            if not most:
                continue
            left = min(most, self._left[place] + passed_s * most)
            if left < min(cost, most):
                return False
            self._left[place] = left - cost
        return True


def exchange_of(scope: Any) -> Exchange:
    """A handshake is a GET (RFC 6455 §4.1)."""
    client: Sequence[Any] | None = scope.get("client")
    server: Sequence[Any] | None = scope.get("server")
    exchange = Exchange(
        method="GET",
        raw_path=scope.get("raw_path") or scope["path"].encode(),
        query=scope["query_string"],
        headers=list(scope["headers"]),
        scheme="https" if scope.get("scheme") == "wss" else "http",
        peer_ip=client[0] if client else "",
        port=int(server[1] or 0) if server else 0,
        started_s=perf_counter(),
        wall_s=time(),
    )
    exchange.certificate = scope.get("hydragate.certificate", b"")
    exchange.notes["websocket"] = True
    return exchange
