"""lookup: what a worker's memory alone did not answer. Others may be fetching it already, or Redis may have it.

Of requests for the same, one goes upstream and the others wait for its answer, a while; what it brings may turn out not
to be for them, and then each goes by itself. In a worker they wait for a flight; of the workers one has the lead, and
the others look into Redis now and then, until there is an answer or the lead is free.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from gateway.plugins import freshness
from gateway.plugins.answers import CONDITIONS
from gateway.plugins.cache import Asked, Cache
from gateway.plugins.flights import ALONE, Flight
from gateway.plugins.level import Entry
from gateway.plugins.store import Lead
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Answer, Exchange

MAX_TURNS = 4  # of waiting for others, before a request goes by itself
FIRST_LOOK_S, LAST_LOOK_S = 0.01, 0.1  # into Redis, while another worker asks: the pause doubles


async def look(cache: Cache, exchange: Exchange, asked: Asked) -> Answer | None:
    """None: it has to go upstream, with others waiting for it if they can. Raises Reject for `only-if-cached`."""
    answer = await _among_others(cache, exchange, asked)
    if answer is not None:
        return answer
    if cache.policy.shared and (answer := await _from_redis(cache, exchange, asked)) is not None:
        return answer
    if b"only-if-cached" in asked.wanted:
        asked.land(ALONE)
        exchange.detail = "response-cache: only-if-cached, and nothing is kept"
        said = ((b"cache-status", b"hydragate; fwd=request; detail=only-if-cached"),)
        raise Reject(504, "not_cached", "Only a kept answer was asked for, and none is.", headers=said)
    return None


async def _from_redis(cache: Cache, exchange: Exchange, asked: Asked) -> Answer | None:
    """What others have kept there, or are about to. None: the upstream has to be asked."""
    store, flight, wait_s = cache.store, asked.flight, cache.policy.wait_s
    until_s, pause_s = monotonic() + wait_s, FIRST_LOOK_S
    while True:
        if flight is None or asked.use == "behind":
            found, lead = await store.fetch(asked.key, asked.fields), Lead(ours=True)
        else:
            found, lead = await store.fetch_or_lead(asked.key, asked.fields, wait_s)
            flight.lead = lead
        if found is not None and asked.identified and not found.terms.free:
            found = None
        if found is not None and (asked.entry is None or found.received_s > asked.entry.received_s):
            asked.entry = found
            if (answer := _kept(cache, exchange, asked)) is not None:
                asked.land(found)
                return answer
        if lead.apart:
            cache.set_apart(asked.key)
            asked.land(ALONE)
        if lead.ours or lead.apart or asked.use == "behind" or monotonic() > until_s:
            return None
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LAST_LOOK_S)


async def _among_others(cache: Cache, exchange: Exchange, asked: Asked) -> Answer | None:
    """From what is kept here, or from what somebody else's request brings. None: neither will do."""
    store = cache.store
    waits = cache.policy.wait_s > 0 and exchange.method == "GET" and _waits(cache, asked)
    for _ in range(MAX_TURNS):
        if (answer := _kept(cache, exchange, asked)) is not None:
            return answer
        if not (waits or store.flights or asked.use == "behind"):
            return None
        place = _place(cache, asked)
        flight: Flight | None = store.flights.get(place)
        if flight is None or flight.begun_s <= store.purges.latest_s:  # what it brings may be void
            if waits or asked.use == "behind":
                asked.flight = Flight(store.flights, place, cache.wall())
            return None
        if asked.use == "behind" and asked.entry is not None:  # a newer one is on its way
            return cache.hit(exchange, asked.fields, asked.entry)
        if not waits:
            return None
        told = await flight.wait(cache.policy.wait_s)
        if told is ALONE:
            return None
        if isinstance(told, Entry) and _fits(cache, told, asked):
            return cache.hit(exchange, asked.fields, told, b"; collapsed")
        asked.entry = cache.find(asked.key, asked.fields, asked.identified)
    return None


def _kept(cache: Cache, exchange: Exchange, asked: Asked) -> Answer | None:
    """The answer, if what is kept will do; notes why if not."""
    entry = asked.entry
    if entry is None:
        asked.use = "validate"
        asked.why = b"vary-miss" if cache.store.varied(asked.key) else b"uri-miss"
        return None
    age_s = entry.age(cache.wall())
    asked.use = freshness.use(entry.terms, age_s, asked.wanted)
    if asked.use in ("fresh", "stale"):
        return cache.hit(exchange, asked.fields, entry)
    asked.why = b"request" if entry.terms.lifetime_s > age_s and not entry.terms.validate else b"stale"
    return None


def _waits(cache: Cache, asked: Asked) -> bool:
    """Whether an answer to somebody else's request may do: not for those who want a new one, or a part of it."""
    if cache.store.apart.get(hash(asked.key), 0.0) >= cache.wall():
        return False
    if not asked.wanted.keys().isdisjoint((b"no-cache", b"max-age", b"min-fresh", b"only-if-cached")):
        return False
    return asked.entry is not None or not any(name in CONDITIONS for name, _ in asked.fields)


def _place(cache: Cache, asked: Asked) -> Any:
    varied = cache.store.varied(asked.key)
    return asked.key, varied, freshness.selecting(varied, asked.fields)


def _fits(cache: Cache, entry: Entry, asked: Asked) -> bool:
    if asked.identified and not entry.terms.free:
        return False
    if cache.store.purges.void(entry) or freshness.selecting(entry.varied, asked.fields) != entry.selected:
        return False
    return cache.use(entry, asked.wanted) == "fresh"
