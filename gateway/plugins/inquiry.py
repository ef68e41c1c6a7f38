"""inquiry: asking the upstream about what is kept and stale, and what its word makes of it.

304           it is as new as when it came, with the fields that the 304 brings
an error      what is stale stands in for it, where that is allowed
another       takes its place, if it may be kept: intake.py
"""

from __future__ import annotations

import contextlib
from copy import copy

from gateway.plugins import conditions, freshness, intake
from gateway.plugins.answers import CONDITIONS
from gateway.plugins.base import Forward
from gateway.plugins.cache import Asked, Cache, discard
from gateway.plugins.flights import AGAIN, ALONE
from gateway.plugins.freshness import NotKept
from gateway.plugins.level import Entry
from gateway.proxy.errors import GatewayError, UpstreamError
from gateway.proxy.exchange import Exchange


async def ask(cache: Cache, exchange: Exchange, asked: Asked, forward: Forward) -> None:
    """Raises what `forward` raises, unless what is kept may stand in for it."""
    kept, own = asked.entry, exchange.headers
    questions = conditions.questions(kept.fields) if kept is not None else []
    if questions:
        exchange.headers = [pair for pair in own if pair[0] not in CONDITIONS] + questions
    asked.requested_s = cache.wall()
    try:
        await forward(exchange)
    except UpstreamError as error:
        exchange.headers = own
        asked.land(ALONE)  # one after the other would fail as well, each after waiting for it
        if kept is None or not _covers(cache, kept, asked):
            raise
        exchange.detail = error.detail
        _cover(cache, exchange, asked, kept, b"")
        return
    exchange.headers = own
    if kept is not None:
        if exchange.status in freshness.ERRORS and _covers(cache, kept, asked):
            asked.land(ALONE)
            said = b"; fwd-status=%d" % exchange.status
            await discard(exchange)
            _cover(cache, exchange, asked, kept, said)
            return
        if questions and exchange.status == 304:
            if await _confirmed(cache, exchange, asked, kept):
                return
            cache.store.drop(asked.key)
            await discard(exchange)
            asked.entry, asked.requested_s = None, cache.wall()
            await forward(exchange)
    await intake.take(cache, exchange, asked)


def renew(cache: Cache, exchange: Exchange, asked: Asked, forward: Forward) -> None:
    """Fetch a newer answer while the client gets the one there is."""
    twin = copy(exchange)
    twin.method, twin.headers, twin.notes = "GET", [*exchange.headers], {}
    twin.hints = None
    question = copy(asked)
    asked.flight = None  # the twin's now

    async def behind() -> None:
        try:
            with contextlib.suppress(GatewayError):  # the next client has another attempt made
                await ask(cache, twin, question, forward)
        finally:
            question.land(AGAIN)
            if twin.release is not None:
                await twin.release()

    cache.store.spawn(behind())


def _covers(cache: Cache, kept: Entry, asked: Asked) -> bool:
    return freshness.may_cover(kept.terms, kept.age(cache.wall()), asked.wanted)


def _cover(cache: Cache, exchange: Exchange, asked: Asked, kept: Entry, said: bytes) -> None:
    exchange.cache_status = "hit-stale"
    said = b"fwd=" + asked.why + said + b"; detail=stale-if-error"
    cache.put(exchange, cache.answer(exchange, asked.fields, kept, said))


async def _confirmed(cache: Cache, exchange: Exchange, asked: Asked, kept: Entry) -> bool:
    """A 304 that is about what we keep makes it as new."""
    told = exchange.response_headers or []
    if not conditions.confirms(kept.fields, told):
        return False
    try:
        entry = cache.renewed(asked, kept, told)
        cache.keep(asked, entry)
    except NotKept as reason:
        entry = cache.renewed_once(asked, kept, told)
        cache.replaced(asked, reason)
    asked.land(entry)
    await discard(exchange)
    exchange.cache_status = "revalidated"
    said = b"fwd=" + asked.why + b"; fwd-status=304; ttl=%d" % (entry.terms.lifetime_s - entry.age_s)
    cache.put(exchange, cache.answer(exchange, asked.fields, entry, said))
    return True
