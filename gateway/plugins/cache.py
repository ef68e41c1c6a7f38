"""cache: what one setting of response-cache keeps, how it is found again, and in what words clients are told of it.

An answer that is hit again and again in a worker is made once a second: `Age` and `ttl` count in seconds, and nothing
else of it changes. A request that says nothing about caches (`SPEAKING`) gets that very one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.plugins import answers, conditions, freshness
from gateway.plugins.directives import Directives
from gateway.plugins.flights import Flight, Told
from gateway.plugins.freshness import NotKept, Rules, Terms, Use
from gateway.plugins.level import Entry, Ready
from gateway.plugins.store import APART_S, Store
from gateway.proxy import headers
from gateway.proxy.exchange import Answer, Exchange
from gateway.proxy.headers import Lasting, Pairs

MAX_APART = 10_000  # keys whose answers are not for others
PRECONDITIONS = frozenset({b"if-match", b"if-unmodified-since"})
#: Fields by which a request asks for something else than what is fresh and whole.
SPEAKING = frozenset({b"cache-control", b"pragma"}) | PRECONDITIONS | answers.CONDITIONS


@dataclass(frozen=True, slots=True)
class Policy:
    """What a setting says."""

    rules: Rules
    shared: bool  # kept in Redis, too
    wait_s: float  # for an answer to somebody else's request; 0: nobody waits
    types: tuple[str, ...]  # patterns of media types, none for all
    max_body_bytes: int
    storage_s: float  # for which what is stale is kept, to be confirmed
    status_header: bool
    surrogate_keys: bool


@dataclass(slots=True, eq=False)
class Asked:
    """A request that the cache has to do with, from hook to hook."""

    key: bytes
    fields: Pairs  # the client's, before transformers
    wanted: Directives
    identified: bool  # a plugin has found out who asks
    known: bool  # so, or the request says it; and the key does not
    entry: Entry | None = None  # kept, and not good enough by itself
    use: Use = "validate"
    why: bytes = b"uri-miss"  # RFC 9211 §2.2
    flight: Flight | None = None  # ours: others wait for it
    requested_s: float = 0.0

    def land(self, what: Entry | Told) -> None:
        flight, self.flight = self.flight, None
        if flight is not None:
            flight.land(what)


class Cache:
    """`wall`: seconds since the epoch."""

    def __init__(self, store: Store, wall: Callable[[], float], policy: Policy) -> None:
        self.store, self.wall, self.policy = store, wall, policy

    # --- what is kept

    def find(self, key: bytes, request: Pairs, identified: bool) -> Entry | None:
        """In the worker's memory. Who is `identified` gets nothing that is not for all."""
        entry = self.store.find(key, request)
        return None if entry is None or (identified and not entry.terms.free) else entry

    def use(self, entry: Entry, wanted: Directives) -> Use:
        return freshness.use(entry.terms, entry.age(self.wall()), wanted)

    def keep(self, asked: Asked, entry: Entry) -> None:
        terms = entry.terms
        beyond_s = max(terms.behind_s, terms.on_error_s)
        if freshness.validators(entry.fields):
            beyond_s = max(beyond_s, self.policy.storage_s)
        kept_s = terms.lifetime_s - entry.age_s + beyond_s
        if kept_s > 0:
            self.store.keep(asked.key, entry, kept_s, shared=self.policy.shared)

    def renewed(self, asked: Asked, kept: Entry, told: Pairs) -> Entry:
        """What is kept, with the fields of a 304 or a HEAD that is about it. Raises NotKept."""
        received_s = self.wall()
        fields = conditions.updated(kept.fields, told)
        terms = freshness.terms(kept.status, fields, self.policy.rules, received_s, authorised=asked.known)
        if freshness.names(fields) != kept.varied:
            raise NotKept("vary")
        return answers.renewed(kept, fields, told, terms, asked.requested_s, received_s)

    def renewed_once(self, asked: Asked, kept: Entry, told: Pairs) -> Entry:
        """The same for one client alone, where it may not be kept."""
        fields, terms = conditions.updated(kept.fields, told), Terms(0, validate=True)
        return answers.renewed(kept, fields, told, terms, asked.requested_s, self.wall())

    def replaced(self, asked: Asked, reason: NotKept) -> None:
        """By an answer that may not be kept. What one caller alone was told says nothing about the others' answer."""
        if str(reason) != "authorization":
            self.store.drop(asked.key)

    def set_apart(self, key: bytes) -> None:
        apart, place = self.store.apart, hash(key)
        apart[place] = self.wall() + APART_S
        apart.move_to_end(place)
        if len(apart) > MAX_APART:
            apart.popitem(last=False)

    # --- what clients are told

    def ready(self, exchange: Exchange, entry: Entry) -> Answer | None:
        """To a request that asks for nothing special. None: it is not fresh, or its rules are not that simple."""
        now_s, ready = self.wall(), entry.ready
        if ready is None or ready.owner is not self or not ready.from_s <= now_s < ready.until_s:
            age_s = entry.age(now_s)
            left_s = entry.terms.lifetime_s - age_s
            if left_s <= 0 or entry.terms.validate:
                return None
            answer = self._whole(entry, age_s, b"hit; ttl=%d" % left_s)
            entry.ready = ready = Ready(self, now_s, now_s + min(1 - age_s % 1, left_s % 1 or 1.0), answer)
        exchange.cache_status = "hit"
        return ready.answer

    def hit(self, exchange: Exchange, asked_for: Pairs, entry: Entry, more: bytes = b"") -> Answer:
        left_s = entry.terms.lifetime_s - entry.age(self.wall())
        exchange.cache_status = "hit" if left_s > 0 else "hit-stale"
        return self.answer(exchange, asked_for, entry, b"hit; ttl=%d" % left_s + more)

    def answer(self, exchange: Exchange, asked_for: Pairs, entry: Entry, said: bytes) -> Answer:
        """For a client with a copy of its own, or one who wants a part, as much as it needs."""
        status, fields, body = answers.told(entry, exchange.method, asked_for)
        return Answer(status, self._fields(entry, fields, entry.age(self.wall()), said), body)

    def _whole(self, entry: Entry, age_s: float, said: bytes) -> Answer:
        fields = self._fields(entry, entry.fields, age_s, said)
        if entry.status != 204:
            fields.append((b"content-length", b"%d" % len(entry.body)))
        return Answer(entry.status, Lasting(fields), entry.body)

    def _fields(self, entry: Entry, fields: Pairs, age_s: float, said: bytes) -> Pairs:
        fields = [*fields, (b"age", b"%d" % age_s)]
        if self.policy.surrogate_keys and entry.tags:
            fields.append((b"surrogate-key", " ".join(sorted(entry.tags)).encode("latin-1")))
        if self.policy.status_header:
            fields.append((b"cache-status", b"hydragate; " + said))
        return fields

    def tell(self, exchange: Exchange, why: bytes, detail: bytes = b"") -> None:
        """Of an upstream's answer that passes on: RFC 9211."""
        fields = exchange.response_headers
        assert fields is not None
        if not self.policy.surrogate_keys:
            headers.remove(fields, b"surrogate-key")
        if self.policy.status_header:
            said = b"hydragate; fwd=" + why + (b'; detail="' + detail + b'"' if detail else b"")
            headers.append_token(fields, b"cache-status", said)

    def put(self, exchange: Exchange, answer: Answer) -> None:
        """In the place of the upstream's."""
        fields = answer.headers
        if answer.status not in (204, 304):
            fields.append((b"content-length", b"%d" % len(answer.body)))
        exchange.status, exchange.response_headers = answer.status, fields
        exchange.answer_body = b"" if exchange.method == "HEAD" else answer.body


async def discard(exchange: Exchange) -> None:
    """The upstream's answer is not what the client gets."""
    release, exchange.release = exchange.release, None
    exchange.answer_body = b""
    if release is not None:
        await release()
