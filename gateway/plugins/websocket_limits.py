"""websocket-limits: bounds the WebSockets of a route: who opens them, how large and how many messages, how long silent.

Phases   access
Fails    403 `origin_denied` for a handshake from another site; later the connection is closed with 1008, 1009 or 1001
Compare  Kong's websocket-size-limit (the same two fields), with rates, an idle limit and origins
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.proxy import headers
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Exchange

MAX_PAYLOAD = 1 << 20
Origin = Annotated[
    str, StringConstraints(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/\s]+|null)$", max_length=260, to_lower=True)
]


class WebsocketLimitsConfig(PluginConfig):
    client_max_payload: int = Field(MAX_PAYLOAD, ge=1, le=MAX_PAYLOAD)
    """Largest message from a client, in bytes; a larger one closes the connection with 1009."""
    upstream_max_payload: int = Field(MAX_PAYLOAD, ge=1, le=MAX_PAYLOAD)
    """Likewise from the upstream."""
    messages_per_second: int = Field(0, ge=0, le=1_000_000)
    """From a client, on one connection; more close it with 1008. 0: no limit."""
    bytes_per_second: int = Field(0, ge=0, le=1 << 40)
    """Likewise their bytes. 0: no limit."""
    idle_timeout_s: int = Field(3600, ge=1, le=86_400)
    """Without a message either way for so long the connection is closed with 1001. Pings do not count."""
    allowed_origins: tuple[Origin, ...] = Field((), max_length=100)
    """Sites whose pages may open connections, such as `https://app.example.com`. Empty: any, or none."""


class WebsocketLimits(Plugin):
    name = "websocket-limits"
    Config = WebsocketLimitsConfig
    config: WebsocketLimitsConfig

    def __init__(self, config: WebsocketLimitsConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._origins = frozenset(origin.encode() for origin in config.allowed_origins)

    def access(self, exchange: Exchange) -> None:
        if "websocket" not in exchange.notes:
            return
        exchange.notes[self.name] = self.config
        if not self._origins or b"*" in self._origins:
            return
        origin = (headers.get(exchange.headers, b"origin") or b"").lower()
        if origin not in self._origins:
            exchange.detail = f"websocket-limits: the origin {origin.decode('latin-1') or '(none)'} is not allowed"
            raise Reject(403, "origin_denied", "Pages of this site may not open WebSockets here.")
