"""fault-injection: makes some requests slow, and some fail, to see what clients make of it.

Phases   access
Fails    `fault_injected` with the status of `abort`, which is the point; never by itself
Compare  Kong's catalogue has none; Envoy's fault filter (`abort`, `delay`, `percentage`) and APISIX' fault-injection

A request that is made to fail is not sent upstream, and a delay is over before one is: no target is blamed for either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from random import Random
from typing import Literal

from pydantic import Field, model_validator

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.proxy import headers
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Exchange

MAX_DELAY_MS = 60_000


class AbortConfig(PluginConfig):
    percentage: float = Field(0.0, ge=0, le=100)
    """Of the requests, how many fail."""
    status: int = Field(503, ge=400, le=599)
    """Status of the failure."""
    message: str = Field("", max_length=500)
    """Sentence for the client. Empty: one that says it is a test."""


class DelayConfig(PluginConfig):
    percentage: float = Field(0.0, ge=0, le=100)
    """Of the requests, how many wait; drawn apart from those that fail."""
    duration_ms: int = Field(1000, ge=1, le=MAX_DELAY_MS)
    """How long; for `normal` and `exponential` the mean."""
    distribution: Literal["fixed", "uniform", "normal", "exponential"] = "fixed"
    """All wait as long; or evenly within `spread_ms` around it; or with `spread_ms` as the standard deviation; or most
    of them briefly, few of them for long. Never longer than a minute."""
    spread_ms: int = Field(0, ge=0, le=MAX_DELAY_MS)
    """With `uniform` and `normal` only."""

    @model_validator(mode="after")
    def _spreads(self) -> DelayConfig:
        if bool(self.spread_ms) != (self.distribution in ("uniform", "normal")):
            raise ValueError("spread_ms goes with the distributions uniform and normal, and these need it.")
        return self


class FaultInjectionConfig(PluginConfig):
    abort: AbortConfig = AbortConfig()
    """Requests that fail."""
    delay: DelayConfig = DelayConfig()
    """Requests that wait before they go on, or fail."""
    trigger: str = Field("", max_length=64, pattern=r"^[A-Za-z0-9-]*$")
    """Only requests with a header of this name. Empty: all."""
    max_delayed: int = Field(1000, ge=1, le=100_000)
    """So many requests wait at the same time in a worker; others are not delayed then."""

    @model_validator(mode="after")
    def _injects_something(self) -> FaultInjectionConfig:
        if not self.abort.percentage and not self.delay.percentage:
            raise ValueError("Give abort or delay a percentage.")
        return self


class FaultInjection(Plugin):
    name = "fault-injection"
    Config = FaultInjectionConfig
    config: FaultInjectionConfig

    def __init__(self, config: FaultInjectionConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._trigger = config.trigger.lower().encode()
        self._random = Random()  # noqa: S311 (a sample, not a secret)
        self._waiting = 0

    def access(self, exchange: Exchange) -> Awaitable[None] | None:
        if self._trigger and headers.get(exchange.headers, self._trigger) is None:
            return None
        delay, abort = self.config.delay, self.config.abort
        waits = (
            not self.dry_run
            and self._random.random() * 100 < delay.percentage
            and self._waiting < self.config.max_delayed
        )
        fails = self._random.random() * 100 < abort.percentage
        if waits:
            return self._later(exchange, delay_s(delay, self._random), fails)
        if fails:
            raise self._failure(exchange)
        return None

    async def _later(self, exchange: Exchange, seconds: float, fails: bool) -> None:
        exchange.detail = f"fault-injection: waited {seconds * 1000:.0f} ms"
        self._waiting += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._waiting -= 1
        if fails:
            raise self._failure(exchange)

    def _failure(self, exchange: Exchange) -> Reject:
        exchange.detail = f"{exchange.detail}, then failed" if exchange.detail else "fault-injection: failed"
        abort = self.config.abort
        return Reject(abort.status, "fault_injected", abort.message or "This request was made to fail, as a test.")


def delay_s(delay: DelayConfig, random: Random) -> float:
    """From 0 to a minute."""
    mean, spread = delay.duration_ms, delay.spread_ms
    match delay.distribution:
        case "uniform":
            drawn = random.uniform(mean - spread, mean + spread)
        case "normal":
            drawn = random.gauss(mean, spread)
        case "exponential":
            drawn = random.expovariate(1 / mean)
        case _:
            drawn = mean
    return min(max(drawn, 0), MAX_DELAY_MS) / 1000
