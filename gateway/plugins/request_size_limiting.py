"""request-size-limiting: so large may a request's body be, and no larger.

Phases   access
Fails    413 `body_too_large`, 411 `length_required`. Never needs the network, so it cannot fail open
Compare  Kong's request-size-limiting (same field names). There a body without a length is read whole to be measured;
         here it is passed on as it comes and cut off at the limit. `require_content_length` is for bodies only here

The route's own `max_body_bytes` and `GATEWAY_MAX_BODY_BYTES` hold besides: the lowest counts. What this adds is a limit
of its own for a consumer, or for an upstream.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Literal

from pydantic import Field

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.dryruns import would_refuse
from gateway.proxy.errors import BodyTooLarge, Reject
from gateway.proxy.exchange import Exchange

_UNITS = {"bytes": 1, "kilobytes": 1024, "megabytes": 1024 * 1024}


class RequestSizeLimitingConfig(PluginConfig):
    allowed_payload_size: int = Field(128, ge=0, le=1_073_741_824)
    """The largest body that passes, in `size_unit`. 0: none at all."""
    size_unit: Literal["megabytes", "kilobytes", "bytes"] = "megabytes"
    """Of 1,048,576 bytes, of 1,024 bytes, or bytes."""
    require_content_length: bool = False
    """Refuse a body whose length is not announced (`Transfer-Encoding: chunked`) with 411."""


class RequestSizeLimiting(Plugin):
    name = "request-size-limiting"
    Config = RequestSizeLimitingConfig
    config: RequestSizeLimitingConfig

    def __init__(self, config: RequestSizeLimitingConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._limit = config.allowed_payload_size * _UNITS[config.size_unit]
        self._said = f"The request body is larger than the {self._limit} bytes that may be sent here."

    def access(self, exchange: Exchange) -> None:
        """Before a byte of the body is asked for: who waits for 100 (Continue) gets the refusal in its place."""
        if exchange.body is None:
            return
        if exchange.content_length is not None:
            if exchange.content_length > self._limit:
                raise BodyTooLarge(self._said)
            return
        if self.config.require_content_length:
            raise Reject(411, "length_required", "Say in Content-Length how long the body is.")
        exchange.body = self._cut(exchange, exchange.body)

    async def _cut(self, exchange: Exchange, body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        left = self._limit
        async for chunk in body:
            left -= len(chunk)
            if left < 0:
                if not self.dry_run:
                    raise BodyTooLarge(self._said)
                would_refuse(exchange, self, BodyTooLarge(self._said))
            yield chunk
