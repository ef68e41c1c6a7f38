"""The roster: which WebSockets are open in this worker, and how to close them. Looked at when somebody asks, and when a
key, a login or a consumer has changed: who may not come in any more may not stay either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from heapq import nlargest
from time import monotonic, time
from typing import Any

from gateway.plugins.base import Refusal
from gateway.proxy.errors import CredentialsUnavailable
from gateway.proxy.exchange import Credential, Exchange
from gateway.proxy.found import Changes, Question

POLICY = 1008  # RFC 6455 §7.4.1
Find = Callable[[Question], Credential | Refusal | Awaitable[Credential | Refusal]]

#: Most that one answer tells of; `count` says how many there are.
TOLD_MAX = 500
PATH_MAX = 512


@dataclass(slots=True)
class OpenSocket:
    """`close(code, reason, by)` tells both sides. `opened_s`: seconds since the epoch; `heard_s`: of `monotonic`."""

    exchange: Exchange
    close: Callable[[int, str, str], None]
    opened_s: float
    heard_s: float
    messages_in: int = 0
    messages_out: int = 0

    @property
    def place(self) -> tuple[int, str]:
        """In the order of the list, which begins with the highest."""
        return int(self.opened_s * 1000), self.exchange.id

    def told(self) -> dict[str, Any]:
        """`opened_at` and `last_message_at` (None: no message yet) in ms since the epoch. Without the query, which may
        hold secrets."""
        exchange = self.exchange
        route, consumer, upstream = exchange.route, exchange.consumer, exchange.upstream
        said = self.messages_in + self.messages_out
        return {
            "id": exchange.id,
            "route_id": route.id if route else 0,
            "route": route.name if route else "",
            "consumer_id": consumer.id if consumer else 0,
            "consumer": consumer.username if consumer else "",
            "client_ip": exchange.client_ip,
            "host": exchange.host,
            "path": exchange.raw_path.decode(errors="replace")[:PATH_MAX],
            "upstream_id": upstream.id if upstream else 0,
            "upstream": upstream.name if upstream else "",
            "target": exchange.target,
            "opened_at": self.place[0],
            "last_message_at": int((time() - monotonic() + self.heard_s) * 1000) if said else None,
            "messages_in": self.messages_in,
            "messages_out": self.messages_out,
            "bytes_in": exchange.bytes_in,
            "bytes_out": exchange.bytes_out,
        }


class Roster:
    """By the id of the handshake's request, which nobody can guess and the usage row will bear."""

    def __init__(self) -> None:
        self._open: dict[str, OpenSocket] = {}

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, exchange: Exchange, close: Callable[[int, str, str], None]) -> OpenSocket:
        entry = self._open[exchange.id] = OpenSocket(exchange, close, time(), monotonic())
        return entry

    def leave(self, exchange: Exchange) -> None:
        self._open.pop(exchange.id, None)

    def told(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """The newest of those asked for, older than `before` ([opened_at, id]) if that is given; how many in all."""
        found = list(self._found(about))
        before = tuple(about.get("before") or ())
        most = min(about.get("limit", TOLD_MAX), TOLD_MAX)
        older = (one for one in found if not before or one.place < before)
        newest = nlargest(most, older, key=lambda one: one.place)
        return {"count": len(found), "items": [one.told() for one in newest]}

    def closed(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """Closes those asked for with `code` and `reason`, in the name of `by`; how many, by route, and the first."""
        found = list(self._found(about))
        items = [one.told() for one in found[:TOLD_MAX]]
        for one in found:
            one.close(about["code"], about["reason"], about["by"])
        routes = Counter((one.exchange.route.id, one.exchange.route.name) for one in found if one.exchange.route)
        return {"count": len(found), "items": items, "routes": [[*route, many] for route, many in routes.items()]}

    async def recheck(self, changes: Changes, find: Find) -> None:
        """Closes those whose key was revoked, whose password is another, whose consumer is disabled or gone."""
        for one in [one for one in self._open.values() if _touched(one.exchange.credential, changes)]:
            credential = one.exchange.credential
            assert credential is not None
            try:
                found = find(_question(credential))
                if not isinstance(found, Credential | Refusal):
                    found = await found
            except CredentialsUnavailable:
                continue  # it stays, as others stay who are remembered
            if isinstance(found, Refusal) or found.proof != credential.proof:
                one.close(POLICY, "Your credential does not count any more.", "the gateway")

    def _found(self, about: Mapping[str, Any]) -> Iterator[OpenSocket]:
        """`id`; `route` and `consumer` as [id, name]: by id, where it is not 0, for a name may have changed."""
        if about.get("id"):
            entry = self._open.get(about["id"])
            yield from [entry] if entry is not None else []
            return
        route, consumer = about.get("route"), about.get("consumer")
        for entry in self._open.values():
            if route and not _is(entry.exchange.route, "name", route):
                continue
            if consumer and not _is(entry.exchange.consumer, "username", consumer):
                continue
            yield entry


def _question(credential: Credential) -> Question:
    return credential.asked or f"username:{credential.consumer.username}"


def _touched(credential: Credential | None, changes: Changes) -> bool:
    """A name that only a token says (no id) is nobody's who could change."""
    if credential is None or not (credential.asked or credential.consumer.id):
        return False
    changed = credential.asked in changes.digests or credential.consumer.id in changes.consumers
    return changed or changes.everything


def _is(one: Any, called: str, wanted: tuple[int, str]) -> bool:
    if one is None:
        return False
    number, name = wanted
    return bool(one.id == number if number else getattr(one, called) == name)
