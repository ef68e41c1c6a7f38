"""Traces over all workers and nodes (`gateway.proxy.tracing`): begun by one question, read by another."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.utils import timezone

from dashboard.rollcall import Answered, ask
from dashboard.websockets import named, silent
from gateway.proxy.tracing import MAX_REQUESTS, MAX_SECONDS
from keys.models import Consumer
from routes.models import Route

REQUESTS, SECONDS = 10, 30
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Wish:
    """Whose requests; nothing set: all. Rows by name or id."""

    route: str = ""
    consumer: str = ""
    client_ip: str = ""
    requests: int = REQUESTS  # of each worker
    seconds: int = SECONDS


@dataclass(frozen=True, slots=True)
class Begun:
    """`silent`: workers that did not answer, and trace nothing."""

    id: str
    until: datetime
    workers: int
    silent: list[str]


@dataclass(frozen=True, slots=True)
class Traced:
    """`running`: more may come. `items`: the newest first."""

    id: str
    running: bool
    items: list[dict[str, Any]]
    silent: list[str]


def begin(wish: Wish) -> Begun:
    """Another trace that runs is ended by it. Raises RedisAway."""
    id_, seconds = secrets.token_hex(16), min(wish.seconds, MAX_SECONDS)
    about = {
        "id": id_, "client_ip": wish.client_ip, "requests": min(wish.requests, MAX_REQUESTS), "seconds": seconds,
        "route": named(Route, "name", wish.route) if wish.route else None,
        "consumer": named(Consumer, "username", wish.consumer) if wish.consumer else None,
    }  # fmt: skip
    until, answers = timezone.now() + timedelta(seconds=seconds), ask("trace", about)
    return Begun(id_, until, len(answers), silent(answers, ""))


def found(id_: str) -> Traced | None:
    """None: no worker knows it (any more). Raises RedisAway."""
    if not _ID.fullmatch(id_):
        return None
    answers = ask("traces", {"id": id_})
    knowing = [answer for answer in answers if answer.said["known"]]
    if not knowing:
        return None
    items = [_item(answer, told) for answer in knowing for told in answer.said["items"]]
    items.sort(key=lambda item: (item["at"], item["request_id"]), reverse=True)
    return Traced(id_, any(answer.said["running"] for answer in knowing), items, silent(answers, ""))


def _item(answer: Answered, told: Mapping[str, Any]) -> dict[str, Any]:
    moment = datetime.fromtimestamp(told["at"] / 1000, UTC)
    nothing = {name: told[name] or None for name in ("consumer", "upstream", "target")}
    return {**told, **nothing, "at": moment, "node": answer.node, "worker": answer.worker}
