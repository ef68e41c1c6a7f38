"""freshness: the rules of a shared cache, as pure functions of fields and times. No I/O, no clock, no state.

RFC 9111 (caching), 9110 §8.8, §13, §14 (validators, conditions, ranges), 5861 (stale answers), 9213 (targeted fields).
Where they leave a choice, the stricter one is taken: a directive that cannot be read makes an answer stale.

Times are seconds since the epoch, ages and lifetimes seconds. Fields are pairs with names in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from gateway.plugins.directives import (
    MAX_MEMORISED_BYTES,
    MAX_S,
    NONE,
    Directives,
    date,
    directives,
    listed,
    seconds,
    targeted,
)
from gateway.proxy import headers
from gateway.proxy.headers import Pairs

Use = Literal["fresh", "stale", "behind", "validate"]

#: RFC 9110 §15.1: may be kept without an explicit lifetime.
HEURISTIC = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
STATUSES = (200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501)
#: RFC 9110 §15: what `must-understand` may be said of.
UNDERSTOOD = frozenset({*range(200, 206), *range(300, 309), *range(400, 418), 421, 422, 426, *range(500, 506)})
#: RFC 5861 §4.
ERRORS = frozenset({500, 502, 503, 504})


# --- what may be kept, and on what terms ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rules:
    """What a route's settings say, where answers leave it open."""

    statuses: frozenset[int] = frozenset(STATUSES)
    ttl_s: int = 0  # of answers that say nothing; 0: they are not kept
    heuristics: bool = False  # a tenth of the time since Last-Modified
    heuristic_max_s: int = 86_400
    behind_s: int = 0  # stale-while-revalidate of answers without the directive
    on_error_s: int = 0  # stale-if-error likewise


@dataclass(frozen=True, slots=True)
class Terms:
    """On which an answer may be used again."""

    lifetime_s: float
    validate: bool = False  # no-cache: never without asking
    strict: bool = False  # must-revalidate, proxy-revalidate: never stale
    shared: bool = False  # s-maxage: stale only where the answer itself allows it
    behind_s: float = 0.0
    on_error_s: float = 0.0
    hidden: frozenset[bytes] = frozenset()  # fields that are not kept
    free: bool = False  # public, s-maxage, must-revalidate: for those who say who they are, too


class NotKept(Exception):
    """The reason, in a few words without quotes."""


def terms(status: int, fields: Pairs, rules: Rules, received_s: float, *, authorised: bool = False) -> Terms:
    """Of an answer to a GET (RFC 9111 §3). `authorised`: its request says who asks. Raises NotKept.

    `Vary: *` is refused too: it may be kept, but nobody could be answered with it.
    """
    told = _told(fields)
    said = targeted(told[b"cdn-cache-control"]) if b"cdn-cache-control" in told else None
    own = said is not None
    if said is None:
        said = directives(told[b"cache-control"]) if b"cache-control" in told else NONE
    if status not in rules.statuses or status in (206, 304) or status < 200:
        raise NotKept("status")
    if b"must-understand" in said and status not in UNDERSTOOD:
        raise NotKept("must-understand")
    if b"no-store" in said and b"must-understand" not in said:  # §5.2.2.3: the other outweighs it
        raise NotKept("no-store")
    if b"private" in said and listed(said, b"private") is None:
        raise NotKept("private")
    if b"vary" in told and b"*" in _words(told[b"vary"]):
        raise NotKept("vary")
    free = not said.keys().isdisjoint((b"public", b"s-maxage", b"must-revalidate"))
    if authorised and not free:
        raise NotKept("authorization")
    hidden = (listed(said, b"private") or frozenset()) | (listed(said, b"no-cache") or frozenset())
    if b"set-cookie" in told and b"set-cookie" not in hidden:
        raise NotKept("set-cookie")
    validate = b"no-cache" in said and listed(said, b"no-cache") is None
    lifetime_s = _lifetime(status, told, said, rules, received_s, own)
    if lifetime_s is None:
        if not validate:
            raise NotKept("no lifetime")
        lifetime_s = 0.0
    behind_s, on_error_s = seconds(said, b"stale-while-revalidate"), seconds(said, b"stale-if-error")
    shared = b"s-maxage" in said
    made = Terms(
        lifetime_s=lifetime_s,
        validate=validate,
        strict=b"must-revalidate" in said or b"proxy-revalidate" in said,
        shared=shared,
        behind_s=behind_s if behind_s is not None else 0 if shared else rules.behind_s,
        on_error_s=on_error_s if on_error_s is not None else 0 if shared else rules.on_error_s,
        hidden=hidden,
        free=free,
    )
    useful = b"etag" in told or b"last-modified" in told or made.behind_s or made.on_error_s
    if (lifetime_s <= 0 or validate) and not useful:
        raise NotKept("of no use")
    return made


