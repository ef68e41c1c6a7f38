"""Limits as operators write them and as clients are told of them, and other words that several plugins' configs use."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from gateway.plugins.base import PluginConfig
from gateway.proxy import headers
from gateway.proxy.limits import BUCKETS, MAX_LIMIT, MAX_WINDOW_S, Limit, LimitState

Algorithm = Literal["token-bucket", "leaky-bucket", "sliding-window", "fixed-window"]

_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_KONG_WINDOWS = {
    "second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0, "month": 30 * 86_400.0, "year": 365 * 86_400.0,
}  # fmt: skip

FIELDS = frozenset({
    b"ratelimit-policy", b"ratelimit", b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset",
    b"x-ratelimit-dry-run",
})  # fmt: skip
MAX_DELAY_S = 60
TOO_LARGE = "A bucket so large over a window so long cannot be counted exactly; use another algorithm."


def _seconds(value: object) -> object:
    """`"90s"`, `"1m"`, `"2h"`, `"1d"`, `"4w"` as seconds; numbers stay."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([0-9]{1,9})([smhdw]?)", value.strip())
    if match is None:
        raise ValueError("Write a window as seconds or like '90s', '1m', '2h', '1d', '4w'.")
    return int(match[1]) * _UNITS_S[match[2]]


#: Empty where that says something.
UpstreamName = Annotated[str, StringConstraints(max_length=100, pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,99})?$")]
Window = Annotated[float, BeforeValidator(_seconds, json_schema_input_type=float | str)]


class LimitConfig(PluginConfig):
    limit: int = Field(ge=1, le=MAX_LIMIT)
    """Requests per window."""
    window: Window = Field(ge=1, le=MAX_WINDOW_S)
    """Length of the window, 1 s to 366 days: seconds, or `90s`, `1m`, `2h`, `1d`, `4w`."""
    algorithm: Algorithm = "sliding-window"
    """`sliding-window` never admits more than `limit` in any window; `fixed-window` starts on the clock; `token-bucket`
    and `leaky-bucket` allow a burst and then an even rate."""
    burst: int = Field(0, ge=0, le=MAX_LIMIT)
    """Size of the bucket (token-bucket and leaky-bucket only). 0: equal to `limit`."""

    delay: bool = False
    """Who passes waits for its turn, so that the upstream gets requests evenly (leaky-bucket only, and with a bucket
    that leaks within a minute). `burst` is then how many may wait."""

    @model_validator(mode="after")
    def _fits_a_bucket(self) -> LimitConfig:
        if self.delay and self.algorithm != "leaky-bucket":
            raise ValueError("delay goes with the algorithm leaky-bucket only.")
        if self.delay and self.as_limit().capacity * self.window > self.limit * MAX_DELAY_S:
            raise ValueError(f"The last to pass would wait for more than {MAX_DELAY_S} s; give a smaller burst.")
        if self.burst and self.algorithm not in BUCKETS:
            raise ValueError("burst goes with the algorithms token-bucket and leaky-bucket only.")
        if not self.as_limit().exact:
            raise ValueError(TOO_LARGE)
        return self

    def as_limit(self) -> Limit:
        return Limit(self.algorithm, self.limit, self.window, self.burst)


class ShortLimits(PluginConfig):
    """Kong's way to write limits: one for each length of window."""

    second: int | None = Field(None, ge=1, le=MAX_LIMIT)
    """Requests per second; short for an entry of `limits` with `algorithm`."""
    minute: int | None = Field(None, ge=1, le=MAX_LIMIT)
    """Requests per minute, likewise."""
    hour: int | None = Field(None, ge=1, le=MAX_LIMIT)
    """Requests per hour, likewise."""
    day: int | None = Field(None, ge=1, le=MAX_LIMIT)
    """Requests per day, likewise."""
    month: int | None = Field(None, ge=1, le=MAX_LIMIT)
    """Requests per 30 days, likewise."""
    year: int | None = Field(None, ge=1, le=MAX_LIMIT)
    """Requests per 365 days, likewise."""

    def short_limits(self, algorithm: Algorithm) -> list[Limit]:
        named = ((getattr(self, name), window_s) for name, window_s in _KONG_WINDOWS.items())
        return [Limit(algorithm, limit, window_s) for limit, window_s in named if limit is not None]


