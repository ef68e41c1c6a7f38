"""Query strings as bytes on the wire, edited part by part: what is not touched stays as the client wrote it.

Names are compared decoded, as an upstream reads them (`api%6Bey` is `apikey`, `+` is a space). The functions mirror
those of `headers`.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import quote_from_bytes, unquote_to_bytes


def _decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" ")) if b"%" in text or b"+" in text else text


def _name(part: bytes) -> bytes:
    return _decoded(part.partition(b"=")[0])


def _parts(query: bytes) -> list[bytes]:
    return query.split(b"&") if query else []


def encoded(text: bytes) -> bytes:
    return quote_from_bytes(text, safe="").encode()


def get_all(query: bytes, name: bytes) -> list[bytes]:
    """The decoded values."""
    return [_decoded(part.partition(b"=")[2]) for part in _parts(query) if _name(part) == name]


def has(query: bytes, name: bytes) -> bool:
    return any(_name(part) == name for part in _parts(query))


def without(query: bytes, names: Collection[bytes]) -> bytes:
    return b"&".join([part for part in _parts(query) if _name(part) not in names])


def append(query: bytes, name: bytes, value: bytes) -> bytes:
    pair = encoded(name) + b"=" + encoded(value)
    return query + b"&" + pair if query else pair


def put(query: bytes, name: bytes, value: bytes) -> bytes:
    """Set a parameter to exactly one value, at the end."""
    return append(without(query, (name,)), name, value)


def rename(query: bytes, old: bytes, new: bytes) -> bytes:
    """All of `old` keep their place and their value's bytes; what was called `new` goes. Without `old`, no change."""
    if not has(query, old):
        return query
    kept = [part for part in _parts(query) if _name(part) != new or old == new]
    return b"&".join([_renamed(part, new) if _name(part) == old else part for part in kept])


def _renamed(part: bytes, new: bytes) -> bytes:
    _, equals, value = part.partition(b"=")
    return encoded(new) + equals + value
