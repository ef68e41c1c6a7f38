"""rate-limiting: so many requests per window and caller, counted once for all workers and nodes.

Phases   access, response
Fails    429 `rate_limited` (or `error_code`). Without Redis as `on_error` says: 503 `redis_unavailable`, let through,
         or counted by each worker on its own
Compare  Kong's rate-limiting (`second` … `day`, `header_name`, `hide_client_headers`, `error_code`, `error_message`;
         `by` is its `limit_by`, `on_error` its `policy` and `fault_tolerant`)

Counters belong to the setting: a setting on one route counts that route, a global one counts everything together.
They survive edits of `limit` and `burst`; another window or algorithm starts afresh.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.callers import identity
from gateway.proxy import headers
from gateway.proxy.errors import RedisUnavailable, Reject
from gateway.proxy.exchange import Exchange
from gateway.proxy.limits import MAX_LIMIT, MAX_WINDOW_S, Algorithm, Limit, LimitState

_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_KONG_WINDOWS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}


_FIELDS = frozenset({
    b"ratelimit-policy", b"ratelimit", b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset",
})  # fmt: skip


def _seconds(value: object) -> object:
    """`"90s"`, `"1m"`, `"2h"`, `"1d"` as seconds; numbers stay."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", value.strip())
    if match is None:
        raise ValueError("Write a window as seconds or like '90s', '1m', '2h', '1d'.")
    return int(match[1]) * _UNITS_S[match[2]]


Window = Annotated[float, BeforeValidator(_seconds, json_schema_input_type=float | str)]


class LimitConfig(PluginConfig):
    limit: int = Field(ge=1, le=MAX_LIMIT)
    """Requests per window."""
    window: Window = Field(ge=1, le=MAX_WINDOW_S)
    """Length of the window, 1 s to 31 days: seconds, or `90s`, `1m`, `2h`, `1d`."""
    algorithm: Algorithm = "sliding-window"
    """`sliding-window` never admits more than `limit` in any window; `fixed-window` starts on the clock; `token-bucket`
    allows a burst and then an even rate."""
    burst: int = Field(0, ge=0, le=MAX_LIMIT)
    """Size of the bucket (token-bucket only). 0: equal to `limit`."""

    @model_validator(mode="after")
    def _burst_needs_a_bucket(self) -> LimitConfig:
        if self.burst and self.algorithm != "token-bucket":
            raise ValueError("burst goes with the algorithm token-bucket only.")
        return self


class RateLimitingConfig(PluginConfig):
    limits: tuple[LimitConfig, ...] = Field((), max_length=8)
    """Limits that hold together: a request passes if all have room, and is counted by all or none."""
    second: int | None = Field(None, ge=1, le=MAX_LIMIT)
    """Requests per second; short for an entry of `limits` with a sliding window."""
    minute: int | None = Field(None, ge=1, le=MAX_LIMIT)
    """Requests per minute, likewise."""
    hour: int | None = Field(None, ge=1, le=MAX_LIMIT)
    """Requests per hour, likewise."""
    day: int | None = Field(None, ge=1, le=MAX_LIMIT)
    """Requests per day, likewise."""
    by: Literal["consumer", "key", "ip", "header", "route"] = "consumer"
    """Whose requests are counted together. Whoever only a token names (`jwt`) counts as a consumer. Without a consumer,
    key or header it is the client's address (IPv6: its /64 network)."""
    header_name: str = Field("", max_length=64, pattern=r"^[A-Za-z0-9-]*$")
    """The header to count by, with `by: header`. Clients choose its value: take one that something trusted sets."""
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
            raise ValueError("Give at least one limit: in limits, or as second, minute, hour or day.")
        if len(set(windows)) < len(windows):
            raise ValueError("Two limits have the same window; one of them can never matter.")
        return self

    def all_limits(self) -> tuple[Limit, ...]:
        """`limits` and the short forms, shortest window first."""
        named = {window_s: getattr(self, name) for name, window_s in _KONG_WINDOWS.items()}
        limits = [Limit(entry.algorithm, entry.limit, entry.window, entry.burst) for entry in self.limits]
        limits += [Limit("sliding-window", limit, window_s) for window_s, limit in named.items() if limit is not None]
        return tuple(sorted(limits, key=lambda limit: limit.window_s))


