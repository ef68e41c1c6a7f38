"""A signed token as it stands on the wire (RFC 7515 §3.1), read as strictly as it was meant. Knows no key.

Refused is whatever two readers could understand differently, or asks for something we do not do:

| part      | refused                                                                                             |
|-----------|-----------------------------------------------------------------------------------------------------|
| the whole | more than 8 KB; other than three parts; padding, other alphabets, spare bits that are not zero      |
| JSON      | a name that stands twice; NaN and Infinity; no object; not UTF-8; nesting that nobody can follow    |
| header    | `crit`, `b64`; `jwk`, `jku`, `x5u`, `x5c` (a key or its place, as the sender wishes); `alg`, `kid`  |
|           | or `typ` that are no text                                                                           |
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

MAX_TOKEN_BYTES = 8192
MAX_KID = 256
_BASE64URL = re.compile(rb"[A-Za-z0-9_-]*")
_NOT_OURS = ("crit", "b64", "jwk", "jku", "x5u", "x5c")


class BadToken(Exception):
    """Why a token does not count: a sentence for whoever sent it, plain ASCII without quotes (RFC 6750 §3)."""


class ExpiredToken(BadToken):
    """Sound, but past its end."""


@dataclass(frozen=True, slots=True)
class Token:
    """Not verified. `payload` is decoded, but is read (`claims`) only once the signature has been checked."""

    algorithm: str
    kid: str | None
    typ: str | None
    payload: bytes
    signed: bytes
    signature: bytes


def read(text: bytes) -> Token:
    """Raises BadToken."""
    if len(text) > MAX_TOKEN_BYTES:
        raise BadToken("The token is longer than 8192 bytes.")
    parts = text.split(b".")
    if len(parts) != 3:
        raise BadToken("This is no signed token: it has not three parts.")
    header = _object(_decoded(parts[0], "header"), "header")
    for name in _NOT_OURS:
        if name in header:
            raise BadToken(f"The header parameter {name} is not accepted here.")
    algorithm, kid, typ = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(algorithm, str):
        raise BadToken("The header names no algorithm.")
    if "kid" in header and not (isinstance(kid, str) and len(kid) <= MAX_KID):
        raise BadToken("The kid of the header is no text, or too long.")
    if "typ" in header and not isinstance(typ, str):
        raise BadToken("The typ of the header is no text.")
    payload, signature = _decoded(parts[1], "payload"), _decoded(parts[2], "signature")
    return Token(algorithm, kid, typ, payload, text[: text.rindex(b".")], signature)


def is_type(typ: str | None, allowed: Iterable[str]) -> bool:
    """Whatever the case, with or without `application/` (RFC 7515 §4.1.9). No type is any type."""
    return typ is None or typ.lower().removeprefix("application/") in {name.lower() for name in allowed}


def claims(token: Token) -> dict[str, Any]:
    """Of a token whose signature is right. Raises BadToken."""
    return _object(token.payload, "payload")


def _decoded(part: bytes, name: str) -> bytes:
    """The one spelling of some bytes in base64url: no padding, and no bits that mean nothing but are set."""
    if _BASE64URL.fullmatch(part) and len(part) % 4 != 1:
        decoded = urlsafe_b64decode(part + b"=" * (-len(part) % 4))
        if urlsafe_b64encode(decoded).rstrip(b"=") == part:
            return decoded
    raise BadToken(f"The {name} is no clean base64url.")


def _object(text: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise BadToken(f"The {name} is no clean JSON.") from error
    if not isinstance(value, dict):
        raise BadToken(f"The {name} is no JSON object.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")
