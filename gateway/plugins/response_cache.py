"""response-cache: keeps what upstreams answer and answers with it, as a shared HTTP cache does (RFC 9111).

Phases   access, forward, log
Fails    never: without Redis a worker's own memory remains. `only-if-cached` for what is not kept: 504 `not_cached`
Compare  Kong's proxy-cache (same field names where they mean the same; Kong heeds `Vary` and `Cache-Control` in part)

It stands behind authentication, acl and limits, so whoever may not ask gets nothing that is kept, and before the
transformers: what is kept is the upstream's own word, and they change it anew for each client.

    access    fresh in this worker: the answer, at once      lookup.py    others' requests, Redis
    forward   asking the upstream: inquiry.py                intake.py    its answer, kept if it may be

The rules are in freshness.py, what one setting keeps and tells in cache.py, where it lies in store.py.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Awaitable
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from gateway.plugins import freshness, inquiry
from gateway.plugins.base import Forward, Plugin, PluginConfig, Resources
from gateway.plugins.cache import PRECONDITIONS, SPEAKING, Asked, Cache, Policy
from gateway.plugins.directives import NONE, Directives
from gateway.plugins.flights import AGAIN
from gateway.plugins.freshness import STATUSES, Rules
from gateway.plugins.level import Entry
from gateway.plugins.lookup import look
from gateway.plugins.purges import Purge
from gateway.proxy import headers, query
from gateway.proxy.errors import RedisUnavailable
from gateway.proxy.exchange import Answer, Exchange

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


class ResponseCache(Plugin):
    name = "response-cache"
    Config = ResponseCacheConfig
    config: ResponseCacheConfig
    refuses = False

    def __init__(self, config: ResponseCacheConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._store = resources.store
        self._store.wanted = True
        self._cache = Cache(self._store, resources.wall, _policy(config))
        self._methods = frozenset(config.request_method)
        self._vary = tuple(sorted({name.lower().encode() for name in config.vary_headers}))
        self._parameters = frozenset(name.encode() for name in config.vary_query_params)
        self._beginnings: dict[tuple[int, str], bytes] = {}  # of keys, by route and scheme

    def access(self, exchange: Exchange) -> Any:
        """What is kept and fresh in this worker is answered without waiting."""
        if exchange.method not in self._methods or exchange.body is not None or "websocket" in exchange.notes:
            return None
        key, fields, identified = self._key(exchange), exchange.headers, self._identified(exchange)
        entry = self._store.find(key, fields)
        if entry is not None and identified and not entry.terms.free:
            entry = None
        speaks = not SPEAKING.isdisjoint([name for name, _ in fields])
        if not speaks:
            if entry is not None and (answer := self._cache.ready(exchange, entry)) is not None:
                return answer
            return self._look(exchange, key, NONE, identified, entry)
        wanted = freshness.asked(fields) if self.config.request_directives else NONE
        if b"no-store" in wanted or any(name in PRECONDITIONS for name, _ in fields):
            return None
        if entry is not None and self._cache.use(entry, wanted) in ("fresh", "stale"):
            return self._cache.hit(exchange, fields, entry)
        return self._look(exchange, key, wanted, identified, entry)

    def _look(
        self, exchange: Exchange, key: bytes, wanted: Directives, identified: bool, entry: Entry | None
    ) -> Awaitable[Answer | None]:
        fields = exchange.headers
        known = identified or (not self.config.by_consumer and headers.get(fields, b"authorization") is not None)
        exchange.notes[self] = asked = Asked(key, [*fields], wanted, identified, known, entry)
        return look(self._cache, exchange, asked)

    def _key(self, exchange: Exchange) -> bytes:
        """All that tells requests for different things apart, but for what `Vary` names. No part can hold a line's
        end."""
        assert exchange.route is not None
        place = exchange.route.id, exchange.scheme
        beginning = self._beginnings.get(place)
        if beginning is None:
            beginning = self._beginnings[place] = b"%d %d\n%b\n" % (self.setting_id, place[0], place[1].encode())
        key = beginning + exchange.authority.lower() + b"\n" + exchange.raw_path
        if asked := exchange.query:
            if self._parameters:
                asked = b"&".join([part for part in asked.split(b"&") if self._counts(part)])
            key += b"?" + asked if asked else b""
        for value in freshness.selecting(self._vary, exchange.headers) if self._vary else ():
            key += b"\n-" if value is None else b"\n+" + value
        return key + b"\n" + _caller(exchange) if self.config.by_consumer else key

    def _counts(self, part: bytes) -> bool:
        return any(query.has(part, name) for name in self._parameters)

    def _identified(self, exchange: Exchange) -> bool:
        """Whether a plugin has found out who asks, and the key does not tell: then nothing will do that is not for all,
        and the answer is for that one alone, unless it says otherwise (RFC 9111 §3.5)."""
        consumer = exchange.consumer
        if exchange.credential is not None or (consumer is not None and (consumer.id or consumer.username)):
            return not self.config.by_consumer or "identified" in exchange.notes
        return consumer is not None or bool(exchange.claims) or "identified" in exchange.notes  # no key can say by what

    async def forward(self, exchange: Exchange, forward: Forward) -> None:
        asked: Asked | None = exchange.notes.get(self)
        if asked is None:
            await forward(exchange)
            if "websocket" not in exchange.notes:
                await self._passed(exchange)
        elif asked.use == "behind" and asked.entry is not None and asked.flight is not None:
            inquiry.renew(self._cache, exchange, asked, forward)
            self._cache.put(exchange, self._cache.hit(exchange, asked.fields, asked.entry))
        else:
            await inquiry.ask(self._cache, exchange, asked, forward)

    async def _passed(self, exchange: Exchange) -> None:
        """The cache has nothing to do with it, but for what it ends. Other workers are told of that before its client
        has the answer, who might ask one of them next."""
        assert exchange.response_headers is not None
        self._cache.tell(exchange, b"bypass" if exchange.method in self._methods else b"method")
        exchange.cache_status = "bypass"
        if freshness.invalidates(exchange.method, exchange.status):
            target = exchange.raw_path + b"?" + exchange.query if exchange.query else exchange.raw_path
            ended = {target, *freshness.also_ended(exchange.response_headers, exchange.authority, target)}
            authority = exchange.authority.lower().decode("latin-1")
            for telling in self._store.purge(Purge.of_url(one.decode("latin-1"), authority) for one in sorted(ended)):
                with contextlib.suppress(RedisUnavailable):
                    await telling

    def log(self, exchange: Exchange) -> None:
        """Whatever became of a request, nobody goes on waiting for it."""
        asked: Asked | None = exchange.notes.get(self)
        if asked is not None:
            asked.land(AGAIN)


def _policy(config: ResponseCacheConfig) -> Policy:
    return Policy(
        rules=Rules(
            statuses=frozenset(config.response_code),
            ttl_s=config.cache_ttl,
            heuristics=config.heuristics,
            behind_s=config.stale_while_revalidate,
            on_error_s=config.stale_if_error,
        ),
        shared=config.strategy == "redis",
        wait_s=config.coalesce_timeout_ms / 1000 if config.coalesce else 0.0,
        types=config.content_type,
        max_body_bytes=config.max_body_bytes,
        storage_s=config.storage_ttl,
        status_header=config.status_header,
        surrogate_keys=config.surrogate_keys,
    )


def _caller(exchange: Exchange) -> bytes:
    """Who asks: a consumer, and whatever else says so."""
    told = hashlib.sha256(b"\n".join(headers.get_all(exchange.headers, b"authorization"))).hexdigest()
    consumer, credential = exchange.consumer, exchange.credential
    who = f"{consumer.id} {consumer.username!r}" if consumer is not None else ""
    if credential is not None and not (consumer is not None and consumer.id):
        who += f" {credential.kind} {credential.id}"
    return f"{who} {told}".encode("utf-8", "surrogatepass")