class RateLimiting(Plugin):
    name = "rate-limiting"
    Config = RateLimitingConfig
    config: RateLimitingConfig

    def __init__(self, config: RateLimitingConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._limits = config.all_limits()
        self._prefixes = [(counter_prefix(setting_id, limit), limit) for limit in self._limits]
        self._identity = identity(config.by, config.header_name)
        self._capacities = [str(limit.capacity).encode() for limit in self._limits]
        self._names = [_policy_name(limit) for limit in self._limits]
        self._policy = ", ".join(
            f"{name};q={limit.capacity};w={_window_s(limit)}"
            for name, limit in zip(self._names, self._limits, strict=True)
        ).encode()

    async def access(self, exchange: Exchange) -> None:
        caller = self._identity(exchange)
        unit = [(prefix + caller, limit) for prefix, limit in self._prefixes]
        try:
            states = await self.resources.limiter.check(unit)
        except RedisUnavailable:
            if self.config.on_error == "deny":
                raise
            if self.config.on_error == "allow":
                return
            states = self.resources.limiter.check_local(unit)
        exchange.notes[self] = states
        for state in states:
            if not state.allowed:
                raise self._refused(exchange, states, caller)

    def response(self, exchange: Exchange) -> None:
        states: list[LimitState] | None = exchange.notes.get(self)
        if states is None:
            return
        assert exchange.response_headers is not None
        fields = [] if self.config.hide_client_headers else self._fields(states)
        if wait_s := _wait_s(states):
            fields.append((b"retry-after", b"%d" % wait_s))
            headers.remove(exchange.response_headers, b"retry-after")
        if fields:
            kept = [pair for pair in exchange.response_headers if pair[0] not in _FIELDS]
            exchange.response_headers[:] = kept + fields

    def _fields(self, states: list[LimitState]) -> headers.Pairs:
        """draft-ietf-httpapi-ratelimit-headers-11, and the older X- fields for the limit nearest to its end."""
        tightest = 0
        if len(states) > 1:
            tightest = min(
                range(len(states)), key=lambda i: (states[i].allowed, states[i].remaining, -states[i].reset_s)
            )
        rests = [
            f"{name};r={s.remaining};t={math.ceil(s.reset_s)}" for name, s in zip(self._names, states, strict=True)
        ]
        state = states[tightest]
        return [
            (b"ratelimit-policy", self._policy),
            (b"ratelimit", ", ".join(rests).encode()),
            (b"x-ratelimit-limit", self._capacities[tightest]),
            (b"x-ratelimit-remaining", str(state.remaining).encode()),
            (b"x-ratelimit-reset", str(math.ceil(state.reset_s)).encode()),
        ]

    def _refused(self, exchange: Exchange, states: list[LimitState], caller: str) -> Reject:
        full = max(range(len(states)), key=lambda i: states[i].retry_after_s)
        limit, wait_s = self._limits[full], _wait_s(states)
        rule = f"{limit.limit} per {limit.window_s:g} s"
        exchange.detail = f"rate-limiting: {caller} is over {rule} ({limit.algorithm}), room again in {wait_s} s"
        said = self.config.error_message or f"API rate limit exceeded: {rule}. Try again in {wait_s} s."
        return Reject(self.config.error_code, "rate_limited", said)


def counter_prefix(setting_id: int, limit: Limit) -> str:
    """Of the counter's key in Redis; who is counted (`consumer:5`) comes after it."""
    return f"hg:rl:{setting_id}:{limit.algorithm[0]}{limit.window_ms}:"


def _policy_name(limit: Limit) -> str:
    """A quoted string of structured fields, unique because windows are."""
    return f'"{limit.limit}-per-{limit.window_s:g}s"'


def _window_s(limit: Limit) -> int:
    """The time in which the whole quota comes back: for a bucket, the time it takes to fill."""
    return math.ceil(limit.capacity * limit.window_s / limit.limit)


def _wait_s(states: list[LimitState]) -> int:
    """Whole seconds until every limit has room; 0 when all have."""
    return math.ceil(max([state.retry_after_s for state in states]))