_TELLING = frozenset({
    b"cache-control", b"cdn-cache-control", b"date", b"etag", b"expires", b"last-modified", b"set-cookie", b"vary",
})  # fmt: skip


def _told(fields: Pairs) -> dict[bytes, list[bytes]]:
    """The values of those that tell how to keep an answer."""
    told: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        if name in _TELLING:
            told.setdefault(name, []).append(value)
    return told


def _lifetime(
    status: int, told: dict[bytes, list[bytes]], said: Directives, rules: Rules, received_s: float, own: bool
) -> float | None:
    """RFC 9111 §4.2.1. `own`: a targeted field spoke, beside which `Expires` does not count (RFC 9213 §2.2)."""
    for name in (b"s-maxage", b"max-age"):
        if (explicit := seconds(said, name)) is not None:
            return explicit
    date_s = date(told[b"date"][0]) if b"date" in told else None
    if date_s is None:
        date_s = int(received_s)
    if not own and (expires := told.get(b"expires")):
        ends_s = date(expires[0]) if len(expires) == 1 else None
        return 0 if ends_s is None else max(0, ends_s - date_s)
    if status not in HEURISTIC and b"public" not in said:
        return None
    changed = told.get(b"last-modified")
    if rules.heuristics and changed and (changed_s := date(changed[0])) is not None:
        return min(max(0, (date_s - changed_s) / 10), rules.heuristic_max_s)
    return rules.ttl_s or None


def validators(fields: Pairs) -> bool:
    return any(name in (b"etag", b"last-modified") for name, _ in fields)


def initial_age(fields: Pairs, requested_s: float, received_s: float) -> float:
    """How old an answer was when it came (RFC 9111 §4.2.3)."""
    date_s = date(headers.get(fields, b"date"))
    apparent_s = max(0.0, received_s - date_s) if date_s is not None else 0.0
    if apparent_s < 1:
        apparent_s = 0.0  # Date counts in whole seconds
    value = (headers.get(fields, b"age") or b"").partition(b",")[0].strip()
    said_s = min(int(value[:11]), MAX_S) if value.isdigit() else 0
    return max(apparent_s, said_s + max(0.0, received_s - requested_s))


# --- whether what is kept will do -------------------------------------------------------------------------------------


def asked(fields: Pairs) -> Directives:
    """What a request says. `Pragma: no-cache` counts where there is no `Cache-Control` (RFC 9111 §5.4)."""
    values = pragma = None
    for name, value in fields:
        if name == b"cache-control":
            values = [value] if values is None else [*values, value]
        elif name == b"pragma":
            pragma = value
    if values is not None:
        return directives(values)
    if pragma is not None and b"no-cache" in directives([pragma]):
        return {b"no-cache": None}
    return NONE


def use(kept: Terms, age_s: float, wanted: Directives = NONE) -> Use:
    """`fresh`, `stale` (the client takes it), `behind` (send it, and look for a newer one meanwhile), or `validate`."""
    if kept.validate:
        return "validate"
    left_s = kept.lifetime_s - age_s
    if not wanted:
        return "fresh" if left_s > 0 else _stale(kept, -left_s)
    if b"no-cache" in wanted:
        return "validate"
    oldest_s, spare_s = seconds(wanted, b"max-age"), seconds(wanted, b"min-fresh")
    if (oldest_s is not None and age_s > oldest_s) or (spare_s is not None and left_s < spare_s):
        return "validate"
    if left_s > 0:
        return "fresh"
    if b"max-stale" in wanted and not kept.strict and not kept.shared:
        most_s = MAX_S if wanted[b"max-stale"] is None else seconds(wanted, b"max-stale") or 0
        if -left_s <= most_s:
            return "stale"
    if oldest_s is not None or spare_s is not None:
        return "validate"  # who says how old it may be does not want it stale
    return _stale(kept, -left_s)


