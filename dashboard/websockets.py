"""Open WebSockets of all workers and nodes: what there is, and how to end it. Pages and the admin API come here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from dashboard.rollcall import Answered, ask
from gateway.proxy.roster import TOLD_MAX
from keys import trail
from keys.models import Consumer
from keys.trail import Author
from routes.models import Route
from routes.selectors import workers

GOING_AWAY = 1001
#: What may be said to both sides, besides 3000 to 4999, which are the application's own (RFC 6455 §7.4).
CODES = (1000, 1001, 1008, 1011, 1012, 1013)
REASON_BYTES = 123

Named = tuple[int, str]  # id, 0 if there is no such row (any more); name


@dataclass(frozen=True, slots=True)
class Place:
    """Between two of the list, for a URL: when the one before was opened, in ms since the epoch, and its id."""

    opened_at: int
    id: str

    def __str__(self) -> str:
        return f"{self.opened_at}-{self.id}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        opened_at, _, id_ = text.partition("-")
        if not (opened_at.isascii() and opened_at.isdecimal() and len(opened_at) <= 17 and id_.isalnum()):
            return None
        return cls(int(opened_at), id_)


@dataclass(frozen=True, slots=True)
class Wish:
    """Which; nothing set: all. Rows by name or id: a name wins, and one that is gone still fits what it had opened."""

    id: str = ""
    route: str = ""
    consumer: str = ""
    node: str = ""

    @property
    def narrowed(self) -> bool:
        return bool(self.id or self.route or self.consumer or self.node)


@dataclass(frozen=True, slots=True)
class Listed:
    """`count`: all that fit. `older`: where the next page begins. `silent`: workers that did not answer."""

    items: list[dict[str, Any]]
    count: int
    older: Place | None
    silent: list[str]


@dataclass(frozen=True, slots=True)
class Closed:
    """`items`: the first of them, as they were."""

    count: int
    items: list[dict[str, Any]]
    silent: list[str] = field(default_factory=list)


def listed(wish: Wish, *, limit: int, before: Place | None = None) -> Listed:
    """The newest first. Raises RedisAway."""
    limit = min(limit, TOLD_MAX - 1)
    about = {**_about(wish), "limit": limit + 1, "before": before and [before.opened_at, before.id]}
    answers = ask("websockets", about, node=wish.node)
    items = [_item(answer, told) for answer in answers for told in answer.said["items"]]
    items.sort(key=lambda item: (item["opened_at"], item["id"]), reverse=True)
    shown = items[:limit]
    last = shown[-1] if len(items) > limit else None
    older = Place(round(last["opened_at"].timestamp() * 1000), last["id"]) if last else None
    return Listed(shown, sum(answer.said["count"] for answer in answers), older, silent(answers, wish.node))


def close(wish: Wish, *, code: int = GOING_AWAY, reason: str = "", author: Author) -> Closed:
    """Tells both sides of each. Leaves an entry in the histories of the routes, and of the consumer that was named.
    Raises RedisAway."""
    about = {**_about(wish), "code": code, "reason": reason, "by": trail.name_of(author)}
    answers = ask("close", about, node=wish.node)
    items = [_item(answer, told) for answer in answers for told in answer.said["items"]]
    count = sum(answer.said["count"] for answer in answers)
    routes: Counter[Named] = Counter()
    for answer in answers:
        for number, name, many in answer.said["routes"]:
            routes[number, name] += many
    _record(author, wish, about, routes)
    return Closed(count, items, silent(answers, wish.node))


def _about(wish: Wish) -> dict[str, Any]:
    return {
        "id": wish.id,
        "route": named(Route, "name", wish.route) if wish.route else None,
        "consumer": named(Consumer, "username", wish.consumer) if wish.consumer else None,
    }


def named(model: type[Route] | type[Consumer], called: str, ref: str) -> Named:
    row = model.objects.filter(**{called: ref}).first()
    if row is None and ref.isascii() and ref.isdecimal() and len(ref) <= 18:
        row = model.objects.filter(pk=int(ref)).first()
    return (row.pk, getattr(row, called)) if row is not None else (0, ref)


def _item(answer: Answered, told: Mapping[str, Any]) -> dict[str, Any]:
    """Times as times; who has none is None; and where it is."""
    moments = {name: _moment(told[name]) for name in ("opened_at", "last_message_at")}
    nothing = {name: told[name] or None for name in ("consumer_id", "consumer", "client_ip")}
    return {**told, **moments, **nothing, "node": answer.node, "worker": answer.worker}


def _moment(ms: int | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)


def silent(answers: Iterable[Answered], node: str) -> list[str]:
    expected = workers().filter(node=node) if node else workers()
    answered = set(map(str, answers))
    return [str(worker) for worker in expected if str(worker) not in answered]


def _record(author: Author, wish: Wish, about: Mapping[str, Any], routes: Mapping[Named, int]) -> None:
    if (user_id := trail.user_id_of(author)) is None or not routes:
        return
    whose = f" of consumer {about['consumer'][1]}" if about["consumer"] else ""
    said = {"code": about["code"], **({"reason": about["reason"]} if about["reason"] else {})}
    entries = [
        trail.entry(user_id, Route, number, name, trail.changed({}, {"closed": many, **said}, _words(many, whose)))
        for (number, name), many in sorted(routes.items())
    ]
    if about["consumer"] and about["consumer"][0]:
        many = sum(routes.values())
        message = trail.changed({}, {"closed": many, **said}, _words(many))
        number, name = about["consumer"]
        entries.append(trail.entry(user_id, Consumer, number, name, message))
    trail.save(entries)


def _words(many: int, whose: str = "") -> str:
    return f"Closed {many} WebSocket{'' if many == 1 else 's'}{whose}."
