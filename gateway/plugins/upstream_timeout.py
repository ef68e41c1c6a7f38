"""upstream-timeout: other time limits than the upstream's, for the routes that need them.

Phases   access
Fails    504 `upstream_timeout`, as without it
Compare  Kong's upstream-timeout (`connect_timeout`, `read_timeout`, `send_timeout`); the fields are those of upstreams
"""

from __future__ import annotations

from pydantic import Field, model_validator

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.terms import Variants, changed
from gateway.proxy.exchange import Exchange
from gateway.proxy.snapshot import UpstreamSpec

_FIELDS = {
    "connect_timeout_ms": "connect_timeout_s", "first_byte_timeout_ms": "first_byte_timeout_s",
    "idle_timeout_ms": "idle_timeout_s", "total_timeout_ms": "total_timeout_s",
}  # fmt: skip


class UpstreamTimeoutConfig(PluginConfig):
    connect_timeout_ms: int | None = Field(None, ge=1, le=600_000)
    """For a new connection, TLS included. Empty, here and below: the upstream's own."""
    first_byte_timeout_ms: int | None = Field(None, ge=1, le=86_400_000)
    """From the request sent to the first byte of the answer."""
    idle_timeout_ms: int | None = Field(None, ge=1, le=86_400_000)
    """Between two pieces of a body, either way."""
    total_timeout_ms: int | None = Field(None, ge=0, le=86_400_000)
    """For the whole exchange. 0: no limit."""

    @model_validator(mode="after")
    def _changes_something(self) -> UpstreamTimeoutConfig:
        if not self.limits():
            raise ValueError("Give at least one time limit.")
        return self

    def limits(self) -> dict[str, float]:
        """Fields of an UpstreamSpec."""
        given = {name: getattr(self, field) for field, name in _FIELDS.items()}
        return {name: value / 1000 for name, value in given.items() if value is not None}


class UpstreamTimeout(Plugin):
    name = "upstream-timeout"
    Config = UpstreamTimeoutConfig
    config: UpstreamTimeoutConfig
    refuses = False

    def __init__(self, config: UpstreamTimeoutConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._limits = config.limits()
        self._variants = Variants(self._changed)

    def access(self, exchange: Exchange) -> None:
        assert exchange.upstream is not None
        exchange.upstream = self._variants.of(exchange.upstream)

    def _changed(self, upstream: UpstreamSpec) -> UpstreamSpec:
        return changed(upstream, {}, **self._limits)
