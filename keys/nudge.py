"""Nudges: "look now" to every worker over Redis pub/sub, once a change is committed.

A nudge only saves the wait for the next poll. It carries no truth, so losing one does no harm, and a Redis that hangs
costs the writer 0.2 s once, then nothing for a while.
"""

from __future__ import annotations

import logging
import time
from functools import cache

import redis
from django.conf import settings
from django.db import transaction
from redis.backoff import NoBackoff
from redis.retry import Retry

CONFIG_CHANNEL, CREDENTIALS_CHANNEL = "hg:config", "hg:credentials"
TIMEOUT_S = 0.2
PAUSE_S = 5.0  # after a failure: a bulk edit must not wait 0.2 s for each of its rows

logger = logging.getLogger(__name__)
_paused_until_s = 0.0


def nudge(channel: str, payload: str = "") -> None:
    """Publishes after the current transaction commits; at once outside of one. Never raises."""
    transaction.on_commit(lambda: publish(channel, payload), robust=True)


def publish(channel: str, payload: str = "") -> bool:
    """Whether Redis took it. Never raises."""
    global _paused_until_s
    if time.monotonic() < _paused_until_s:
        return False
    try:
        _client(settings.REDIS_URL).publish(channel, payload)
    except (redis.RedisError, OSError) as error:
        _paused_until_s = time.monotonic() + PAUSE_S
        logger.warning("Nudge on %s not sent (%s): workers see the change at their next poll.", channel, error)
        return False
    return True


@cache
def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
    )
