"""Asks every worker of every node, and waits a bounded time for what each has to say: see `gateway.proxy.rollcall`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from time import monotonic, time
from typing import Any

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway.proxy.rollcall import Sealed

#: The longest wait for the last of them; those that are well answer within a few ms.
WAIT_S = 0.5
TIMEOUT_S = 0.3


class RedisAway(Exception):
    """Nobody can be asked. The message is a sentence for people."""

    def __init__(self) -> None:
        super().__init__("Redis does not answer, and only over it workers can be asked. Try again when it is back.")


@dataclass(frozen=True, slots=True)
class Answered:
    node: str
    worker: int
    said: Any

    def __str__(self) -> str:
        return f"{self.node}/{self.worker}"


def ask(question: str, about: Mapping[str, Any], *, node: str = "", wait_s: float = WAIT_S) -> list[Answered]:
    """Of all workers, or of one node's. Returns as soon as everybody who heard it has answered. Raises RedisAway."""
    sealed, to = Sealed(settings.SECRET_KEY), f"hg:answers:{secrets.token_hex(16)}"
    message = {"ask": question, "about": about, "to": to, "node": node or None}
    try:
        with _client(settings.REDIS_URL).pubsub() as channel:
            channel.subscribe(to)
            channel.get_message(timeout=TIMEOUT_S)  # that the subscription holds
            until_s = monotonic() + wait_s
            heard_by = _client(settings.REDIS_URL).publish(sealed.channel, sealed.write(message, time()))
            answered: list[Answered] = []
            passed = 0  # workers of other nodes hear the question, too, and have nothing to say
            while len(answered) + passed < heard_by and (left_s := until_s - monotonic()) > 0:
                reply = channel.get_message(ignore_subscribe_messages=True, timeout=left_s)
                told = sealed.read(reply["data"], time()) if reply else None
                if told is not None and told["said"] is None:
                    passed += 1
                elif told is not None:
                    answered.append(Answered(told["node"], told["worker"], told["said"]))
            return answered
    except (redis.RedisError, OSError) as error:
        raise RedisAway from error


@cache
def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
    )
