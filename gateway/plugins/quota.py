"""quota: so many requests of a consumer or key per day or month of the calendar, counted once for all nodes.

Phases   access, response
Fails    429 `quota_exceeded` (or `error_code`), which says when the period ends. Without Redis as `on_error` says: 503
         `redis_unavailable`, let through, or counted by each worker on its own
Compare  Kong's rate-limiting with `month` and a fixed window; Azure's and Apigee's quota

A counter's key names its period, so nobody has to do anything at the end of one. What Redis loses, the recorder puts
back from the usage rows (`dashboard/reconcile.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.callers import identity
from gateway.plugins.periods import Period, Unit, moment, period
from gateway.plugins.rates import FIELDS, Rule, seconds_to_wait
from gateway.proxy import headers
from gateway.proxy.errors import RedisUnavailable, Reject
from gateway.proxy.exchange import Exchange
from gateway.proxy.limits import Limit, LimitState

MAX_QUOTA = 1_000_000_000


class QuotaConfig(PluginConfig):
    day: int | None = Field(None, ge=1, le=MAX_QUOTA)
    """Requests per day (UTC)."""
    month: int | None = Field(None, ge=1, le=MAX_QUOTA)
    """Requests per month, from `reset_day` to the day before the next one (UTC)."""
    reset_day: int = Field(1, ge=1, le=28)
    """On which day months begin, such as that of the invoice."""
    by: Literal["consumer", "key"] = "consumer"
    """Whose requests are counted together. Without a consumer or key it is the client's address (IPv6: its /64
    network), which is not put back after a loss."""
    on_error: Literal["deny", "allow", "local"] = "local"
    """When Redis is away: refuse with 503, let everything through, or count in each worker's own memory from 0."""
    hide_client_headers: bool = False
    """Do not tell clients about quotas in headers. `Retry-After` stays on refusals."""
    error_code: int = Field(429, ge=400, le=599)
    """Status of a refusal."""
    error_message: str = Field("", max_length=500)
    """Sentence for refused clients. Empty: one that names the quota and when it is full again."""

    @model_validator(mode="after")
    def _has_one(self) -> QuotaConfig:
        if self.day is None and self.month is None:
            raise ValueError("Give day, month or both.")
        return self

    def quotas(self, now_s: float) -> list[tuple[Period, int]]:
        units: tuple[tuple[Unit, int | None], ...] = (("day", self.day), ("month", self.month))
        return [(period(unit, now_s, self.reset_day), quota) for unit, quota in units if quota is not None]


class Quota(Plugin):
    name = "quota"
    Config = QuotaConfig
    config: QuotaConfig

    def __init__(self, config: QuotaConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._identity = identity(config.by)
        self._quotas: list[tuple[Period, int]] = []
        self._counters: list[tuple[str, Limit]] = []  # their keys' beginnings, and what is left of the periods
        self._until_s = -math.inf  # so long they are right

    async def access(self, exchange: Exchange) -> None:
        now_s = self.resources.wall()
        if now_s >= self._until_s:
            self._turn(now_s)
        caller = self._identity(exchange)
        unit = [(prefix + caller, limit) for prefix, limit in self._counters]
        try:
            states = await self.resources.limiter.check(unit)
        except RedisUnavailable:
            if self.config.on_error == "deny":
                raise
            if self.config.on_error == "allow":
                return
            states = self.resources.limiter.check_local(unit)
        exchange.notes[self] = self._rule, states
        if seconds_to_wait(states):
            raise self._refused(exchange, caller, states)

    def response(self, exchange: Exchange) -> None:
        found: tuple[Rule, Sequence[LimitState]] | None = exchange.notes.get(self)
        if found is None:
            return
        assert exchange.response_headers is not None
        rule, states = found
        fields = [] if self.config.hide_client_headers else rule.fields(states)
        if (wait_s := seconds_to_wait(states)) and not self.dry_run:
            fields.append((b"retry-after", b"%d" % wait_s))
            headers.remove(exchange.response_headers, b"retry-after")
        if fields:
            kept = [pair for pair in exchange.response_headers if pair[0] not in FIELDS]
            exchange.response_headers[:] = kept + fields

    def _turn(self, now_s: float) -> None:
        """A second is over, and maybe a period: clients are told in whole seconds when it ends."""
        self._quotas = quotas = self.config.quotas(now_s)
        self._until_s = min(now_s + 1, *(found.end_s for found, _ in quotas))
        prefixes = [counter_prefix(self.setting_id, found) for found, _ in quotas]
        lefts = [Limit("period", quota, found.end_s - now_s) for found, quota in quotas]
        self._counters = list(zip(prefixes, lefts, strict=True))
        limits = tuple(Limit("period", quota, found.end_s - found.start_s) for found, quota in quotas)
        self._rule = Rule(limits, prefixes, [f'"{quota}-per-{found.unit}"' for found, quota in quotas])

    def _refused(self, exchange: Exchange, caller: str, states: Sequence[LimitState]) -> Reject:
        full = max(range(len(states)), key=lambda i: states[i].retry_after_s)
        found, quota = self._quotas[full]
        said = f"{quota} per {found.unit}"
        until = moment(found.end_s).strftime("%Y-%m-%dT%H:%M:%SZ")
        exchange.detail = f"quota: {caller} has used {said}, full again at {until}"
        message = self.config.error_message or f"Your quota of {said} is used up. It is full again at {until}."
        return Reject(self.config.error_code, "quota_exceeded", message)


def counter_prefix(setting_id: int, found: Period) -> str:
    """Of the counter's key in Redis; who is counted (`consumer:5`) comes after it."""
    return f"hg:quota:{setting_id}:{found.unit}:{found.date}:"
