"""concurrency-limiting: so many requests of a caller are under way at the same time, and no more.

Phases   access, log
Fails    429 `concurrency_limited` (or `error_code`), with `Retry-After`. Needs no network, so it cannot fail open
Compare  Kong's catalogue has none; APISIX' limit-conn, Traefik's inFlightReq. Fields are named as in rate-limiting

Each worker counts for itself. A request counts from here to its last byte, however it ends. Counts belong to the
setting and survive its edits.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.callers import identity
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Exchange


class ConcurrencyLimitingConfig(PluginConfig):
    max_in_flight: int = Field(ge=1, le=1_000_000)
    """Requests of a caller under way at the same time, in each worker. A WebSocket is one request while it is open."""
    by: Literal["consumer", "key", "ip", "route"] = "consumer"
    """Whose requests are counted together. Without a consumer or key it is the client's address (IPv6: its /64
    network); `route` counts everybody's."""
    error_code: int = Field(429, ge=400, le=599)
    """Status of a refusal: 429 blames the client, 503 the service."""
    error_message: str = Field("", max_length=500)
    """Sentence for refused clients. Empty: one that names the limit."""
    retry_after_s: int = Field(1, ge=1, le=3600)
    """What `Retry-After` of a refusal says: nobody knows when a request under way will end."""


class ConcurrencyLimiting(Plugin):
    name = "concurrency-limiting"
    Config = ConcurrencyLimitingConfig
    config: ConcurrencyLimitingConfig

    def __init__(self, config: ConcurrencyLimitingConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._identity = identity(config.by)
        self._retry_after = ((b"retry-after", b"%d" % config.retry_after_s),)

    def access(self, exchange: Exchange) -> None:
        caller = self._identity(exchange)
        key = f"{self.name}:{self.setting_id}:{caller}"
        under_way = self.resources.under_way
        count = under_way.get(key, 0)
        if count >= self.config.max_in_flight:
            exchange.detail = f"concurrency-limiting: {caller} has {count} requests under way"
            said = self.config.error_message or f"At most {self.config.max_in_flight} requests at the same time. Wait."
            raise Reject(self.config.error_code, "concurrency_limited", said, headers=self._retry_after)
        under_way[key] = count + 1
        exchange.notes[self] = key

    def log(self, exchange: Exchange) -> None:
        """After every ending there is; nothing to do for a request that was refused here or before."""
        key: str | None = exchange.notes.pop(self, None)
        if key is None:
            return
        under_way = self.resources.under_way
        under_way[key] -= 1
        if not under_way[key]:
            del under_way[key]
