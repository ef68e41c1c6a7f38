"""The rate limits and quotas that hold for a consumer or a key, and what is left of them now.

What is left is read from the counters in Redis without touching them, and worked out by the same arithmetic that
decides about requests. Without Redis the limits are shown without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from time import time
from typing import Any

import msgpack  # type: ignore[import-untyped]
import redis
from django.conf import settings
from django.db.models import Q
from pydantic import ValidationError
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway.plugins.quota import Quota as QuotaPlugin
from gateway.plugins.quota import QuotaConfig
from gateway.plugins.quota import counter_prefix as quota_prefix
from gateway.plugins.rate_limiting import RateLimiting, RateLimitingConfig, counter_prefix
from gateway.proxy.limits import Limit, decide
from keys.models import ApiKey, Consumer
from routes.models import PluginSetting

TIMEOUT_S = 0.2
LIMITING = (RateLimiting.name, QuotaPlugin.name)
COUNTED_BY = {
    "consumer": "per consumer", "key": "per key", "ip": "per address", "header": "per header value",
    "route": "for the whole route",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit. `left` is this caller's now; None when it is not the caller who is counted, or not known.

    `room_in_s`: until one request is let through again; 0 while there is room.
    """

    setting: PluginSetting
    limit: Limit
    by: str
    counter: str = ""
    left: int | None = None
    room_in_s: float = 0.0
    unit: str = ""  # of the calendar, where it is one

    def __str__(self) -> str:
        return f"{self.limit.limit} per {self.unit or _window(self.limit.window_s)}"

    @property
    def counted(self) -> str:
        return COUNTED_BY[self.by]

    @property
    def capacity(self) -> int:
        return self.limit.capacity


def quotas_of(consumer_id: int, key_id: int | None = None) -> list[Quota]:
    """Those that hold for the caller: its own first, then those nearest to their end. One query (three where a setting
    has overrides), one call to Redis."""
    caller = _Caller(consumer_id, key_id)
    found = _with_left([quota for setting in _settings(consumer_id) for quota in _quotas(setting, caller)])
    return sorted(found, key=_urgency)


def own_limits(consumer_ids: Iterable[int]) -> dict[int, list[Quota]]:
    """Consumer → limits made for it alone, without what is left; 0 → those of everybody everywhere. One query."""
    wanted = Q(consumer_id__in=list(consumer_ids)) | Q(consumer=None, route=None, upstream=None)
    found: dict[int, list[Quota]] = {}
    for setting in PluginSetting.objects.filter(wanted, name__in=LIMITING, enabled=True):
        found.setdefault(setting.consumer_id or 0, []).extend(_quotas(setting, _Caller(0, None)))
    return found


def _settings(consumer_id: int) -> list[PluginSetting]:
    """The most specific setting wins whole: with the consumer before without, and a place before everywhere."""
    candidates = PluginSetting.objects.filter(
        Q(consumer=None) | Q(consumer_id=consumer_id), name__in=LIMITING, enabled=True
    ).select_related("route", "upstream", "consumer")
    return [setting for name in LIMITING for setting in _winners([one for one in candidates if one.name == name])]


def _winners(candidates: Iterable[PluginSetting]) -> list[PluginSetting]:
    """Of one plugin."""
    own: list[PluginSetting] = []
    general: list[PluginSetting] = []
    for setting in candidates:
        (own if setting.consumer_id else general).append(setting)
    places = {(setting.route_id, setting.upstream_id) for setting in own}
    if (None, None) in places:  # beats everything that does not name the consumer
        return own
    return own + [setting for setting in general if (setting.route_id, setting.upstream_id) not in places]


class _Caller:
    """Whose limits are looked for; asked for its names only where a setting makes a difference between callers."""

    def __init__(self, consumer_id: int, key_id: int | None) -> None:
        self.consumer_id, self.key_id = consumer_id, key_id

    def counted(self, by: str) -> str:
        """What the counter is called after. Empty: not this caller is counted, or it is not known who."""
        ids = {"consumer": self.consumer_id, "key": self.key_id}
        return f"{by}:{ids[by]}" if ids.get(by) else ""

    @cached_property
    def names(self) -> tuple[str, frozenset[str], str]:
        """Username, groups and the visible beginning of the key."""
        consumer = Consumer.objects.filter(pk=self.consumer_id).values_list("username", "groups").first()
        prefix = ApiKey.objects.filter(pk=self.key_id).values_list("prefix", flat=True).first() if self.key_id else ""
        username, groups = consumer or ("", ())
        return username, frozenset(groups), prefix or ""


def _quotas(setting: PluginSetting, caller: _Caller) -> list[Quota]:
    try:
        if setting.name == QuotaPlugin.name:
            return _periods(setting, QuotaConfig.model_validate(setting.config), caller)
        return _windows(setting, RateLimitingConfig.model_validate(setting.config), caller)
    except ValidationError:  # a draft that does not compile; it holds for nobody
        return []


def _periods(setting: PluginSetting, config: QuotaConfig, caller: _Caller) -> list[Quota]:
    now_s, counted = time(), caller.counted(config.by)
    return [
        Quota(
            setting,
            Limit("period", quota, found.end_s - now_s),
            config.by,
            f"{quota_prefix(setting.pk, found)}{counted}" if counted else "",
            unit=found.unit,
        )
        for found, quota in config.quotas(now_s)
    ]


def _windows(setting: PluginSetting, config: RateLimitingConfig, caller: _Caller) -> list[Quota]:
    counted, owner, limits = caller.counted(config.by), config.owner(setting.pk), config.all_limits()
    if config.overrides and caller.consumer_id and (override := config.override_for(*caller.names)) is not None:
        limits = config.limits_of(override)
    return [
        Quota(setting, limit, config.by, f"{counter_prefix(owner, limit)}{counted}" if counted else "")
        for limit in limits
    ]


def _urgency(quota: Quota) -> tuple[bool, float]:
    return quota.setting.consumer_id is None, 1.0 if quota.left is None else quota.left / quota.capacity


def _with_left(quotas: Sequence[Quota]) -> list[Quota]:
    counters = [quota.counter for quota in quotas if quota.counter]
    if not counters:
        return list(quotas)
    try:
        with _client(settings.REDIS_URL).pipeline(transaction=True) as pipe:
            (seconds, micros), packed = pipe.time().mget(counters).execute()
    except (redis.RedisError, OSError):
        return list(quotas)
    now_ms = seconds * 1000 + micros // 1000
    states = dict(zip(counters, packed, strict=True))
    return [_left(quota, states[quota.counter], now_ms) if quota.counter else quota for quota in quotas]


def _left(quota: Quota, packed: Any, now_ms: int) -> Quota:
    state = tuple(int(number) for number in msgpack.unpackb(packed)) if packed else ()
    (answer,), _ = decide([quota.limit], [state], now_ms)  # as if a request came now; nothing is written
    left = answer.remaining + 1 if answer.allowed else 0
    return replace(quota, left=left, room_in_s=answer.retry_after_s)


@cache
def _client(url: str) -> Any:
    return redis.Redis.from_url(
        url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
    )


def _window(seconds: float) -> str:
    for unit_s, unit in ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds % unit_s == 0:
            number = int(seconds // unit_s)
            return unit if number == 1 else f"{number} {unit}s"
    return f"{seconds:g} s"
