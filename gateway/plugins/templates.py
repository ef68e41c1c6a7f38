"""Templates: values with places that a request fills, as Kong writes them: `Bearer $(headers.x-token or "none")`.

| place                                   | is                                                                        |
|-----------------------------------------|---------------------------------------------------------------------------|
| `$(headers.x-a)`, `$(headers["x-a"])`   | the request's field; repeats are joined by commas                         |
| `$(query_params.a)`                     | the first query parameter of that name, decoded                           |
| `$(uri_captures.id)`, `$(uri_captures[1])` | what a parameter of the route's path matched, by name or in order      |
| `$(consumer.username)`                  | of the consumer: `id`, `username`, `custom_id`, `groups` (with commas)    |
| `$(claims.sub)`, `$(claims.realm.name)` | of the verified token; what is no text as JSON                            |
| `$(request.method)`                     | `method`, `scheme`, `host`, `path`, `client_ip`, `id`                     |
| `$(response_headers.etag)`              | the answer's field, where there is an answer                              |

`$(… or "text")` gives a text for when there is nothing; without one, the whole value is none, and `fill` says None.
`$$(` is a plain `$(`. There are no expressions: a template is compiled when its setting is made, and cannot fail later.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from gateway.plugins import claims
from gateway.proxy import headers, query
from gateway.proxy.exchange import Exchange

REQUEST = ("headers", "query_params", "uri_captures", "consumer", "claims", "request")
ANSWER = (*REQUEST, "response_headers")

Reader = Callable[[Exchange], bytes | None]
PLACE = re.compile(
    r"""\$\(\s*(?P<source>[a-z_]+)
        (?:\.(?P<word>[A-Za-z0-9_.~-]+)|\[\s*(?:"(?P<quoted>[^"]+)"|'(?P<single>[^']+)'|(?P<number>[1-9][0-9]?))\s*\])
        \s*(?:\bor\s*(?:"(?P<text>[^"]*)"|'(?P<other>[^']*)')\s*)?\)""",
    re.VERBOSE,
)
_ESCAPED = "$$("


class Template:
    """`constant`: the value, if it has no places. Raises ValueError with a sentence for who wrote it."""

    __slots__ = ("_parts", "constant")

    def __init__(self, text: str, sources: tuple[str, ...] = ANSWER) -> None:
        self._parts: list[bytes | Reader] = []
        for index, piece in enumerate(text.split(_ESCAPED)):
            if index:
                self._parts.append(b"$(")
            self._parse(piece, sources)
        self.constant: bytes | None = None
        if not any(callable(part) for part in self._parts):
            self.constant = b"".join(part for part in self._parts if isinstance(part, bytes))

    def _parse(self, text: str, sources: tuple[str, ...]) -> None:
        end = 0
        for place in PLACE.finditer(text):
            self._literal(text[end : place.start()])
            self._parts.append(_reader(place, sources))
            end = place.end()
        self._literal(text[end:])

    def _literal(self, text: str) -> None:
        if "$(" in text:
            raise ValueError(
                f"'{text[text.index('$(') :][:60]}' is no template: write `$(headers.name)`, with a default "
                '`$(headers.name or "text")`, and a plain `$(` as `$$(`.'
            )
        if text:
            self._parts.append(text.encode())

    def fill(self, exchange: Exchange) -> bytes | None:
        if self.constant is not None:
            return self.constant
        filled = b""
        for part in self._parts:
            value = part if isinstance(part, bytes) else part(exchange)
            if value is None:
                return None
            filled += value
        return filled


def check(text: str, sources: tuple[str, ...]) -> str:
    """Raises ValueError."""
    Template(text, sources)
    return text


def around(text: str) -> str:
    """The text without its places."""
    return PLACE.sub("", text)


def _reader(place: re.Match[str], sources: tuple[str, ...]) -> Reader:
    source = place["source"]
    if source not in sources:
        raise ValueError(f"There is no '{source}' for '{place[0]}'. There are: {', '.join(sources)}.")
    name = place["word"] or place["quoted"] or place["single"] or place["number"]
    read = _SOURCES[source](name)
    default = place["other"] if place["text"] is None else place["text"]
    if default is None:
        return read
    instead = default.encode()

    def read_or_default(exchange: Exchange) -> bytes | None:
        value = read(exchange)
        return instead if value is None else value

    return read_or_default


def _header(name: str) -> Reader:
    key = name.lower().encode()
    return lambda exchange: _joined(exchange.headers, key)


def _answer_header(name: str) -> Reader:
    key = name.lower().encode()
    return lambda exchange: _joined(exchange.response_headers or [], key)


def _joined(pairs: headers.Pairs, name: bytes) -> bytes | None:
    values = headers.get_all(pairs, name)
    return b", ".join(values) if values else None


def _query(name: str) -> Reader:
    key = name.encode()

    def read(exchange: Exchange) -> bytes | None:
        wire = exchange.query if exchange.upstream_query is None else exchange.upstream_query
        values = query.get_all(wire, key)
        return values[0] if values else None

    return read


def _capture(name: str) -> Reader:
    if not name.isdecimal():
        return lambda exchange: _text(exchange.path_params.get(name))
    index = int(name) - 1

    def read(exchange: Exchange) -> bytes | None:
        captures = [*exchange.path_params.values()]
        return _text(captures[index]) if index < len(captures) else None

    return read


_CONSUMER: dict[str, Callable[[Any], str]] = {
    "id": lambda consumer: str(consumer.id or ""),
    "username": lambda consumer: consumer.username,
    "custom_id": lambda consumer: consumer.custom_id,
    "groups": lambda consumer: ",".join(sorted(consumer.groups)),
}


def _consumer(name: str) -> Reader:
    """An empty one is none: an upstream must not take it for somebody's."""
    get = _one_of(_CONSUMER, "consumer", name)
    return lambda exchange: None if exchange.consumer is None else _text(get(exchange.consumer) or None)


_REQUEST: dict[str, Callable[[Exchange], str]] = {
    name: (lambda exchange, name=name: getattr(exchange, name))  # type: ignore[misc]
    for name in ("method", "scheme", "host", "path", "client_ip", "id")
}


def _request(name: str) -> Reader:
    get = _one_of(_REQUEST, "request", name)
    return lambda exchange: _text(get(exchange))


def _one_of(known: dict[str, Any], source: str, name: str) -> Any:
    if name not in known:
        raise ValueError(f"There is no '{name}' in '{source}'. There are: {', '.join(known)}.")
    return known[name]


def _claim(path: str) -> Reader:
    def read(exchange: Exchange) -> bytes | None:
        value = claims.at(exchange.claims, path)
        if value is None or isinstance(value, str):
            return _text(value)
        return json.dumps(value, separators=(",", ":")).encode()

    return read


def _text(value: str | None) -> bytes | None:
    """A path's parameter may hold bytes that are no text, which Python keeps as lone surrogates."""
    if value is None:
        return None
    try:
        return value.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # other surrogates: a token's `\ud800`
        return None


_SOURCES: dict[str, Callable[[str], Reader]] = {
    "headers": _header,
    "query_params": _query,
    "uri_captures": _capture,
    "consumer": _consumer,
    "claims": _claim,
    "request": _request,
    "response_headers": _answer_header,
}
