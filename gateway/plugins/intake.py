"""intake: a whole answer of an upstream, kept if it may be, while its client reads it."""

from __future__ import annotations

from gateway.plugins import answers, conditions, freshness
from gateway.plugins.answers import CONDITIONS
from gateway.plugins.cache import Asked, Cache
from gateway.plugins.flights import AGAIN, ALONE, Fill, Flight, Told
from gateway.plugins.freshness import NotKept
from gateway.plugins.level import Entry
from gateway.proxy.exchange import Exchange


async def take(cache: Cache, exchange: Exchange, asked: Asked) -> None:
    """Who waits for it is told as soon as the body is there, whatever its own client's pace is."""
    why = asked.why + b"; fwd-status=%d" % exchange.status
    exchange.cache_status = "miss"
    if exchange.method == "HEAD":
        _compare(cache, exchange, asked)
        asked.land(ALONE)
        cache.tell(exchange, why)
        return
    try:
        entry = _made(cache, exchange, asked)
    except NotKept as reason:
        asked.land(ALONE)
        cache.set_apart(asked.key)
        if asked.entry is not None and exchange.status < 500:
            cache.replaced(asked, reason)
        cache.tell(exchange, why, str(reason).encode())
        return
    body, why = exchange.answer_body, why + b"; stored"
    cache.tell(exchange, why)
    if isinstance(body, bytes):
        _keep(cache, asked, entry, body)
        asked.land(entry)
        if asked.entry is not None and any(name in CONDITIONS for name, _ in asked.fields):
            cache.put(exchange, cache.answer(exchange, asked.fields, entry, b"fwd=" + why))
        return
    fill = Fill(body, exchange.release, cache.policy.max_body_bytes)
    exchange.answer_body, exchange.release = fill.read(), fill.leave
    flight, asked.flight = asked.flight, None
    cache.store.spawn(_filled(cache, fill, asked, entry, flight))


async def _filled(cache: Cache, fill: Fill, asked: Asked, entry: Entry, flight: Flight | None) -> None:
    told: Entry | Told = AGAIN
    try:
        body = await fill.run()
        if body is not None:
            _keep(cache, asked, entry, body)
            told = entry
        else:
            told = ALONE
    finally:
        if flight is not None:
            flight.land(told)


def _made(cache: Cache, exchange: Exchange, asked: Asked) -> Entry:
    """The answer without its body. Raises NotKept."""
    received_s, policy = cache.wall(), cache.policy
    fields = answers.fields_of(exchange)
    terms = freshness.terms(exchange.status, fields, policy.rules, received_s, authorised=asked.known)
    answers.check_body(exchange, fields, policy.types, policy.max_body_bytes)
    return answers.made(exchange, fields, asked.fields, terms, asked.requested_s, received_s)


def _keep(cache: Cache, asked: Asked, entry: Entry, body: bytes) -> None:
    entry.body = body
    entry.size += len(body)
    cache.keep(asked, entry)


def _compare(cache: Cache, exchange: Exchange, asked: Asked) -> None:
    """The answer to a HEAD tells whether what is kept still holds, and renews it then (RFC 9111 §4.3.5). Without a
    validator it could be about anything of that length: then it ends nothing and renews nothing."""
    kept, told = asked.entry, exchange.response_headers or []
    if kept is None or exchange.status != 200 or kept.status != 200:
        return
    if not conditions.same(kept.fields, len(kept.body), told):
        cache.store.drop(asked.key)
    elif freshness.validators(told):
        try:
            cache.keep(asked, cache.renewed(asked, kept, told))
        except NotKept as reason:
            cache.replaced(asked, reason)
