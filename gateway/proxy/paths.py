"""Reading a path: what routes match on, and what other servers might read instead.

Routes match on a normalised reading (`normalise`): unreserved characters decoded, hex in upper case, `//` merged, dot
segments resolved, letter case kept. A path that another server could read differently is looked up under those
readings too (`other_readings`); if one of them belongs to another route, the request is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote, unquote_to_bytes

from gateway.proxy.errors import AmbiguousPath, BadPath

#: What makes a path worth a second look; everything else is its own normal form.
_NOT_PLAIN = re.compile(rb"[^A-Za-z0-9\-._~!$&'()*+,=:@/]|//|/\.|\A(?!/)")
#: The longest that is looked at twice; decoded how many times; read in how many ways; and all of these together.
MAX_ODD_BYTES = 4096
MAX_DECODED = 3
MAX_READINGS = 64
MAX_READ_BYTES = 48 * 1024
_ENDLESS = "There are too many ways to read this path. Send it with fewer escapes, parameters or dot segments."
_CONTROL = re.compile(rb"[\x00-\x20\x7f]")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})|%[01][0-9A-Fa-f]|%7[Ff]")
ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
#: Unreserved characters, which need no escape (RFC 3986 §2.3).
_NEEDLESS = re.compile(rb"%(2[DdEe]|3[0-9]|4[1-9A-Fa-f]|5[0-9AaFf]|6[1-9A-Fa-f]|7[0-9AaEe])")
_SLASHES = re.compile(rb"\\|%2[Ff]|%5[Cc]")
_PARAMETERS = re.compile(rb";[^/]*")
_MANY = re.compile(rb"//+")
_END = re.compile(rb"[?#]")
_OVERLONG = re.compile(rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80\x81][\x80-\xbf]|\xf0\x80[\x80\x81][\x80-\xbf]")
PATH_SAFE = "!$&'()*+,;=:@/%"  # besides the unreserved ones; RFC 3986 §3.3
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def is_plain(raw: bytes) -> bool:
    """True for a path that every server reads in the same way; then it is its own normal form."""
    return _NOT_PLAIN.search(raw) is None


def normalise(raw: bytes) -> str:
    """The reading that routes match on; ASCII. Raises BadPath."""
    if not raw.startswith(b"/"):
        raise BadPath()
    if is_plain(raw):
        return raw.decode("ascii")
    if _CONTROL.search(raw):
        raise BadPath()
    if len(raw) > MAX_ODD_BYTES:
        raise BadPath(f"A path with escapes, '//' or dot segments may be {MAX_ODD_BYTES} bytes long.")
    if _BAD_ESCAPE.search(raw):
        raise BadPath("The path holds an encoded control character, or a '%' without two hexadecimal digits behind it.")
    return _normal_form(quote(raw, safe=PATH_SAFE + "\\"))


def _normal_form(path: str) -> str:
    return _resolve(ESCAPE.sub(decode_unreserved, path))


def decode_unreserved(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if character in _UNRESERVED else escape[0].upper()


def _resolve(path: str) -> str:
    """Merge slashes and resolve dot segments (RFC 3986 §5.2.4); never climbs above the root."""
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            if kept:
                kept.pop()
        elif segment not in ("", "."):
            kept.append(segment)
    ends_open = segments[-1] in ("", ".", "..") and kept
    return "/" + "/".join(kept) + ("/" if ends_open else "")


def other_readings(raw: bytes) -> set[str]:
    """How others might read a path that is not plain, each in normal form. Raises AmbiguousPath if that has no end.

    Whoever stands behind us may decode never, once or several times; take `\\`, `%2F` and `%5C` for `/`; drop `;x`;
    merge slashes; resolve dots; end the path at an encoded `?` or `#`: each or none of it, and in any order. So this
    is the closure over all of these steps, from the path as it was written.
    """
    readings = {_written(raw)}
    waiting = [(raw, 0)]
    if _NEEDLESS.search(raw):
        waiting.append((_NEEDLESS.sub(_decode, raw), 0))
    seen = set(waiting)
    while waiting:
        for path, decoded in _steps(*waiting.pop()):
            if (path, decoded) not in seen:
                seen.add((path, decoded))
                waiting.append((path, decoded))
                readings.add(_requote(path) if decoded else _written(path))
        if len(seen) > MAX_READINGS or len(seen) * len(raw) > MAX_READ_BYTES:
            raise AmbiguousPath(_ENDLESS)
    return readings


def _steps(path: bytes, decoded: int) -> Iterator[tuple[bytes, int]]:
    """What one more step of a careless reader makes of a path that was `decoded` so many times."""
    if b"%" in path and (again := unquote_to_bytes(path)) != path:
        if decoded == MAX_DECODED:
            raise AmbiguousPath(_ENDLESS)
        yield again, decoded + 1
    if _OVERLONG.search(path):
        yield _OVERLONG.sub(_shorten, path), decoded
    if _SLASHES.search(path):
        yield _SLASHES.sub(b"/", path), decoded
    if b";" in path:
        yield _PARAMETERS.sub(b"", path), decoded
    if b"//" in path:
        yield _MANY.sub(b"/", path), decoded
    if b"/." in path:
        yield _resolve_as_written(path), decoded
    if decoded and (end := _END.search(path)):
        yield path[: end.start()], decoded


def _written(path: bytes) -> str:
    return ESCAPE.sub(decode_unreserved, quote(path, safe=PATH_SAFE + "\\"))


def _resolve_as_written(path: bytes) -> bytes:
    """As RFC 3986 §5.2.4 has it: an empty segment is one, and `..` takes it away."""
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if kept:
                kept.pop()
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)


def _shorten(overlong: re.Match[bytes]) -> bytes:
    """An ASCII character in more bytes than it needs, which no decoder should take (RFC 3629 §10); some did."""
    lead, last = overlong[0][-2], overlong[0][-1]
    return bytes([(lead & 0x3F) << 6 & 0x40 | last & 0x3F])


def _decode(escape: re.Match[bytes]) -> bytes:
    return bytes([int(escape[1], 16)])


def climbs(path: bytes) -> bool:
    """Whether a path has a `..` segment in any reading. One that a route or plugin wrote must not: what it stands below
    would be left again."""
    return any(".." in reading.split("/") for reading in other_readings(path))


def _requote(decoded: bytes) -> str:
    return quote(decoded, safe=PATH_SAFE.replace("%", "") + "\\")
