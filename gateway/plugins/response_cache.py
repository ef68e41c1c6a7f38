"""response-cache: keeps what upstreams answer and answers with it, as a shared HTTP cache does (RFC 9111).

Phases   access, forward, log
Fails    never: without Redis a worker's own memory remains. `only-if-cached` for what is not kept: 504 `not_cached`
Compare  Kong's proxy-cache (same field names where they mean the same; Kong heeds `Vary` and `Cache-Control` in part)

It stands behind authentication, acl and limits, so whoever may not ask gets nothing that is kept, and before the
transformers: what is kept is the upstream's own word, and they change it anew for each client. The rules are in
freshness.py, what is kept in store.py.
"""

from __future__ import annotations

import contextlib
import hashlib
from copy import copy
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from gateway.plugins import answers, conditions, freshness
from gateway.plugins.answers import CONDITIONS
from gateway.plugins.base import Forward, Plugin, PluginConfig, Resources
from gateway.plugins.flights import AGAIN, ALONE, Fill, Flight, Told
from gateway.plugins.freshness import STATUSES, Directives, NotKept, Rules, Terms, Use
from gateway.plugins.purges import Purge
from gateway.plugins.store import Entry
from gateway.proxy import headers, query
from gateway.proxy.errors import GatewayError, Reject, UpstreamError
from gateway.proxy.exchange import Answer, Exchange
from gateway.proxy.headers import Pairs

APART_S, MAX_APART = 10.0, 10_000  # a key whose answers are not for others: nobody waits for one meanwhile
MAX_TURNS = 4  # of waiting for others, before a request goes by itself
_PRECONDITIONS = frozenset({b"if-match", b"if-unmodified-since"})

MediaType = Annotated[str, StringConstraints(pattern=r"^[a-z0-9!#$&^_.+*-]+/[a-z0-9!#$&^_.+*-]+$", max_length=128)]
Status = Annotated[int, Field(ge=200, le=599)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]
Parameter = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class ResponseCacheConfig(PluginConfig):
    strategy: Literal["redis", "memory"] = "redis"
    """`redis`: shared by all workers, with a small level in each of them. `memory`: that level only."""
    request_method: tuple[Literal["GET", "HEAD"], ...] = Field(("GET", "HEAD"), min_length=1, max_length=2)
    """Methods that are answered from the cache. Only answers to GET are kept; they serve HEAD, too."""
    response_code: tuple[Status, ...] = Field(STATUSES, min_length=1, max_length=50)
    """Status codes whose answers are kept. 206 and 304 never are."""
    content_type: tuple[MediaType, ...] = Field((), max_length=100)
    """Media types that are kept, without parameters; `*` stands for any text. Empty: all. Event streams never are."""
    cache_ttl: int = Field(0, ge=0, le=86_400)
    """Seconds for which answers count as fresh that say nothing about it. 0: those are not kept."""
    heuristics: bool = False
    """Answers that say nothing but have `Last-Modified` are fresh for a tenth of their age, a day at most."""
    stale_while_revalidate: int = Field(0, ge=0, le=86_400)
    """Seconds for which a stale answer is sent while a new one is fetched, where the answer does not say."""
    stale_if_error: int = Field(0, ge=0, le=86_400)
    """Seconds for which a stale answer stands in for an upstream that fails, where the answer does not say."""
    storage_ttl: int = Field(3600, ge=0, le=86_400)
    """Seconds for which a stale answer with `ETag` or `Last-Modified` is kept, to be confirmed by the upstream."""
    max_body_bytes: int = Field(1_048_576, ge=1, le=16_777_216)
    """Larger bodies pass and are not kept."""
    by_consumer: bool = False
    """Keep an answer for each consumer. Off: of callers who are known only answers are kept that say they are for all
    (`public`, `s-maxage`, `must-revalidate`)."""
    vary_headers: tuple[Name, ...] = Field((), max_length=20)
    """Fields of the request that tell answers apart, besides those that `Vary` names."""
    vary_query_params: tuple[Parameter, ...] = Field((), max_length=50)
    """The only query parameters that tell answers apart. Empty: the whole query does."""
    request_directives: bool = True
    """Clients may ask for a newer answer (`no-cache`, `max-age`) or for none that is kept. Off: they are not heard."""
    coalesce: bool = True
    """Of requests for the same that is not kept, one goes upstream and the others wait for its answer."""
    coalesce_timeout_ms: int = Field(5000, ge=10, le=60_000)
    """How long they wait; then they go upstream themselves."""
    status_header: bool = True
    """Tell in `Cache-Status` (RFC 9211) what the cache did."""
    surrogate_keys: bool = False
    """Clients see the `Surrogate-Key` of answers. Off: it is taken out."""


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


