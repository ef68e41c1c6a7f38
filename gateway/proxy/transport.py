"""Sends requests to upstreams: a pool of HTTP/1.1 connections per target behind httpx's transport interface.

This is the one that upstreams have if they do not ask for another (`stock.py`). All are held to the same contract:

Request    target: raw bytes in `extensions["target"]`; fields as they are in `headers.raw` (Host, lengths and all);
           `extensions["deadline_s"]` (loop time) where several attempts share the total time limit;
           `extensions["hints"]`: called with the `Link` values of each 103, where the transport sees them;
           body: `stream`, by `content-length`, else by `transfer-encoding: chunked`; NO_BODY or neither field: none.
Answer     `httpx.Response` with lower-cased `headers.raw`. Iterate `response.stream` (or take `stream.whole()`), and
           always `aclose()`. After 101: `extensions["network_stream"]` is a Tunnel, for as long as it stays open.
Errors     ConnectFailed, UpstreamForbidden, UpstreamBusy, UpstreamBroke, UpstreamTimeout (`phase`: connect, send,
           first_byte, idle, total), each with `safe_to_retry`; and whatever the request's own stream raises.

The keep-alive race is lost silently: an idempotent request without a body that dies on a used connection before a byte
of the answer is sent once more on a fresh one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable
from math import inf

import httpx

from .answer import Tunnel, UpstreamAnswer
from .connection import Connection
from .errors import GatewayError, UpstreamBroke, UpstreamError
from .fence import FENCE, Fence
from .headers import Pairs
from .messages import BREAKS, IDEMPOTENT, NO_BODY, UpstreamRequest, UpstreamResponse, body_of, lines_of
from .pool import KEEP_ALIVE_S, MAX_WAITING, Pool, Timeouts
from .snapshot import TargetSpec, UpstreamSpec
from .stock import StockTransport

__all__ = ["NO_BODY", "TargetTransport", "Timeouts", "Transport", "Transports", "transport_key", "transport_to"]


class _Stream(UpstreamAnswer, httpx.AsyncByteStream):
    """httpx asks for a stream of its own class."""


class TargetTransport(httpx.AsyncBaseTransport):
    """Sends to one target. `pool` has the counters."""

    def __init__(
        self,
        target: TargetSpec,
        upstream: UpstreamSpec,
        *,
        timeouts: Timeouts | None = None,
        keep_alive_s: float = KEEP_ALIVE_S,
        max_waiting: int = MAX_WAITING,
        fence: Fence = FENCE,
    ) -> None:
        self.pool = Pool(target, upstream, timeouts or Timeouts.of(upstream), keep_alive_s, max_waiting, fence)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        method = request.method
        if type(request) is UpstreamRequest:
            pairs, lines = request.pairs, request.lines
        else:
            pairs, lines = request.headers.raw, b""
        head = request_head(method, request.extensions["target"], pairs, lines)
        body, length = (None, 0) if request.stream is NO_BODY else body_of(request.stream, pairs)
        replayable = body is None and method in IDEMPOTENT
        pool, total_s = self.pool, self.pool.timeouts.total_s
        deadline_s: float = request.extensions.get("deadline_s", inf)
        if total_s:
            deadline_s = min(deadline_s, asyncio.get_running_loop().time() + total_s)
        try:
            connection = pool.take_idle(replayable) or await pool.acquire(deadline_s)
            used, answer = connection.used, _Stream(method, pairs, deadline_s)
            answer.hints = request.extensions.get("hints")
            try:
                await connection.exchange(answer, head, body, length)
            except UpstreamBroke:
                if not used or answer.touched or not replayable:
                    raise
                # The keep-alive race: the upstream closed an idle connection while the request was on its way.
                connection = await pool.acquire(deadline_s, fresh=True)
                answer = _Stream(method, pairs, deadline_s)
                answer.hints = request.extensions.get("hints")
                await connection.exchange(answer, head, body, length)
        except UpstreamError as error:
            error.safe_to_retry = error.safe_to_retry or replayable
            raise
        return response_of(answer, connection)

    def close(self) -> None:
        """Closes idle connections; those in use are closed when done."""
        self.pool.close()

    async def aclose(self) -> None:
        self.close()


Transport = TargetTransport | StockTransport


def transport_to(
    target: TargetSpec, upstream: UpstreamSpec, timeouts: Timeouts | None = None, fence: Fence = FENCE
) -> Transport:
    """The one the upstream asks for."""
    kind = StockTransport if upstream.transport == "httpx" else TargetTransport
    return kind(target, upstream, timeouts=timeouts, fence=fence)


class Transports:
    """All pools of a worker. They outlive configurations: a pool is kept while its key is."""

    def __init__(self, fence: Fence = FENCE) -> None:
        self.fence = fence
        self._transports: dict[Hashable, Transport] = {}

    def get(self, upstream: UpstreamSpec, target: TargetSpec) -> Transport:
        key = transport_key(upstream, target)
        transport = self._transports.get(key)
        if transport is None:
            transport = self._transports[key] = transport_to(target, upstream, fence=self.fence)
        return transport

    def retain(self, keys: Iterable[Hashable]) -> None:
        kept = set(keys)
        for key in self._transports.keys() - kept:
            self._transports.pop(key).close()

    async def aclose(self) -> None:
        for transport in [*self._transports.values()]:
            await transport.aclose()
        self._transports.clear()


def transport_key(upstream: UpstreamSpec, target: TargetSpec) -> Hashable:
    """Everything a pool was made from: where it connects to, and how. Not names, ids, weights or balancing."""
    return (
        target.address,
        target.name,
        upstream.protocol,
        upstream.tls,
        upstream.transport,
        upstream.http2,
        upstream.max_connections,
        Timeouts.of(upstream),
    )


def request_head(method: str, target: bytes, pairs: Pairs, lines: bytes = b"") -> bytes:
    """`lines` as in UpstreamRequest. A line break in a value, or a space in the target, would be another request:
    refused here for all."""
    start = b"%b %b HTTP/1.1\r\n%b: %b\r\n" % (method.encode(), target, *pairs[0])
    if start.count(b"\n") != 2 or start.count(b"\r") != 2 or b" " in target:
        raise GatewayError(BREAKS)
    return start + (lines or lines_of(pairs[1:])) + b"\r\n"


def response_of(answer: _Stream, connection: Connection) -> httpx.Response:
    extensions = {"network_stream": Tunnel(answer, connection)} if answer.status == 101 else None
    return UpstreamResponse(answer.status, answer.headers, answer, extensions)
