"""mirror: sends copies of requests to another upstream, whose answers nobody sees.

Phases   access
Fails    never: what cannot be copied in time is dropped and counted
Compare  Kong's catalogue has none; Traefik's mirroring (`percent`, `maxBodySize`), APISIX' proxy-mirror

It stands last among the plugins that change requests: the copy is what goes upstream. Requests of the copy wait in a
line of this setting's own, over connections of their own.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from random import random
from typing import Any

from pydantic import Field

from gateway.plugins.base import Plugin, PluginConfig, Resources, ShadowBounds
from gateway.plugins.ramps import points
from gateway.plugins.rates import UpstreamName
from gateway.proxy.exchange import Exchange


class MirrorConfig(PluginConfig):
    upstream: UpstreamName = Field(min_length=1)
    """Name of the upstream that gets the copies."""
    percent: float = Field(100.0, ge=0, le=100)
    """Share of the requests that are copied."""
    max_body_bytes: int = Field(65_536, ge=0, le=16_777_216)
    """A request with a larger body is not copied. Copies that wait hold theirs in memory."""
    timeout_ms: int = Field(5_000, ge=10, le=600_000)
    """For one copy, its answer included."""
    concurrency: int = Field(32, ge=1, le=1_000)
    """Copies under way at once, in each worker."""
    queue: int = Field(64, ge=0, le=10_000)
    """Copies that wait for those; further ones are dropped."""

    def upstreams_named(self) -> Sequence[tuple[tuple[str | int, ...], str]]:
        return [(("upstream",), self.upstream)]


class Mirror(Plugin):
    name = "mirror"
    Config = MirrorConfig
    config: MirrorConfig
    refuses = False

    def __init__(self, config: MirrorConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._bounds = ShadowBounds(config.timeout_ms / 1000, config.concurrency, config.queue)
        self._share = config.percent / 100
        self._next = points(random())  # noqa: S311 - spreads a load, guards no secret

    def access(self, exchange: Exchange) -> None:
        shadow = self.resources.shadow
        if shadow is None or "websocket" in exchange.notes or self._next() >= self._share:
            return
        copy = shadow.copied(exchange)
        if exchange.body is None:
            self._send(copy, b"")
        elif (exchange.content_length or 0) > self.config.max_body_bytes:
            self._send(copy, None)
        else:
            exchange.body = self._overheard(exchange.body, exchange.content_length, copy)

    async def _overheard(self, chunks: AsyncIterable[bytes], length: int | None, copy: Any) -> AsyncIterator[bytes]:
        """Passes the body on, and sends the copy at its end. One that is not read to its end is not copied."""
        kept: list[bytes] = []
        most, size, sent = self.config.max_body_bytes, 0, False
        async for chunk in chunks:
            size += len(chunk)
            if size <= most:
                kept.append(chunk)
            else:
                kept.clear()
            if size == length:  # who knows the length does not ask whether there is more
                self._send(copy, b"".join(kept))
                sent = True
            yield chunk
        if not sent:
            self._send(copy, b"".join(kept) if size <= most else None)

    def _send(self, copy: Any, body: bytes | None) -> None:
        assert self.resources.shadow is not None
        upstream = self.upstreams[self.config.upstream]
        self.resources.shadow.send(self.setting_id, copy, upstream, body, self._bounds)
