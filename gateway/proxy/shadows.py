"""Copies of requests, sent to where nobody waits for the answer. They must never be in the way of the requests.

    request ─► copy ─► line of its setting (bounded) ─► task ─► connections of their own ─► answer, dropped

A line has as many tasks as may be under way at once, each of which ends when nothing waits any more: a line at rest
costs nothing. What does not fit is dropped and counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import count

import httpx

from gateway.plugins.base import ShadowBounds
from gateway.proxy import metrics
from gateway.proxy.answer import AnswerStream
from gateway.proxy.errors import GatewayError, NoTarget
from gateway.proxy.exchange import Exchange
from gateway.proxy.fence import FENCE, Fence
from gateway.proxy.forward import request_headers, request_target
from gateway.proxy.headers import Pairs
from gateway.proxy.messages import NO_BODY, UpstreamRequest
from gateway.proxy.snapshot import UpstreamSpec
from gateway.proxy.tasks import ended
from gateway.proxy.transport import Transports, transport_key

#: Of an answer that is read so that its connection can be used again; a longer one ends with its connection.
MAX_ANSWER_BYTES = 1 << 20
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


@dataclass(frozen=True, slots=True)
class Copy:
    method: str
    host: bytes  # empty: the target's
    pairs: Pairs
    path: bytes


@dataclass(slots=True)
class Line:
    """Of one setting."""

    running: int = 0
    waiting: deque[tuple[Copy, UpstreamSpec, bytes]] = field(default_factory=deque)


class Shadows:
    """One per worker."""

    def __init__(self, fence: Fence = FENCE) -> None:
        self._transports = Transports(fence)
        self._lines: dict[int, Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = count()

    def copied(self, exchange: Exchange) -> Copy:
        assert exchange.route is not None
        host, pairs, _ = request_headers(exchange, exchange.route)
        unframed = [pair for pair in pairs if pair[0] not in _FRAMING]
        method = exchange.upstream_method or exchange.method
        return Copy(method, host, unframed, request_target(exchange, exchange.route))

    def send(
        self, setting_id: int, copy: Copy, upstream: UpstreamSpec, body: bytes | None, bounds: ShadowBounds
    ) -> None:
        if body is None:
            metrics.MIRRORED.labels(upstream.name, "too_large").inc()
            return
        line = self._lines.setdefault(setting_id, Line())
        if line.running < bounds.concurrency:
            line.waiting.append((copy, upstream, body))
            line.running += 1
            task = asyncio.create_task(self._drain(line, bounds), name="shadow")
            self._tasks.add(task)  # a loop forgets tasks that nobody holds
            task.add_done_callback(self._tasks.discard)
        elif len(line.waiting) < bounds.queue:
            line.waiting.append((copy, upstream, body))
        else:
            metrics.MIRRORED.labels(upstream.name, "dropped").inc()

    async def _drain(self, line: Line, bounds: ShadowBounds) -> None:
        try:
            while line.waiting:
                copy, upstream, body = line.waiting.popleft()
                try:
                    async with asyncio.timeout(bounds.timeout_s):
                        await self._exchange(copy, upstream, body)
                    result = "answered"
                except (GatewayError, TimeoutError):
                    result = "failed"
                metrics.MIRRORED.labels(upstream.name, result).inc()
        finally:
            line.running -= 1

    async def _exchange(self, copy: Copy, upstream: UpstreamSpec, body: bytes) -> None:
        targets = [target for target in upstream.targets if target.weight]
        if not targets:
            raise NoTarget
        target = targets[next(self._turns) % len(targets)]
        pairs = [(b"host", copy.host or target.authority), *copy.pairs]
        if body or copy.method in ("POST", "PUT", "PATCH"):
            pairs.append((b"content-length", b"%d" % len(body)))
        stream = httpx.ByteStream(body) if body else NO_BODY
        transport = self._transports.get(upstream, target)
        response = await transport.handle_async_request(
            UpstreamRequest(copy.method, pairs, stream, {"target": copy.path})
        )
        answer: AnswerStream = response.stream  # type: ignore[assignment]
        try:
            if answer.whole() is None:
                received = 0
                async for chunk in answer:
                    received += len(chunk)
                    if received > MAX_ANSWER_BYTES:
                        break
        finally:
            await answer.aclose()

    def retain(self, upstreams: Collection[UpstreamSpec]) -> None:
        """After a swap: close connections that no configuration leads to any more."""
        self._transports.retain(
            {transport_key(upstream, target) for upstream in upstreams for target in upstream.targets}
        )

    async def aclose(self) -> None:
        await ended(self._tasks)
        await self._transports.aclose()
