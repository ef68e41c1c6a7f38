"""Purging kept answers: told to all workers over Redis, where a log keeps it for those who were not listening.

It is no change of the configuration, so it makes no version. Without Redis nobody would hear it: then it fails.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from functools import cache

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway.plugins.purges import MAX_PURGES, Kind, Purge, log, place

TIMEOUT_S = 1.0


class StoreUnavailable(Exception):
    """Redis is away."""


def purge_of(kind: Kind, url: str, route: int = 0) -> Purge:
    """Of a URL or a prefix: `https://host/path?query`, or from the path on, which is of all hosts. Schemes are one."""
    found = re.fullmatch(r"(?:https?://([^/?#]+))?(/.*)", url)
    assert found is not None, url
    authority = (found[1] or "").lower()
    return Purge.of_url(found[2], authority, route) if kind == "url" else Purge(kind, found[2], authority, route)


def purge(purges: Iterable[Purge]) -> None:
    """Raises StoreUnavailable; then some of them may have been told."""
    at_ms = int(time.time() * 1000) + 1
    channel = place(settings.SECRET_KEY)
    try:
        with _client(settings.REDIS_URL).pipeline(transaction=False) as told:
            for one in purges:
                told.zadd(log(channel), {one.text(): at_ms}, gt=True)
                told.publish(channel, f"admin {one.text()}")
            told.zremrangebyrank(log(channel), 0, -MAX_PURGES - 1)
            told.execute()
    except (redis.RedisError, OSError) as error:
        raise StoreUnavailable from error


@cache
def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
    )
