"""upstream-retry: other rules for further attempts than the upstream's, for the routes that need them.

Phases   access
Fails    as the last attempt did
Compare  Kong's has none (`retries` of its services); Traefik's retry. The fields are those of upstreams
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.terms import Variants, changed
from gateway.proxy.exchange import Exchange
from gateway.proxy.snapshot import UpstreamSpec

Method = Annotated[str, StringConstraints(pattern=r"^[A-Z]{1,20}$", max_length=20)]


class UpstreamRetryConfig(PluginConfig):
    retries: int = Field(1, ge=0, le=10)
    """Further attempts after a failure that was safe to repeat."""
    retry_statuses: tuple[Annotated[int, Field(ge=400, le=599)], ...] = Field((), max_length=50)
    """Answers after which to try again, such as 502 and 503."""
    retry_on_timeout: bool = False
    """Try again when no answer came within first_byte_timeout_ms."""
    retry_all_methods: bool = False
    """Repeat POST and PATCH, too: the upstream can tell a repeated request."""
    retry_backoff_ms: int = Field(25, ge=0, le=60_000)
    """Before a target is asked again: a random time up to this, twice as long each time."""
    retry_body_bytes: int = Field(0, ge=0, le=16_777_216)
    """Keep so much of a request's body to send it again. A longer one is sent once."""
    retry_budget_percent: int = Field(20, ge=0, le=100)
    """Further attempts as a share of the requests, besides ten a second. Kept for the upstream, not for the route."""
    methods: tuple[Method, ...] = Field((), max_length=20)
    """Requests with these methods go by these rules, others by the upstream's own. Empty: all."""


class UpstreamRetry(Plugin):
    name = "upstream-retry"
    Config = UpstreamRetryConfig
    config: UpstreamRetryConfig
    refuses = False

    def __init__(self, config: UpstreamRetryConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._methods = frozenset(config.methods)
        self._variants = Variants(self._changed)

    def access(self, exchange: Exchange) -> None:
        if self._methods and (exchange.upstream_method or exchange.method) not in self._methods:
            return
        assert exchange.upstream is not None
        exchange.upstream = self._variants.of(exchange.upstream)

    def _changed(self, upstream: UpstreamSpec) -> UpstreamSpec:
        config = self.config
        care = {
            "retry_statuses": frozenset(config.retry_statuses),
            "retry_on_timeout": config.retry_on_timeout,
            "retry_all": config.retry_all_methods,
            "backoff_s": config.retry_backoff_ms / 1000,
            "body_bytes": config.retry_body_bytes,
            "budget_share": config.retry_budget_percent / 100,
        }
        return changed(upstream, care, retries=config.retries)
