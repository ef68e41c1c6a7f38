"""answers: from an upstream's answer to one that is kept, and from that to what a client gets.

What is kept is the upstream's own word, but for what is told anew to each client and what `freshness.terms` hides.
"""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import formatdate
from fnmatch import fnmatchcase

from gateway.plugins import conditions, directives, freshness
from gateway.plugins.freshness import NotKept, Terms
from gateway.plugins.level import Entry
from gateway.proxy import headers
from gateway.proxy.exchange import Exchange
from gateway.proxy.headers import Pairs

#: Of a request that may be answered by less than the whole.
CONDITIONS = frozenset({b"if-none-match", b"if-modified-since", b"range", b"if-range"})
#: Told anew to each client, or never to another.
NOT_KEPT = frozenset({b"age", b"cache-status", b"content-length", b"set-cookie", b"surrogate-key"})
#: The forwarder's own, which differ by client.
_BY_CLIENT = frozenset({b"x-forwarded-for", b"x-real-ip", b"forwarded"})


def fields_of(exchange: Exchange) -> Pairs:
    """The upstream's, without the cookie by which the gateway itself leads a client back to a target."""
    fields = exchange.response_headers
    assert fields is not None
    sticky = exchange.upstream.sticky if exchange.upstream is not None else None
    if sticky is None:
        return fields
    own = sticky.cookie + b"="
    return [pair for pair in fields if pair[0] != b"set-cookie" or not pair[1].startswith(own)]


def made(exchange: Exchange, fields: Pairs, asked: Pairs, terms: Terms, requested_s: float, received_s: float) -> Entry:
    """Still without its body. `asked`: the client's fields, before transformers. Raises NotKept for an answer that
    varies by what clients do not say."""
    assert exchange.route is not None
    varied = freshness.names(fields)
    selected = freshness.selecting(varied, asked)
    for name, value in zip(varied, selected, strict=True):
        (sent,) = freshness.selecting((name,), exchange.headers)
        if name in _BY_CLIENT or (sent is not None and sent != value):
            raise NotKept("vary")
    kept = [pair for pair in fields if pair[0] not in NOT_KEPT and pair[0] not in terms.hidden]
    if headers.get(kept, b"date") is None:
        kept.append((b"date", formatdate(received_s, usegmt=True).encode()))
    target = exchange.raw_path + b"?" + exchange.query if exchange.query else exchange.raw_path
    return Entry(
        exchange.status, kept, b"", terms, requested_s, received_s,
        freshness.initial_age(fields, requested_s, received_s), varied, selected,
        exchange.authority.lower().decode("latin-1"), target.decode("latin-1"), tags_of(fields), exchange.route.id,
    )  # fmt: skip


def renewed(kept: Entry, fields: Pairs, told: Pairs, terms: Terms, requested_s: float, received_s: float) -> Entry:
    """The same body under other fields: `fields` are all of them, `told` those that came just now."""
    fields = [pair for pair in fields if pair[0] not in NOT_KEPT and pair[0] not in terms.hidden]
    return Entry(
        kept.status, fields, kept.body, terms, requested_s, received_s,
        freshness.initial_age(told, requested_s, received_s), kept.varied, kept.selected, kept.authority, kept.target,
        tags_of(told) or kept.tags, kept.route,
    )  # fmt: skip


def check_body(exchange: Exchange, fields: Pairs, types: Sequence[str], most: int) -> None:
    """Only what is sure to be whole, and small enough. `types`: patterns, none for all. Raises NotKept."""
    media_type = (headers.get(fields, b"content-type") or b"").partition(b";")[0].strip().lower()
    if media_type == b"text/event-stream":
        raise NotKept("event stream")
    if types and not any(fnmatchcase(media_type.decode("latin-1"), one) for one in types):
        raise NotKept("content-type")
    length = headers.get(exchange.answer_fields, b"content-length")
    chunked = headers.get(exchange.answer_fields, b"transfer-encoding") is not None
    framed = length is not None or chunked or exchange.status == 204
    if not framed and not (exchange.upstream is not None and exchange.upstream.http2):
        raise NotKept("no length")  # ends with the connection, so nobody knows whether it was whole
    body = exchange.answer_body
    if (length is not None and int(length) > most) or (isinstance(body, bytes) and len(body) > most):
        raise NotKept("too large")


def told(entry: Entry, method: str, asked: Pairs) -> tuple[int, Pairs, bytes]:
    """Status, fields and body: for a client with a copy of its own, or one who wants a part, as much as it needs."""
    fields, body = entry.fields, entry.body
    if entry.status == 200 and any(name in CONDITIONS for name, _ in asked):
        if conditions.unchanged(asked, fields, entry.received_s):
            return 304, conditions.not_modified(fields), b""
        if method == "GET" and (part := conditions.span(asked, fields, len(body))) is not None:
            return _part(fields, body, *part)
    return entry.status, fields, body


def _part(fields: Pairs, body: bytes, start: int, end: int) -> tuple[int, Pairs, bytes]:
    if start < 0:
        return 416, [(b"content-range", b"bytes */%d" % len(body))], b""
    return 206, [*fields, (b"content-range", b"bytes %d-%d/%d" % (start, end - 1, len(body)))], body[start:end]


def tags_of(fields: Pairs) -> frozenset[str]:
    return frozenset(tag.decode("latin-1") for tag in directives.tags(fields))
