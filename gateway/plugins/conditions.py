"""conditions: who has an answer already, who wants a part of it, and which 304 or HEAD is about the one that is kept.

RFC 9110 §13 and §14, and RFC 9111 §4.3, as pure functions of fields.
"""

from __future__ import annotations

import re

from gateway.plugins.directives import date
from gateway.proxy import headers
from gateway.proxy.headers import Pairs

_ETAG = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


def unchanged(asked_for: Pairs, fields: Pairs, received_s: float) -> bool:
    """Whether a client has it already (RFC 9110 §13.1.2, §13.1.3; RFC 9111 §4.3.2): then 304."""
    wanted = headers.get_all(asked_for, b"if-none-match")
    if wanted:
        etag = headers.get(fields, b"etag")
        if any(value.strip() == b"*" for value in wanted):
            return True
        if etag is None:
            return False
        return any(_opaque(other) == _opaque(etag) for value in wanted for other in _ETAG.findall(value))
    since_s = date(headers.get(asked_for, b"if-modified-since"))
    if since_s is None:
        return False
    changed_s = date(headers.get(fields, b"last-modified"))
    if changed_s is None:
        changed_s = date(headers.get(fields, b"date"))
    return (received_s if changed_s is None else changed_s) <= since_s


def _opaque(etag: bytes) -> bytes:
    return etag.removeprefix(b"W/")


#: Of a 200, what its 304 repeats (RFC 9110 §15.4.5).
_REPEATED = frozenset({
    b"cache-control", b"cdn-cache-control", b"content-location", b"date", b"etag", b"expires", b"vary", b"via",
})  # fmt: skip


def not_modified(fields: Pairs) -> Pairs:
    named = headers.get(fields, b"etag") is not None
    return [pair for pair in fields if pair[0] in _REPEATED or (pair[0] == b"last-modified" and not named)]


def questions(fields: Pairs) -> Pairs:
    """To ask whether what is kept still holds (RFC 9111 §4.3.1)."""
    made: Pairs = []
    if (etag := headers.get(fields, b"etag")) is not None:
        made.append((b"if-none-match", etag))
    if (changed := headers.get(fields, b"last-modified")) is not None:
        made.append((b"if-modified-since", changed))
    return made


def confirms(kept: Pairs, told: Pairs) -> bool:
    """Whether a 304 is about what we keep (RFC 9111 §4.3.4)."""
    etag = headers.get(told, b"etag")
    if etag is not None:
        mine = headers.get(kept, b"etag")
        return mine is not None and (etag == mine or (_opaque(etag) == _opaque(mine) and etag.startswith(b"W/")))
    changed = headers.get(told, b"last-modified")
    return changed is None or changed == headers.get(kept, b"last-modified")


#: Of the bytes we keep: a 304 or a HEAD cannot change them (RFC 9111 §3.2).
_OF_THE_BODY = frozenset({
    b"content-length", b"content-encoding", b"content-type", b"content-range", b"transfer-encoding",
})  # fmt: skip


def updated(kept: Pairs, told: Pairs) -> Pairs:
    """The kept fields with those of a 304 in their place."""
    told = [pair for pair in told if pair[0] not in _OF_THE_BODY]
    replaced = {name for name, _ in told} | {b"age"}
    return [pair for pair in kept if pair[0] not in replaced] + told


def same(kept: Pairs, length: int, told: Pairs) -> bool:
    """Whether the answer to a HEAD is about what we keep (RFC 9111 §4.3.5)."""
    for name in (b"etag", b"last-modified", b"content-encoding"):
        value = headers.get(told, name)
        if value is not None and value != headers.get(kept, name):
            return False
    said = headers.get(told, b"content-length")
    return said is None or said == b"%d" % length


_RANGE = re.compile(rb"bytes[ \t]*=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*", re.IGNORECASE)


def span(asked_for: Pairs, fields: Pairs, length: int) -> tuple[int, int] | None:
    """Which bytes of a 200 a client wants, as (start, end). None: all. (-1, -1): none that there are, so 416.

    Several ranges are answered by all (RFC 9110 §14.2 allows it): a multipart body saves nobody anything here.
    """
    value = headers.get(asked_for, b"range")
    match = _RANGE.fullmatch(value) if value is not None else None
    if match is None or not (match[1] or match[2]) or not _range_holds(asked_for, fields):
        return None
    if not match[1]:
        last = int(match[2])
        return (max(0, length - last), length) if last and length else (-1, -1)
    start, end = int(match[1]), int(match[2]) if match[2] else length - 1
    if match[2] and end < start:
        return None  # §14.1.1: not valid, so ignored
    return (start, min(end + 1, length)) if start < length else (-1, -1)


def _range_holds(asked_for: Pairs, fields: Pairs) -> bool:
    """If-Range (RFC 9110 §13.1.5): strong comparison, or exactly the date."""
    value = headers.get(asked_for, b"if-range")
    if value is None:
        return True
    value = value.strip()
    if value.endswith(b'"'):
        return not value.startswith(b"W/") and value == headers.get(fields, b"etag")
    return date(value) is not None and value == headers.get(fields, b"last-modified")
