"""Purging kept answers: told to all workers over Redis, where a log keeps it for those who were not listening.

It is no change of the configuration, so it makes no version, but it leaves an entry in the audit trail. Without Redis
nobody would hear it: then it fails.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway.plugins.purges import MAX_PURGES, Kind, Purge, log, place
from keys import trail
from keys.trail import Author
from routes.models import Route

TIMEOUT_S = 1.0
TOLD_MAX = 50  # of a thousand URLs, in the trail


class StoreUnavailable(Exception):
    """Redis is away."""


def purge_of(kind: Kind, url: str, route: int = 0) -> Purge:
    """Of a URL or a prefix: `https://host/path?query`, or from the path on, which is of all hosts. Schemes are one."""
    found = re.fullmatch(r"(?:https?://([^/?#]+))?(/.*)", url)
    assert found is not None, url
    authority = (found[1] or "").lower()
    return Purge.of_url(found[2], authority, route) if kind == "url" else Purge(kind, found[2], authority, route)


def purge(purges: Iterable[Purge], *, author: Author, route: Route | None, wanted: Mapping[str, Any]) -> None:
    """`wanted`: the same in the words of who asked, for the trail; with a route it stands in that one's history. Raises
    StoreUnavailable; then some of them may have been told, and the trail says nothing."""
    _tell(purges)
    if (user_id := trail.user_id_of(author)) is not None:
        message = trail.changed({}, {name: _shortened(value) for name, value in wanted.items()}, "Purged kept answers.")
        model, pk, called = (Route, route.pk, str(route)) if route is not None else (None, None, "kept answers")
        trail.save([trail.entry(user_id, model, pk, called, message)])


def _shortened(value: Any) -> Any:
    if not isinstance(value, list) or len(value) <= TOLD_MAX:
        return value
    return [*value[:TOLD_MAX], f"… and {len(value) - TOLD_MAX} more"]


def _tell(purges: Iterable[Purge]) -> None:
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