class OverrideConfig(ShortLimits):
    consumer: str = Field("", max_length=200)
    """Username of the consumer these limits are for."""
    group: str = Field("", max_length=64)
    """Or the group whose members they are for, each for itself."""
    key_prefix: str = Field("", max_length=64)
    """Or the beginning of the keys they are for, such as `hg_test_`."""
    unlimited: bool = False
    """No limits at all."""

    @model_validator(mode="after")
    def _fits_together(self) -> OverrideConfig:
        if [bool(self.consumer), bool(self.group), bool(self.key_prefix)].count(True) != 1:
            raise ValueError("Say for whom: one of consumer, group and key_prefix.")
        if self.unlimited == bool(self.short_limits("sliding-window")):
            raise ValueError("Give limits (second to year), or unlimited.")
        return self


def by_window(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    """Shortest window first."""
    return tuple(sorted(limits, key=lambda limit: limit.window_s))


class Rule:
    """Limits that hold together, with all that can be written down before a request comes.

    `prefixes`: of the counter's key, for each limit. `names`: of the limits for clients, in quotes; else made of
    numbers. `most`: what a request can cost and still pass.
    """

    __slots__ = ("_capacities", "_names", "_policy", "_prefixes", "limits", "most")

    def __init__(self, limits: tuple[Limit, ...], prefixes: Sequence[str], names: Sequence[str] = ()) -> None:
        self.limits = limits
        self.most = min((limit.capacity for limit in limits), default=0)
        self._prefixes = list(zip(prefixes, limits, strict=True))
        self._capacities = [str(limit.capacity).encode() for limit in limits]
        self._names = [name.encode() for name in names] or [_policy_name(limit) for limit in limits]
        self._policy = b", ".join(
            [
                b"%b;q=%d;w=%d" % (name, limit.capacity, _window_s(limit))
                for name, limit in zip(self._names, limits, strict=True)
            ]
        )

    def unit(self, caller: str) -> list[tuple[str, Limit]]:
        return [(prefix + caller, limit) for prefix, limit in self._prefixes]

    def fields(self, states: Sequence[LimitState]) -> headers.Pairs:
        """draft-ietf-httpapi-ratelimit-headers-11, and the older X- fields for the limit nearest to its end."""
        tightest = 0
        if len(states) > 1:
            tightest = min(
                range(len(states)), key=lambda i: (states[i].allowed, states[i].remaining, -states[i].reset_s)
            )
        rests = [
            b"%b;r=%d;t=%d" % (name, s.remaining, math.ceil(s.reset_s))
            for name, s in zip(self._names, states, strict=True)
        ]
        state = states[tightest]
        return [
            (b"ratelimit-policy", self._policy),
            (b"ratelimit", b", ".join(rests)),
            (b"x-ratelimit-limit", self._capacities[tightest]),
            (b"x-ratelimit-remaining", b"%d" % state.remaining),
            (b"x-ratelimit-reset", b"%d" % math.ceil(state.reset_s)),
        ]


def seconds_to_wait(states: Sequence[LimitState]) -> int:
    """Whole seconds until every limit has room; 0 when all have."""
    return math.ceil(max([state.retry_after_s for state in states]))


def _policy_name(limit: Limit) -> bytes:
    """A quoted string of structured fields, unique because windows are."""
    return f'"{limit.limit}-per-{limit.window_s:g}s"'.encode()


def _window_s(limit: Limit) -> int:
    """The time in which the whole quota comes back: for a bucket, the time it takes to fill."""
    return math.ceil(limit.capacity * limit.window_s / limit.limit)
