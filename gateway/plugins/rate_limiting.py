"""rate-limiting: so many requests per window and caller, counted once for all workers and nodes.

Phases   access, response
Fails    429 `rate_limited` (or `error_code`). Without Redis as `on_error` says: 503 `redis_unavailable`, let through,
         or counted by each worker on its own
Compare  Kong's rate-limiting (`second` … `year`, `header_name`, `hide_client_headers`, `error_code`, `error_message`;
         `by` is its `limit_by`, `on_error` its `policy` and `fault_tolerant`)

Counters belong to the setting: a setting on one route counts that route, a global one counts everything together, and
settings with the same `shared` name count as one. They survive edits of `limit` and `burst`; another window or
algorithm starts afresh.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from functools import lru_cache
from typing import Literal

from pydantic import Field, model_validator

from gateway.plugins.base import Plugin, Resources
from gateway.plugins.callers import identity
from gateway.plugins.rates import (
    FIELDS,
    TOO_LARGE,
    Algorithm,
    LimitConfig,
    OverrideConfig,
    Rule,
    ShortLimits,
    by_window,
    seconds_to_wait,
)
from gateway.proxy import headers
from gateway.proxy.errors import RedisUnavailable, Reject
from gateway.proxy.exchange import Exchange
from gateway.proxy.limits import MAX_LIMIT, Limit, LimitState

_WHOLE = re.compile(rb"[0-9]{1,18}")


class RateLimitingConfig(ShortLimits):
    limits: tuple[LimitConfig, ...] = Field((), max_length=8)
    """Limits that hold together: a request passes if all have room, and is counted by all or none."""
    algorithm: Algorithm = "sliding-window"
    """Of `second` to `year`, here and in `overrides`."""
    by: Literal["consumer", "key", "ip", "header", "route"] = "consumer"
    """Whose requests are counted together. Whoever only a token names (`jwt`) counts as a consumer. Without a consumer,
    key or header it is the client's address (IPv6: its /64 network)."""
    header_name: str = Field("", max_length=64, pattern=r"^[A-Za-z0-9-]*$")
    """The header to count by, with `by: header`. Clients choose its value: take one that something trusted sets."""
    shared: str = Field("", max_length=64, pattern=r"^[A-Za-z0-9_.-]*$")
    """A name: all settings of this name count together, whatever their routes. With `by: route` they count everybody's
    requests as one."""
    overrides: tuple[OverrideConfig, ...] = Field((), max_length=200)
    """Other limits for some callers, in the place of all others. A key's go before a consumer's, a consumer's before
    its groups'; of several that fit the first."""
    cost: int = Field(1, ge=1, le=MAX_LIMIT)
    """How much of the limits a request takes."""
    cost_header: str = Field("", max_length=64, pattern=r"^[A-Za-z0-9-]*$")
    """A header of the request that says how much it takes, as a whole number from 1. Without one, or with another
    value, it is `cost`. Clients choose its value: take one that something trusted sets."""
    max_cost: int = Field(0, ge=0, le=MAX_LIMIT)
    """The most that `cost_header` can say; more counts as this. 0, or more than a limit holds: what the limit holds."""
    dry_run: bool = False
    """The same as `dry_run` of the setting: count and tell, but never refuse."""
    on_error: Literal["deny", "allow", "local"] = "local"
    """When Redis is away: refuse with 503, let everything through, or count in each worker's own memory (so the limit
    holds per worker)."""
    hide_client_headers: bool = False
    """Do not tell clients about limits in headers. `Retry-After` stays on refusals."""
    error_code: int = Field(429, ge=400, le=599)
    """Status of a refusal."""
    error_message: str = Field("", max_length=500)
    """Sentence for refused clients. Empty: one that names the limit and the wait."""

    @model_validator(mode="after")
    def _fits_together(self) -> RateLimitingConfig:
        if (self.by == "header") != bool(self.header_name):
            raise ValueError("header_name goes with `by: header`, and `by: header` needs it.")
        windows = [limit.window_s for limit in self.all_limits()]
        if not windows:
            raise ValueError("Give at least one limit: in limits, or as second, minute, hour, day, month or year.")
        if len(set(windows)) < len(windows):
            raise ValueError("Two limits have the same window; one of them can never matter.")
        every = [*self.all_limits(), *(limit for override in self.overrides for limit in self.limits_of(override))]
        if not all(limit.exact for limit in every):
            raise ValueError(TOO_LARGE)
        if self.max_cost and not self.cost_header:
            raise ValueError("max_cost goes with cost_header.")
        if self.cost > min(limit.capacity for limit in every):
            raise ValueError("cost is more than the smallest limit ever holds: nothing would pass.")
        return self

    def all_limits(self) -> tuple[Limit, ...]:
        """`limits` and the short forms, shortest window first."""
        return by_window([*(entry.as_limit() for entry in self.limits), *self.short_limits(self.algorithm)])

    def limits_of(self, override: OverrideConfig) -> tuple[Limit, ...]:
        return by_window(override.short_limits(self.algorithm))

    def override_for(self, username: str, groups: Collection[str], key: str) -> OverrideConfig | None:
        """That of a caller; empty texts: it has none."""
        by_key = (one for one in self.overrides if one.key_prefix and key.startswith(one.key_prefix))
        by_name = (one for one in self.overrides if one.consumer and one.consumer == username)
        by_group = (one for one in self.overrides if one.group and one.group in groups)
        for found in (by_key, by_name, by_group):
            if (one := next(found, None)) is not None:
                return one
        return None

    def owner(self, setting_id: int) -> str:
        """Whose the counters are: see `counter_prefix`."""
        return f"@{self.shared}" if self.shared else str(setting_id)


