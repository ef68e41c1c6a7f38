"""Reading a path: what routes match on, and what other servers might read instead.

Routes match on a normalised reading (`normalise`): unreserved characters decoded, hex in upper case, `//` merged, dot
segments resolved, letter case kept. A path that another server could read differently is looked up under those
readings too (`other_readings`); if one of them belongs to another route, the request is refused.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

from gateway.proxy.errors import BadPath

#: What makes a path worth a second look; everything else is its own normal form.
_NOT_PLAIN = re.compile(rb"[^A-Za-z0-9\-._~!$&'()*+,=:@/]|//|/\.|\A(?!/)")
#: The longest that is looked at twice: reading it in every way costs some 0.3 ms per kB.
MAX_ODD_BYTES = 4096
_CONTROL = re.compile(rb"[\x00-\x20\x7f]")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})|%00")
ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
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
        raise BadPath("The path holds a '%' that is not followed by two hexadecimal digits, or an encoded NUL.")
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
    """How others might read a path that is not plain: dots unresolved, decoded once or twice, `\\` as `/`, no `;x`."""
    written = ESCAPE.sub(decode_unreserved, quote(raw, safe=PATH_SAFE + "\\"))
    decoded = _requote(unquote_to_bytes(raw))
    twice = _requote(unquote_to_bytes(unquote_to_bytes(raw)))
    readings: set[str] = set()
    for text in (written, decoded, twice):
        for slashed in (text, re.sub(r"\\|%5C", "/", text)):
            for bare in (slashed, re.sub(r";[^/]*", "", slashed)):
                readings.add(bare)
                readings.add(_resolve(bare))
    return readings


def climbs(path: bytes) -> bool:
    """Whether a path has a `..` segment in any reading. One that a route or plugin wrote must not: what it stands below
    would be left again."""
    return any(".." in reading.split("/") for reading in other_readings(path))


def _requote(decoded: bytes) -> str:
    return quote(decoded, safe=PATH_SAFE.replace("%", "") + "\\")
