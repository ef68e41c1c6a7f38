"""Header fields as lists of (name, value) pairs of bytes, names in lower case: order and repeats count."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

Pair = tuple[bytes, bytes]
Pairs = list[Pair]


class Lasting(Pairs):
    """Fields that are sent again and again: of an upstream's head, of an answer that is kept, of a client's requests.
    Nobody changes them any more, so who reads them may keep here what they say: `passed`, what a client gets of an
    upstream's; `written`, what a client's connection gets; `lines`, what an upstream's gets."""

    __slots__ = ("lines", "passed", "without", "written")

    def __init__(self, pairs: Iterable[Pair]) -> None:
        super().__init__(pairs)
        self.passed: Lasting | None = None
        self.written: Written | None = None
        self.lines: bytes | None = None
        self.without: dict[frozenset[bytes], Lasting] = {}

    def grow(self) -> Grown:
        """A copy that may be changed."""
        grown = Grown(self)
        grown.base = self
        return grown


class Grown(Pairs):
    """By `Lasting.grow`. As a rule other fields are put behind those of `base`, and that is all."""

    __slots__ = ("base",)
    base: Lasting

    def more(self) -> Pairs | None:
        """What was put behind them; None if they themselves were changed."""
        base = self.base
        count = len(base)
        return self[count:] if self[:count] == base else None


class Written(NamedTuple):
    """Fields as lines, without those that the server has a word of its own on; and what these say."""

    lines: bytes
    date: bytes  # the line, if there is one
    length: int | None  # Content-Length
    closes: bool


class Given(Pairs):
    """Fields that a client has sent, and may send again over the same connection. Nobody changes them, so who has read
    them may keep in `read` what they say: end-to-end fields, authority, host. `bodiless`: no body comes with them."""

    __slots__ = ("bodiless", "read")

    def __init__(self, pairs: Iterable[Pair] = ()) -> None:
        super().__init__(pairs)
        self.bodiless = False
        self.read: tuple[Lasting, bytes, str] | None = None


#: RFC 9110 §7.6.1 and RFC 9112: meaningful for one connection only, never forwarded.
HOP_BY_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization",
    b"te", b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings",
})  # fmt: skip

#: Say what the bytes of a body are: wrong of any other body.
DIGESTS = frozenset({b"content-digest", b"repr-digest", b"digest", b"content-md5"})


def get(pairs: Iterable[Pair], name: bytes) -> bytes | None:
    """The first value, or None."""
    for key, value in pairs:
        if key == name:
            return value
    return None


def get_all(pairs: Iterable[Pair], name: bytes) -> list[bytes]:
    return [value for key, value in pairs if key == name]


def remove(pairs: Pairs, name: bytes) -> None:
    pairs[:] = [pair for pair in pairs if pair[0] != name]


@lru_cache(maxsize=4096)
def canonical(name: bytes) -> bytes:
    """As an upstream may read it: `x_user` and `x.user` for `x-user`."""
    return name.replace(b"_", b"-").replace(b".", b"-")


def remove_owned(pairs: Pairs, owned: frozenset[bytes]) -> None:
    """All that an upstream may take for one of these, which are canonical."""
    if owned:
        pairs[:] = [pair for pair in pairs if canonical(pair[0]) not in owned]


def without(pairs: Pairs, names: frozenset[bytes]) -> Pairs:
    """The same without all of these names, in a list of its own. For names that are left out again and again."""
    more = pairs.more() if type(pairs) is Grown else None
    if more is None:
        return [pair for pair in pairs if pair[0] not in names]
    base: Lasting = pairs.base  # type: ignore[attr-defined]
    rest = base.without.get(names)
    if rest is None:
        rest = base.without[names] = Lasting([pair for pair in base if pair[0] not in names])
    grown = rest.grow()
    grown += [pair for pair in more if pair[0] not in names]
    return grown


def put(pairs: Pairs, name: bytes, value: bytes) -> None:
    """Set a field to exactly one value, at the end of the list."""
    remove(pairs, name)
    pairs.append((name, value))


def append_token(pairs: Pairs, name: bytes, token: bytes) -> None:
    """Add one member to a comma-separated list field (`Vary`, `Via`), joining repeats into one line (RFC 9110 §5.3)."""
    for pair in pairs:
        if pair[0] == name:
            put(pairs, name, b", ".join([*get_all(pairs, name), token]))
            return
    pairs.append((name, token))


def vary(pairs: Pairs, name: bytes) -> None:
    """Say that the answer depends on this field of the request: once, and not beside `*` (RFC 9110 §12.5.5)."""
    listed = {token.strip().lower() for value in get_all(pairs, b"vary") for token in value.split(b",")}
    if name.lower() not in listed and b"*" not in listed:
        append_token(pairs, b"vary", name)


def weak(etag: bytes) -> bytes:
    """For bytes that are no longer those it was made for (RFC 9110 §8.8.1)."""
    return etag if etag.startswith(b"W/") else b"W/" + etag


def is_preflight(method: str, pairs: Iterable[Pair]) -> bool:
    """A browser asks by itself whether a page may send what it wants to (CORS)."""
    return method == "OPTIONS" and get(pairs, b"access-control-request-method") is not None


def connection_options(pairs: Iterable[Pair]) -> frozenset[bytes]:
    """The lower-cased field names a `Connection` header lists."""
    options: set[bytes] = set()
    for key, value in pairs:
        if key == b"connection":
            options.update(option.strip().lower() for option in value.split(b","))
    return frozenset(options)


def end_to_end(pairs: Pairs) -> Pairs:
    """The pairs without hop-by-hop fields and without fields that `Connection` names (RFC 9110 §7.6.1)."""
    kept: Pairs = []
    named = False
    for pair in pairs:
        if pair[0] not in HOP_BY_HOP:
            kept.append(pair)
        elif pair[0] == b"connection" and pair[1] not in _USUAL:
            named = True
    if named:
        options = connection_options(pairs)
        return [pair for pair in kept if pair[0] not in options]
    return kept


#: What `Connection` says in nearly every answer, which names no field that is not hop-by-hop anyway.
_USUAL = frozenset({b"keep-alive", b"close", b"Keep-Alive", b"Close", b"upgrade", b"Upgrade"})


def cookie(pairs: Iterable[Pair], name: bytes) -> bytes | None:
    """The value of the first cookie of that name; None if there is none (RFC 6265 §5.4)."""
    for key, value in pairs:
        if key == b"cookie" and name in value:
            for part in value.split(b";"):
                found, equals, text = part.partition(b"=")
                if equals and found.strip(b" \t") == name:
                    return text.strip(b' \t"')
    return None
