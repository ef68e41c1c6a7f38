"""An upstream on other terms than its own, for the routes that ask for them. All others pay nothing for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gateway.proxy.snapshot import CarePolicy, UpstreamSpec


def changed(upstream: UpstreamSpec, care: dict[str, Any], **fields: Any) -> UpstreamSpec:
    """Its targets, their health and its circuit breaker stay those of the configured upstream."""
    policy = replace(upstream.care or CarePolicy(), **care)
    return replace(upstream, base=upstream.base or upstream, care=policy, **fields)


class Variants:
    """Made once for each upstream, and again when discovery or a plugin before puts another in its place."""

    def __init__(self, change: Callable[[UpstreamSpec], UpstreamSpec]) -> None:
        self._change = change
        self._made: dict[str, tuple[UpstreamSpec, UpstreamSpec]] = {}

    def of(self, upstream: UpstreamSpec) -> UpstreamSpec:
        made = self._made.get(upstream.name)
        if made is None or made[0] is not upstream:
            made = self._made[upstream.name] = upstream, self._change(upstream)
        return made[1]