class ResponseCache(Plugin):
    name = "response-cache"
    Config = ResponseCacheConfig
    config: ResponseCacheConfig
    refuses = False

    def __init__(self, config: ResponseCacheConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._store, self._wall = resources.store, resources.wall
        self._store.wanted = True
        self._methods = frozenset(config.request_method)
        self._rules = Rules(
            statuses=frozenset(config.response_code),
            ttl_s=config.cache_ttl,
            heuristics=config.heuristics,
            behind_s=config.stale_while_revalidate,
            on_error_s=config.stale_if_error,
        )
        self._shared = config.strategy == "redis"
        self._wait_s = config.coalesce_timeout_ms / 1000
        self._vary = tuple(sorted({name.lower().encode() for name in config.vary_headers}))
        self._parameters = frozenset(name.encode() for name in config.vary_query_params)

    # --- from what is kept

    def access(self, exchange: Exchange) -> Any:
        """What is kept and fresh in this worker is answered without waiting."""
        if exchange.method not in self._methods or exchange.body is not None or "websocket" in exchange.notes:
            return None
        wanted = freshness.asked(exchange.headers) if self.config.request_directives else freshness.NONE
        if b"no-store" in wanted or any(name in _PRECONDITIONS for name, _ in exchange.headers):
            return None
        key = self._key(exchange)
        identified, known = self._caller_of(exchange)
        entry = self._find(key, exchange.headers, identified)
        if entry is not None:
            use = freshness.use(entry.terms, entry.age(self._wall()), wanted)
            if use in ("fresh", "stale"):
                return self._hit(exchange, exchange.headers, entry)
        return self._look(exchange, Asked(key, [*exchange.headers], wanted, identified, known, entry))

    def _key(self, exchange: Exchange) -> bytes:
        """All that tells requests for different things apart, but for what `Vary` names."""
        assert exchange.route is not None
        asked = exchange.query
        if self._parameters and asked:
            asked = b"&".join([part for part in asked.split(b"&") if self._counts(part)])
        parts = [
            b"%d %d" % (self.setting_id, exchange.route.id), exchange.scheme.encode(), exchange.authority.lower(),
            exchange.raw_path + b"?" + asked if asked else exchange.raw_path,
        ]  # fmt: skip
        if self._vary:
            parts += [
                b"-" if value is None else b"+" + value for value in freshness.selecting(self._vary, exchange.headers)
            ]
        if self.config.by_consumer:
            parts.append(_caller(exchange))
        return b"\n".join(parts)  # nothing in them can hold a line's end

    def _counts(self, part: bytes) -> bool:
        return any(query.has(part, name) for name in self._parameters)

    def _caller_of(self, exchange: Exchange) -> tuple[bool, bool]:
        """Whether a plugin has found out who asks, so that nothing will do that is not for all; and whether the answer
        is for that one alone, unless it says otherwise (RFC 9111 §3.5). Not if the key says who it is."""
        consumer, credential = exchange.consumer, exchange.credential
        named = credential is not None or (consumer is not None and bool(consumer.id or consumer.username))
        if "identified" in exchange.notes or ((exchange.claims or consumer is not None) and not named):
            return True, True  # by what no key can say
        if self.config.by_consumer:
            return False, False
        return named, named or headers.get(exchange.headers, b"authorization") is not None

    def _find(self, key: bytes, request: Pairs, identified: bool) -> Entry | None:
        entry = self._store.find(key, request)
        return None if entry is None or (identified and not entry.terms.free) else entry

    async def _look(self, exchange: Exchange, asked: Asked) -> Answer | None:
        """Wait for others, look in Redis; else it has to go upstream, with others waiting for it if they can."""
        exchange.notes[self] = asked
        waits = self.config.coalesce and exchange.method == "GET" and self._waits(asked)
        for _ in range(MAX_TURNS):
            if (answer := self._kept(exchange, asked)) is not None:
                return answer
            place = self._place(asked)
            flight: Flight | None = self._store.flights.get(place)
            if flight is None or flight.begun_s <= self._store.purges.latest_s:  # what it brings may be void
                if waits or asked.use == "behind":
                    asked.flight = Flight(self._store.flights, place, self._wall())
                break
            if asked.use == "behind" and asked.entry is not None:  # a newer one is on its way
                return self._hit(exchange, asked.fields, asked.entry)
            if not waits:
                break
            told = await flight.wait(self._wait_s)
            if told is ALONE:
                break
            if isinstance(told, Entry) and self._fits(told, asked):
                return self._hit(exchange, asked.fields, told, b"; collapsed")
            asked.entry = self._find(asked.key, asked.fields, asked.identified)
        if self._shared:
            found = await self._store.fetch(asked.key, asked.fields)
            if found is not None and asked.identified and not found.terms.free:
                found = None
            if found is not None and (asked.entry is None or found.received_s > asked.entry.received_s):
                asked.entry = found
                if (answer := self._kept(exchange, asked)) is not None:
                    asked.land(found)
                    return answer
        if b"only-if-cached" in asked.wanted:
            asked.land(ALONE)
            exchange.detail = "response-cache: only-if-cached, and nothing is kept"
            said = ((b"cache-status", b"hydragate; fwd=request; detail=only-if-cached"),)
            raise Reject(504, "not_cached", "Only a kept answer was asked for, and none is.", headers=said)
        return None

    def _kept(self, exchange: Exchange, asked: Asked) -> Answer | None:
        """The answer, if what is kept will do; notes why if not."""
        entry = asked.entry
        if entry is None:
            asked.use = "validate"
            asked.why = b"vary-miss" if self._store.varied(asked.key) else b"uri-miss"
            return None
        age_s = entry.age(self._wall())
        asked.use = freshness.use(entry.terms, age_s, asked.wanted)
        if asked.use in ("fresh", "stale"):
            return self._hit(exchange, asked.fields, entry)
        asked.why = b"request" if entry.terms.lifetime_s > age_s and not entry.terms.validate else b"stale"
        return None

    def _waits(self, asked: Asked) -> bool:
        """Whether an answer to somebody else's request may do: not for those who want a new one, or a part of it."""
        if not asked.wanted.keys().isdisjoint((b"no-cache", b"max-age", b"min-fresh", b"only-if-cached")):
            return False
        if asked.entry is None and any(name in CONDITIONS for name, _ in asked.fields):
            return False
        return self._store.apart.get(hash(asked.key), 0.0) < self._wall()

    def _place(self, asked: Asked) -> Any:
        varied = self._store.varied(asked.key)
        return asked.key, varied, freshness.selecting(varied, asked.fields)

    def _fits(self, entry: Entry, asked: Asked) -> bool:
        if asked.identified and not entry.terms.free:
            return False
        if self._store.purges.void(entry) or freshness.selecting(entry.varied, asked.fields) != entry.selected:
            return False
        return freshness.use(entry.terms, entry.age(self._wall()), asked.wanted) == "fresh"

    def _hit(self, exchange: Exchange, asked_for: Pairs, entry: Entry, more: bytes = b"") -> Answer:
        left_s = entry.terms.lifetime_s - entry.age(self._wall())
        exchange.cache_status = "hit" if left_s > 0 else "hit-stale"
        return self._answer(exchange, asked_for, entry, b"hit; ttl=%d" % left_s + more)

    def _answer(self, exchange: Exchange, asked_for: Pairs, entry: Entry, said: bytes) -> Answer:
        """For a client with a copy of its own, or one who wants a part, as much as it needs."""
        status, fields, body = answers.told(entry, exchange.method, asked_for)
        fields = [*fields, (b"age", b"%d" % entry.age(self._wall()))]
        if self.config.surrogate_keys and entry.tags:
            fields.append((b"surrogate-key", " ".join(sorted(entry.tags)).encode("latin-1")))
        if self.config.status_header:
            fields.append((b"cache-status", b"hydragate; " + said))
        return Answer(status, fields, body)

    # --- by the upstream

    async def forward(self, exchange: Exchange, forward: Forward) -> None:
        asked: Asked | None = exchange.notes.get(self)
        if asked is None:
            await forward(exchange)
            if "websocket" not in exchange.notes:
                self._passed(exchange)
        elif asked.use == "behind" and asked.entry is not None and asked.flight is not None:
            self._renew(exchange, asked, forward)
            _put(exchange, self._hit(exchange, asked.fields, asked.entry))
        else:
            await self._ask(exchange, asked, forward)

    def _passed(self, exchange: Exchange) -> None:
        """The cache has nothing to do with it, but for what it ends."""
        assert exchange.response_headers is not None
        reason = b"bypass" if exchange.method in self._methods else b"method"
        self._tell(exchange, reason, b"")
        exchange.cache_status = "bypass"
        if freshness.invalidates(exchange.method, exchange.status):
            target = exchange.raw_path + b"?" + exchange.query if exchange.query else exchange.raw_path
            ended = {target, *freshness.also_ended(exchange.response_headers, exchange.authority, target)}
            authority = exchange.authority.lower().decode("latin-1")
            self._store.purge(Purge.of_url(one.decode("latin-1"), authority) for one in sorted(ended))

    def _renew(self, exchange: Exchange, asked: Asked, forward: Forward) -> None:
        """Fetch a newer answer while the client gets the one there is."""
        twin = copy(exchange)
        twin.method, twin.headers, twin.notes = "GET", [*exchange.headers], {}
        twin.hints = None
        question = copy(asked)
        asked.flight = None  # the twin's now

        async def renew() -> None:
            try:
                with contextlib.suppress(GatewayError):  # the next client has another attempt made
                    await self._ask(twin, question, forward)
            finally:
                question.land(AGAIN)
                if twin.release is not None:
                    await twin.release()

        self._store.spawn(renew())

    async def _ask(self, exchange: Exchange, asked: Asked, forward: Forward) -> None:
        kept, own = asked.entry, exchange.headers
        questions = conditions.questions(kept.fields) if kept is not None else []
        if questions:
            exchange.headers = [pair for pair in own if pair[0] not in CONDITIONS] + questions
        asked.requested_s = self._wall()
        try:
            await forward(exchange)
        except UpstreamError as error:
            exchange.headers = own
            asked.land(ALONE)  # one after the other would fail as well, each after waiting for it
            if kept is None or not self._covers(kept, asked):
                raise
            exchange.detail = error.detail
            self._cover(exchange, asked, kept, b"")
            return
        exchange.headers = own
        if kept is not None:
            if exchange.status in freshness.ERRORS and self._covers(kept, asked):
                asked.land(ALONE)
                said = b"; fwd-status=%d" % exchange.status
                await _discard(exchange)
                self._cover(exchange, asked, kept, said)
                return
            if questions and exchange.status == 304:
                if await self._confirmed(exchange, asked, kept):
                    return
                self._store.drop(asked.key)
                await _discard(exchange)
                asked.entry, asked.requested_s = None, self._wall()
                await forward(exchange)
        await self._take(exchange, asked)

    def _covers(self, kept: Entry, asked: Asked) -> bool:
        return freshness.may_cover(kept.terms, kept.age(self._wall()), asked.wanted)

    def _cover(self, exchange: Exchange, asked: Asked, kept: Entry, said: bytes) -> None:
        exchange.cache_status = "hit-stale"
        said = b"fwd=" + asked.why + said + b"; detail=stale-if-error"
        _put(exchange, self._answer(exchange, asked.fields, kept, said))

    async def _confirmed(self, exchange: Exchange, asked: Asked, kept: Entry) -> bool:
        """A 304 that is about what we keep makes it as new."""
        told = exchange.response_headers or []
        if not conditions.confirms(kept.fields, told):
            return False
        received_s = self._wall()
        fields = conditions.updated(kept.fields, told)
        age_s = freshness.initial_age(told, asked.requested_s, received_s)
        try:
            terms = freshness.terms(kept.status, fields, self._rules, received_s, authorised=asked.known)
            if freshness.names(fields) != kept.varied:
                raise NotKept("vary")
            keeps = True
        except NotKept as reason:
            terms, age_s, keeps = Terms(0, validate=True), 0.0, False  # for this client alone
            self._replaced(asked, reason)
        fields = [pair for pair in fields if pair[0] not in answers.NOT_KEPT and pair[0] not in terms.hidden]
        entry = Entry(
            kept.status, fields, kept.body, terms, asked.requested_s, received_s, age_s, kept.varied, kept.selected,
            kept.authority, kept.target, answers.tags_of(told) or kept.tags, kept.route,
        )  # fmt: skip
        if keeps:
            self._keep(asked, entry)
        asked.land(entry)
        await _discard(exchange)
        exchange.cache_status = "revalidated"
        said = b"fwd=" + asked.why + b"; fwd-status=304; ttl=%d" % (terms.lifetime_s - age_s)
        _put(exchange, self._answer(exchange, asked.fields, entry, said))
        return True

    def _replaced(self, asked: Asked, reason: NotKept) -> None:
        """By an answer that may not be kept. What one caller alone was told says nothing about the others' answer."""
        if str(reason) != "authorization":
            self._store.drop(asked.key)

    async def _take(self, exchange: Exchange, asked: Asked) -> None:
        """A whole answer of the upstream: kept if it may be."""
        said = b"fwd=" + asked.why + b"; fwd-status=%d" % exchange.status
        exchange.cache_status = "miss"
        if exchange.method == "HEAD":
            self._compare(exchange, asked)
            asked.land(ALONE)
            self._tell(exchange, said[4:], b"")
            return
        try:
            entry = self._made(exchange, asked)
        except NotKept as reason:
            asked.land(ALONE)
            self._set_apart(asked.key)
            if asked.entry is not None and exchange.status < 500:
                self._replaced(asked, reason)
            self._tell(exchange, said[4:], str(reason).encode())
            return
        body = exchange.answer_body
        self._tell(exchange, said[4:] + b"; stored", b"")
        if isinstance(body, bytes):
            entry.body = body
            entry.size += len(body)
            self._keep(asked, entry)
            asked.land(entry)
            if asked.entry is not None and any(name in CONDITIONS for name, _ in asked.fields):
                _put(exchange, self._answer(exchange, asked.fields, entry, said + b"; stored"))
            return
        fill = Fill(body, exchange.release, self.config.max_body_bytes)
        exchange.answer_body, exchange.release = fill.read(), fill.leave
        flight, asked.flight = asked.flight, None
        self._store.spawn(self._filled(fill, asked, entry, flight))

    async def _filled(self, fill: Fill, asked: Asked, entry: Entry, flight: Flight | None) -> None:
        told: Entry | Told = AGAIN
        try:
            body = await fill.run()
            if body is not None:
                entry.body = body
                entry.size += len(body)
                self._keep(asked, entry)
                told = entry
            else:
                told = ALONE
        finally:
            if flight is not None:
                flight.land(told)

    def _made(self, exchange: Exchange, asked: Asked) -> Entry:
        """The answer without its body. Raises NotKept."""
        received_s = self._wall()
        fields = answers.fields_of(exchange)
        terms = freshness.terms(exchange.status, fields, self._rules, received_s, authorised=asked.known)
        answers.check_body(exchange, fields, self.config.content_type, self.config.max_body_bytes)
        return answers.made(exchange, fields, asked.fields, terms, asked.requested_s, received_s)

    def _compare(self, exchange: Exchange, asked: Asked) -> None:
        """The answer to a HEAD tells whether what is kept still holds (RFC 9111 §4.3.5)."""
        kept = asked.entry
        if kept is None or exchange.status != 200 or kept.status != 200:
            return
        if not conditions.same(kept.fields, len(kept.body), exchange.response_headers or []):
            self._store.drop(asked.key)

    def _keep(self, asked: Asked, entry: Entry) -> None:
        terms = entry.terms
        beyond_s = max(terms.behind_s, terms.on_error_s)
        if freshness.validators(entry.fields):
            beyond_s = max(beyond_s, self.config.storage_ttl)
        kept_s = terms.lifetime_s - entry.age_s + beyond_s
        if kept_s > 0:
            self._store.keep(asked.key, entry, kept_s, shared=self._shared)

    def _set_apart(self, key: bytes) -> None:
        apart, place = self._store.apart, hash(key)
        apart[place] = self._wall() + APART_S
        apart.move_to_end(place)
        if len(apart) > MAX_APART:
            apart.popitem(last=False)

    def _tell(self, exchange: Exchange, why: bytes, detail: bytes) -> None:
        fields = exchange.response_headers
        assert fields is not None
        if not self.config.surrogate_keys:
            headers.remove(fields, b"surrogate-key")
        if self.config.status_header:
            said = b"hydragate; fwd=" + why + (b'; detail="' + detail + b'"' if detail else b"")
            headers.append_token(fields, b"cache-status", said)

    def log(self, exchange: Exchange) -> None:
        """Whatever became of a request, nobody goes on waiting for it."""
        asked: Asked | None = exchange.notes.get(self)
        if asked is not None:
            asked.land(AGAIN)


def _caller(exchange: Exchange) -> bytes:
    """Who asks: a consumer, and whatever else says so."""
    told = hashlib.sha256(b"\n".join(headers.get_all(exchange.headers, b"authorization"))).hexdigest()
    consumer, credential = exchange.consumer, exchange.credential
    who = f"{consumer.id} {consumer.username!r}" if consumer is not None else ""
    if credential is not None and not (consumer is not None and consumer.id):
        who += f" {credential.kind} {credential.id}"
    return f"{who} {told}".encode("utf-8", "surrogatepass")


def _put(exchange: Exchange, answer: Answer) -> None:
    """In the place of the upstream's."""
    fields = answer.headers
    if answer.status not in (204, 304):
        fields.append((b"content-length", b"%d" % len(answer.body)))
    exchange.status, exchange.response_headers = answer.status, fields
    exchange.answer_body = b"" if exchange.method == "HEAD" else answer.body


async def _discard(exchange: Exchange) -> None:
    """The upstream's answer is not what the client gets."""
    release, exchange.release = exchange.release, None
    exchange.answer_body = b""
    if release is not None:
        await release()