class RateLimiting(Plugin):
    name = "rate-limiting"
    Config = RateLimitingConfig
    config: RateLimitingConfig

    def __init__(self, config: RateLimitingConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self.dry_run = config.dry_run
        self._rule = self._ready(config.all_limits())
        self._others = {id(one): self._ready(config.limits_of(one)) for one in config.overrides}
        self._override_for = lru_cache(maxsize=4096)(config.override_for)
        whole = config.shared and config.by == "route"
        self._identity = _everybody if whole else identity(config.by, config.header_name)
        self._delayed = {entry.window for entry in config.limits if entry.delay}  # no two have the same window
        self._cost_header = config.cost_header.lower().encode()

    async def access(self, exchange: Exchange) -> None:
        rule = self._rule if not self._others else self._rule_for(exchange)
        if not rule.limits:
            return
        caller = self._identity(exchange)
        unit = rule.unit(caller)
        cost = self.config.cost if not self._cost_header else self._cost(exchange, rule)
        try:
            states = await self.resources.limiter.check(unit, cost)
        except RedisUnavailable:
            if self.config.on_error == "deny":
                raise
            if self.config.on_error == "allow":
                return
            states = self.resources.limiter.check_local(unit, cost)
        exchange.notes[self] = rule, states
        for state in states:
            if not state.allowed:
                raise self._refused(exchange, rule, states, caller)
        if self._delayed and rule is self._rule and not self.dry_run:
            await self._turn(states, cost)

    async def _turn(self, states: list[LimitState], cost: int) -> None:
        """Waits until what was in the bucket before has leaked."""
        waits_s = [
            state.reset_s - cost * limit.window_s / limit.limit
            for limit, state in zip(self._rule.limits, states, strict=True)
            if limit.window_s in self._delayed
        ]
        if (wait_s := max(waits_s)) > 0:
            await asyncio.sleep(wait_s)

    def response(self, exchange: Exchange) -> None:
        found: tuple[Rule, list[LimitState]] | None = exchange.notes.get(self)
        if found is None:
            return
        assert exchange.response_headers is not None
        rule, states = found
        fields = [] if self.config.hide_client_headers else rule.fields(states)
        if self.dry_run:
            if fields:
                fields.append((b"x-ratelimit-dry-run", b"refuse" if seconds_to_wait(states) else b"pass"))
        elif wait_s := seconds_to_wait(states):
            fields.append((b"retry-after", b"%d" % wait_s))
            headers.remove(exchange.response_headers, b"retry-after")
        if fields:
            kept = [pair for pair in exchange.response_headers if pair[0] not in FIELDS]
            exchange.response_headers[:] = kept + fields

    def _ready(self, limits: tuple[Limit, ...]) -> Rule:
        owner = self.config.owner(self.setting_id)
        return Rule(limits, [counter_prefix(owner, limit) for limit in limits])

    def _rule_for(self, exchange: Exchange) -> Rule:
        consumer, credential = exchange.consumer, exchange.credential
        if consumer is None:
            return self._rule
        key = credential.hint if credential is not None and credential.kind == "key" else ""
        username = consumer.username if consumer.id else ""  # a token may call itself like a consumer of ours
        override = self._override_for(username, consumer.groups, key)
        return self._rule if override is None else self._others[id(override)]

    def _cost(self, exchange: Exchange, rule: Rule) -> int:
        values = headers.get_all(exchange.headers, self._cost_header)
        if len(values) != 1 or _WHOLE.fullmatch(values[0]) is None:
            return self.config.cost
        return min(max(1, int(values[0])), rule.most, self.config.max_cost or MAX_LIMIT)

    def _refused(self, exchange: Exchange, rule: Rule, states: list[LimitState], caller: str) -> Reject:
        full = max(range(len(states)), key=lambda i: states[i].retry_after_s)
        limit, wait_s = rule.limits[full], seconds_to_wait(states)
        said = f"{limit.limit} per {limit.window_s:g} s"
        exchange.detail = f"rate-limiting: {caller} is over {said} ({limit.algorithm}), room again in {wait_s} s"
        message = self.config.error_message or f"API rate limit exceeded: {said}. Try again in {wait_s} s."
        return Reject(self.config.error_code, "rate_limited", message)


def _everybody(exchange: Exchange) -> str:
    return "everybody"


def counter_prefix(owner: str, limit: Limit) -> str:
    """Of the counter's key in Redis; who is counted (`consumer:5`) follows. `owner`: a setting's id or `@name`."""
    return f"hg:rl:{owner}:{limit.algorithm[0]}{limit.window_ms}:"
