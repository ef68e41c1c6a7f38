"""traffic-split: leads requests to other upstreams than the route's: by weights, as a growing canary, or blue or green.

Phases   access
Fails    as the upstream does. Needs no network, so it cannot fail open
Compare  Kong's canary (`canary`, `start`, `duration`, `to_percent`; `percentage`, `hash` as `sticky`), APISIX'
         traffic-split, Traefik's weighted services

Settings for an upstream (plugins scoped to it) go by the upstream of the route, which was chosen before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from random import random
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.callers import By, identity
from gateway.plugins.ramps import Ramp, moment, point_of, points
from gateway.plugins.rates import UpstreamName, Window
from gateway.proxy import headers
from gateway.proxy.exchange import Exchange

FieldName = Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9!#$%&'*+.^_|~-]*$")]
Moment = Annotated[str, StringConstraints(max_length=40), AfterValidator(lambda text: text and (moment(text), text)[1])]


class WeightConfig(PluginConfig):
    upstream: UpstreamName = Field(min_length=1)
    """Name of an upstream."""
    weight: int = Field(100, ge=0, le=1_000_000)
    """Its share, as against the others. 0: nothing but what `pins` lead there."""


class PinConfig(PluginConfig):
    upstream: UpstreamName = Field(min_length=1)
    """Where such requests go, whatever the shares."""
    consumer: str = Field("", max_length=200)
    """Requests of the consumer with this username,"""
    header: FieldName = ""
    """or with this header field,"""
    cookie: FieldName = ""
    """or with this cookie."""
    value: str = Field("", max_length=200)
    """What the field or cookie must be. Empty: anything."""

    @model_validator(mode="after")
    def _says_which(self) -> PinConfig:
        if [bool(self.consumer), bool(self.header), bool(self.cookie)].count(True) != 1:
            raise ValueError("Say which requests: one of consumer, header and cookie.")
        if self.consumer and self.value:
            raise ValueError("value goes with header or cookie.")
        return self


class TrafficSplitConfig(PluginConfig):
    weights: tuple[WeightConfig, ...] = Field((), max_length=20)
    """Upstreams that share the traffic. One of `weights`, `canary` and `blue` with `green` decides."""
    canary: UpstreamName = ""
    """Name of the upstream that gets a share; all else goes where the route leads."""
    from_percent: float = Field(0.0, ge=0, le=100)
    """The canary's share at `start`."""
    to_percent: float = Field(100.0, ge=0, le=100)
    """Its share at the end, and from then on. Without `start`: at once."""
    start: Moment = ""
    """When the canary begins, like `2026-03-01T20:00:00Z`; before, it gets nothing."""
    end: Moment = ""
    """When its share has become `to_percent`. Or say so by `duration`."""
    duration: Window = Field(0, ge=0, le=366 * 86_400)
    """How long from `start` to `to_percent`: seconds, or `30m`, `2h`, `1d`."""
    blue: UpstreamName = ""
    """Name of one of two upstreams of which one gets everything."""
    green: UpstreamName = ""
    """Name of the other."""
    active: Literal["blue", "green"] = "blue"
    """Which of them gets everything: the switch, forth and back."""
    pins: tuple[PinConfig, ...] = Field((), max_length=100)
    """Requests that always go to one upstream. The first that fits counts."""
    sticky: Literal["none", "consumer", "key", "ip", "header", "cookie"] = "consumer"
    """Who stays where they are while shares stay: by a hash, without a cookie of ours. A growing share only adds to who
    is in it. Without a consumer, key, field or cookie it is the client's address; `none`: each request by itself."""
    sticky_name: FieldName = ""
    """Name of the header or cookie to go by, with `sticky: header` or `cookie`."""

    @model_validator(mode="after")
    def _fits_together(self) -> TrafficSplitConfig:
        if [bool(self.weights), bool(self.canary), bool(self.blue or self.green)].count(True) != 1:
            raise ValueError("Give one of: weights; canary; blue and green.")
        if bool(self.blue) != bool(self.green):
            raise ValueError("blue and green go together.")
        if self.weights and not any(entry.weight for entry in self.weights):
            raise ValueError("No upstream of weights has a weight.")
        if (self.sticky in ("header", "cookie")) != bool(self.sticky_name):
            raise ValueError("sticky_name goes with `sticky: header` or `sticky: cookie`, and they need it.")
        if (self.end or self.duration) and not self.start:
            raise ValueError("end and duration go with start.")
        if self.end and self.duration:
            raise ValueError("Give end or duration, not both.")
        if self.end and moment(self.end) <= moment(self.start):
            raise ValueError("end comes after start.")
        if self.start and not self.canary:
            raise ValueError("start goes with canary.")
        return self

    def upstreams_named(self) -> Sequence[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = [
            ((name,), named) for name in ("canary", "blue", "green") if (named := getattr(self, name))
        ]
        found += [(("weights", place, "upstream"), one.upstream) for place, one in enumerate(self.weights)]
        return found + [(("pins", place, "upstream"), one.upstream) for place, one in enumerate(self.pins)]

    def ramp(self) -> Ramp:
        first, last = self.from_percent / 100, self.to_percent / 100
        if not self.start:
            return Ramp(last, last)
        start_s = moment(self.start)
        return Ramp(first, last, start_s, moment(self.end) if self.end else start_s + self.duration)


class TrafficSplit(Plugin):
    name = "traffic-split"
    Config = TrafficSplitConfig
    config: TrafficSplitConfig
    refuses = False

    def __init__(self, config: TrafficSplitConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._pins = [(one, one.header.lower().encode(), one.cookie.encode()) for one in config.pins]
        self._ramp = config.ramp()
        self._names = [entry.upstream for entry in config.weights if entry.weight]
        total = sum(entry.weight for entry in config.weights)
        self._bounds = [sum_ / total for sum_ in accumulate(entry.weight for entry in config.weights if entry.weight)]
        self._salt = b"%d" % setting_id
        self._next = points(random())  # noqa: S311 - spreads a load, guards no secret
        self._point = self._pointer()

    def access(self, exchange: Exchange) -> None:
        name = (self._pins and self._pinned(exchange)) or self._chosen(exchange)
        if name:
            exchange.upstream = self.upstreams[name]

    def _chosen(self, exchange: Exchange) -> str:
        """Empty: where the route leads."""
        if self._names:
            point = self._point(exchange)
            return next(
                (name for name, end in zip(self._names, self._bounds, strict=True) if point < end), self._names[-1]
            )
        if self.config.canary:
            return self.config.canary if self._point(exchange) < self._ramp.share(self.resources.wall()) else ""
        return self.config.blue if self.config.active == "blue" else self.config.green

    def _pinned(self, exchange: Exchange) -> str:
        for pin, header, cookie in self._pins:
            if pin.consumer:
                consumer = exchange.consumer
                if consumer is not None and consumer.id and consumer.username == pin.consumer:
                    return pin.upstream
                continue
            values = headers.get_all(exchange.headers, header) if header else [headers.cookie(exchange.headers, cookie)]
            if any(value is not None and (not pin.value or value == pin.value.encode()) for value in values):
                return pin.upstream
        return ""

    def _pointer(self) -> Callable[[Exchange], float]:
        """Where a request stands between 0 and 1."""
        sticky, salt, following = self.config.sticky, self._salt, self._next
        if sticky == "none":
            return lambda exchange: following()
        if sticky == "cookie":
            name, by_ip = self.config.sticky_name.encode(), identity("ip")
            return lambda exchange: point_of(headers.cookie(exchange.headers, name) or by_ip(exchange).encode(), salt)
        by: By = sticky
        caller = identity(by, self.config.sticky_name)
        return lambda exchange: point_of(caller(exchange).encode(), salt)
