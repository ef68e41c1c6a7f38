"""bandwidth-limiting: so many bytes a second of an answer, or of all answers of a caller.

Phases   body
Fails    never: who is over waits
Compare  Kong's catalogue has none (NGINX' `limit_rate`); Envoy's bandwidth limit

Each worker counts for itself. Answers come slowly, they are not refused; what waits is not read from the upstream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Literal

from pydantic import Field

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.callers import identity
from gateway.proxy.exchange import Exchange, Paced

#: Callers whose pace is remembered; those that are idle go first.
MAX_CALLERS = 4096
MAX_PIECE_BYTES = 65_536
PIECES_PER_S = 10
#: Nobody sleeps for less: what was sent too early is waited for with the next piece.
LEAST_WAIT_S = 0.0001


class BandwidthLimitingConfig(PluginConfig):
    bytes_per_second: int = Field(ge=1024, le=1 << 40)
    """How fast answers go to the client, before the gateway's own chunk framing and TLS."""
    burst_bytes: int = Field(0, ge=0, le=1 << 40)
    """How much may go at once after a pause: the first so many bytes are not slowed down."""
    by: Literal["request", "consumer", "key", "ip", "route"] = "request"
    """Whose answers share the rate, in each worker. Without a consumer or key it is the client's address; `request`:
    each answer has its own."""


class Pace:
    """A token bucket as the moment when all that was taken has flowed out."""

    __slots__ = ("_burst_s", "_clock", "_rate", "due_s")

    def __init__(self, rate: int, burst: int, clock: Callable[[], float]) -> None:
        self._rate, self._burst_s, self._clock = rate, burst / rate, clock
        self.due_s = clock() - self._burst_s

    def take(self, size: int) -> float:
        """Seconds to wait before these bytes may go."""
        now_s = self._clock()
        self.due_s = max(self.due_s, now_s - self._burst_s) + size / self._rate
        wait_s = self.due_s - now_s
        return wait_s if wait_s >= LEAST_WAIT_S else 0.0


class BandwidthLimiting(Plugin):
    name = "bandwidth-limiting"
    Config = BandwidthLimitingConfig
    config: BandwidthLimitingConfig

    def __init__(self, config: BandwidthLimitingConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._identity = None if config.by == "request" else identity(config.by)
        self._piece = min(MAX_PIECE_BYTES, config.bytes_per_second // PIECES_PER_S)
        self._paces: dict[str, Pace] = {}

    def body(self, exchange: Exchange, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        return Paced(self._slowed(chunks, self._pace(exchange)))

    async def _slowed(self, chunks: AsyncIterator[bytes], pace: Pace) -> AsyncGenerator[bytes, None]:
        async for chunk in chunks:
            for start in range(0, len(chunk), self._piece):
                piece = chunk[start : start + self._piece]
                if wait_s := pace.take(len(piece)):
                    await asyncio.sleep(wait_s)
                yield piece

    def _pace(self, exchange: Exchange) -> Pace:
        config, clock = self.config, self.resources.clock
        if self._identity is None:
            return Pace(config.bytes_per_second, config.burst_bytes, clock)
        caller = self._identity(exchange)
        if caller not in self._paces:
            if len(self._paces) >= MAX_CALLERS:
                now_s = clock()
                self._paces = {name: pace for name, pace in self._paces.items() if pace.due_s > now_s}
            self._paces[caller] = Pace(config.bytes_per_second, config.burst_bytes, clock)
        return self._paces[caller]