def _stale(kept: Terms, over_s: float) -> Use:
    return "behind" if over_s < kept.behind_s and not kept.strict else "validate"


def may_cover(kept: Terms, age_s: float, wanted: Directives = NONE) -> bool:
    """Whether an answer may stand in for an upstream that fails (RFC 5861 §4). The client may ask for it, too."""
    if kept.strict or kept.validate or b"no-cache" in wanted:
        return False
    window_s = max(kept.on_error_s, 0 if kept.shared else seconds(wanted, b"stale-if-error") or 0)
    return age_s - kept.lifetime_s < window_s


# --- which answer is for which request --------------------------------------------------------------------------------


def names(fields: Pairs) -> tuple[bytes, ...]:
    """The fields that `Vary` names, in lower case and order."""
    return tuple(sorted(_words(headers.get_all(fields, b"vary")) - {b""}))


def _words(values: list[bytes]) -> set[bytes]:
    return {word.strip().lower() for value in values for word in value.split(b",")}


def selecting(varied: tuple[bytes, ...], fields: Pairs) -> tuple[bytes | None, ...]:
    """What a request says in each of these fields, written in one way (RFC 9111 §4.1). None: the field is absent."""
    return tuple([_said(name, headers.get_all(fields, name)) for name in varied])


def _said(name: bytes, values: list[bytes]) -> bytes | None:
    if not values:
        return None
    value = values[0] if len(values) == 1 else b",".join(values)
    return _remembered(name, value) if len(value) <= MAX_MEMORISED_BYTES else _normal(name, value)


def _normal(name: bytes, value: bytes) -> bytes:
    words = [b" ".join(word.split()) for word in value.split(b",")]
    if name == b"accept-encoding":
        return b",".join(sorted(filter(None, {_coding(word.lower()) for word in words})))
    if name in (b"accept", b"accept-language", b"accept-charset"):
        words = [word.replace(b" ", b"").lower() for word in words]
    return b", ".join(filter(None, words))


_remembered = lru_cache(maxsize=1024)(_normal)


def _coding(word: bytes) -> bytes:
    """Without a weight of 1, and nothing at all for a coding that is refused anyway by not being named."""
    coding, _, weight = word.replace(b" ", b"").partition(b";q=")
    weight = weight.rstrip(b"0").rstrip(b".") if b"." in weight else weight
    if weight == b"0" or (b";q=" in word and not weight):
        return coding + b";q=0" if coding in (b"*", b"identity") else b""
    return coding if weight in (b"", b"1") else coding + b";q=" + weight


# --- what ends an answer ----------------------------------------------------------------------------------------------

SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


def invalidates(method: str, status: int) -> bool:
    """RFC 9111 §4.4: an unsafe request that was not refused."""
    return method not in SAFE and 200 <= status < 400


_URL = re.compile(rb"(?:https?:)?//([^/?#]*)([^#]*)", re.IGNORECASE)


def also_ended(fields: Pairs, authority: bytes, target: bytes) -> Iterable[bytes]:
    """The targets that `Location` and `Content-Location` name at the same authority."""
    for name in (b"location", b"content-location"):
        value = headers.get(fields, name)
        if not value:
            continue
        match = _URL.match(value)
        if match is not None:
            if match[1].lower() == authority.lower():
                yield match[2] or b"/"
        elif value.startswith(b"/"):
            yield value.partition(b"#")[0]
        elif b":" not in value.partition(b"/")[0]:
            yield _resolved(target, value.partition(b"#")[0])


def _resolved(target: bytes, relative: bytes) -> bytes:
    """A relative reference by RFC 3986 §5.2, for paths."""
    path = target.partition(b"?")[0]
    if not relative or relative.startswith(b"?"):
        return path + relative
    kept: list[bytes] = path.rpartition(b"/")[0].split(b"/")[1:]
    wanted, mark, query = relative.partition(b"?")
    segments = wanted.split(b"/")
    for segment in segments:
        if segment == b"..":
            kept = kept[:-1]
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept) + mark + query
