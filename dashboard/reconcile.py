"""Puts quotas' counters back after Redis lost them: none may be below what the usage rows say.

A keeper beside the recorder looks for a mark in Redis. Where it is missing (the first start, a flush, another server)
counters are raised to the rows' sums, some times in a row, for rows come a second after their requests. Counters are
only ever raised, so this is harmless at any time; `manage.py quotas` does it at once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import redis
from django.db import Error, connection
from django.db.models import Count, Q
from pydantic import ValidationError
from redis.backoff import NoBackoff
from redis.retry import Retry

from dashboard.models import UsageRow
from gateway.plugins.periods import Period
from gateway.plugins.quota import Quota, QuotaConfig, counter_prefix
from routes.models import PluginSetting

logger = logging.getLogger(__name__)

LOOK_S = 5.0
TIMEOUT_S = 2.0
MARK = "hg:quota:mark"
#: How often in a row counters are raised after a loss.
TIMES = 3
BATCH = 500
_RAISE = """
local packed = redis.call('GET', KEYS[1])
local taken = packed and cmsgpack.unpack(packed)[1] or 0
local known = tonumber(ARGV[1])
if known <= taken then return 0 end
redis.call('SET', KEYS[1], cmsgpack.pack({known}), 'PX', ARGV[2])
return 1
"""


class Keeper(threading.Thread):
    """A thread of the recorder process with connections of its own: sums over a month may take their time."""

    def __init__(self, redis_url: str) -> None:
        super().__init__(name="quotas", daemon=True)
        self._client = client_of(redis_url)
        self._stopping = threading.Event()
        self._left = 0

    def run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            self.turn()
            connection.close()  # it is needed once in a while

    def stop(self) -> None:
        self._stopping.set()
        if self.is_alive():
            self.join(5)

    def turn(self) -> None:
        """One look. Whatever is away is asked again at the next one."""
        try:
            if not self._client.exists(MARK):
                self._left = TIMES
            if self._left:
                reconcile(self._client, datetime.now(UTC))
                self._client.set(MARK, 1)
                self._left -= 1
        except (redis.RedisError, OSError):
            self._left = TIMES  # what was counted meanwhile was not counted there
        except Error as error:
            logger.warning("quotas are put back later: %s", str(error).strip())


def reconcile(client: Any, now: datetime) -> int:
    """How many counters were raised. Raises redis.RedisError, OSError, django.db.Error."""
    raised = 0
    for setting, config, rows in _settings():
        for found, _ in config.quotas(now.timestamp()):
            left_ms = int((found.end_s - now.timestamp()) * 1000) + 1000
            prefix = f"{counter_prefix(setting.pk, found)}{config.by}:"
            for part in _batched(_sums(rows, config.by, found)):
                with client.pipeline(transaction=False) as pipe:
                    for caller, number in part:
                        pipe.eval(_RAISE, 1, f"{prefix}{caller}", number, left_ms)
                    raised += sum(pipe.execute())
    if raised:
        logger.info("raised %d counters of quotas to what the usage rows say", raised)
    return raised


def _batched(sums: Sequence[tuple[int, int]]) -> Iterator[Sequence[tuple[int, int]]]:
    for first in range(0, len(sums), BATCH):
        yield sums[first : first + BATCH]


def client_of(url: str) -> Any:
    return redis.Redis.from_url(
        url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
    )


def _settings() -> Iterator[tuple[PluginSetting, QuotaConfig, Q]]:
    """Each with the rows it counts: those in its scope, without those of settings that win over it."""
    settings = list(PluginSetting.objects.filter(name=Quota.name, enabled=True))
    for setting in settings:
        try:
            config = QuotaConfig.model_validate(setting.config)
        except ValidationError:  # a draft that does not compile; it holds for nobody
            continue
        rows = _scope(setting)
        for other in settings:
            if _rank(other) > _rank(setting):
                rows &= ~_scope(other)
        yield setting, config, rows


def _rank(setting: PluginSetting) -> tuple[bool, bool, bool]:
    """Which setting wins (`gateway.proxy.table`): a consumer's before a place's, a route's before an upstream's."""
    return setting.consumer_id is not None, setting.route_id is not None, setting.upstream_id is not None


def _scope(setting: PluginSetting) -> Q:
    places = {
        name: value
        for name in ("route_id", "upstream_id", "consumer_id")
        if (value := getattr(setting, name)) is not None
    }
    return Q(**places) if places else Q(pk__isnull=False)


def _sums(rows: Q, by: str, found: Period) -> Sequence[tuple[int, int]]:
    """(id of a consumer or key, requests that went upstream)."""
    start, end = datetime.fromtimestamp(found.start_s, UTC), datetime.fromtimestamp(found.end_s, UTC)
    asked = UsageRow.objects.filter(rows, at__gte=start, at__lt=end, tries__gt=0, **{f"{by}_id__isnull": False})
    return list(asked.order_by().values_list(f"{by}_id").annotate(number=Count("id")))
