"""Where a request carries its token: header fields, query parameters, cookies. Found, and taken out again."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.proxy import headers, query
from gateway.proxy.exchange import Exchange

_AUTHORIZATION = b"authorization"
_COOKIE = b"cookie"


class Places:
    def __init__(self, header_names: Iterable[str], query_names: Iterable[str], cookie_names: Iterable[str]) -> None:
        self._headers = frozenset(name.lower().encode() for name in header_names)
        self._query = frozenset(name.encode() for name in query_names)
        self._cookies = frozenset(name.encode() for name in cookie_names)

    def find(self, exchange: Exchange) -> set[bytes]:
        """Every token there is; the same one in two places is one, and the empty string is none."""
        names = self._headers
        found = {_token(pair) for pair in exchange.headers if pair[0] in names}
        if exchange.query:
            for name in self._query:
                found.update(query.get_all(exchange.query, name))
        if self._cookies:
            for value in headers.get_all(exchange.headers, _COOKIE):
                found.update(word for name, word in map(_cookie, value.split(b";")) if name in self._cookies)
        found.discard(b"")
        return found

    def hide(self, exchange: Exchange) -> None:
        """Everything under these names goes, but not an `Authorization` of another scheme: that is the upstream's."""
        kept: headers.Pairs = []
        for pair in exchange.headers:
            if pair[0] in self._headers and _token(pair):
                continue
            if pair[0] == _COOKIE and self._cookies:
                rest = [part for part in pair[1].split(b";") if _cookie(part)[0] not in self._cookies]
                if rest:
                    kept.append((_COOKIE, b";".join(rest).strip()))
                continue
            kept.append(pair)
        exchange.headers[:] = kept
        wire = exchange.query if exchange.upstream_query is None else exchange.upstream_query
        if wire and (shorter := query.without(wire, self._query)) != wire:
            exchange.upstream_query = shorter

    def __str__(self) -> str:
        """For people: where a client may put it."""
        places = ["as `Authorization: Bearer <token>`"] if _AUTHORIZATION in self._headers else []
        places += _named("header", self._headers - {_AUTHORIZATION})
        places += _named("query parameter", self._query) + _named("cookie", self._cookies)
        return " or ".join(places)


def _named(kind: str, names: frozenset[bytes]) -> list[str]:
    return [f"in the {kind} `{name.decode()}`" for name in sorted(names)]


def _token(pair: headers.Pair) -> bytes:
    """`Authorization` needs the scheme, another header may do without. Any case (RFC 9110 §11.1)."""
    value = pair[1]
    if value[:7].lower() == b"bearer ":
        return value[7:].strip(b" ")
    return b"" if pair[0] == _AUTHORIZATION else value.strip()


def _cookie(part: bytes) -> tuple[bytes, bytes]:
    name, _, value = part.partition(b"=")
    return name.strip(), value.strip()
