"""What the claims of a verified token say, and whether they count here (RFC 7519 §4.1). Pure: the time is an argument.

A claim of the wrong type is never taken for one that is not there: a text as `exp`, dates beyond the year 9999 (which
are milliseconds), a number as `iss` or `sub`, a group with a comma in it. All raise BadToken.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from gateway.plugins.tokens import BadToken, ExpiredToken

MAX_DATE_S = 253_402_300_799  # 9999-12-31T23:59:59Z
MAX_GROUPS, MAX_IDENTITY = 200, 256
_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Rules:
    """What claims must say. `issuers` empty: any. `audiences` empty: the token may name none (RFC 7519 §4.1.3)."""

    issuers: frozenset[str] = frozenset()
    audiences: frozenset[str] = frozenset()
    required: Collection[str] = ("exp",)
    leeway_s: float = 0.0


def check(claims: dict[str, Any], rules: Rules, now_s: float) -> float | None:
    """When the token ends, in seconds since the epoch with the leeway counted in; None: never. Raises BadToken."""
    if missing := [name for name in rules.required if at(claims, name) is None]:
        raise BadToken(f"The token lacks the claim {_plain(missing[0])}.")
    exp, nbf, iat = (_date(claims, name) for name in ("exp", "nbf", "iat"))
    for name in ("sub", "jti"):
        if name in claims and not isinstance(claims[name], str):
            raise BadToken(f"The claim {name} is no text.")
    _check_issuer(claims, rules.issuers)
    _check_audience(claims, rules.audiences)
    if nbf is not None and nbf > now_s + rules.leeway_s:
        raise BadToken("The token is not valid yet.")
    if iat is not None and iat > now_s + rules.leeway_s:
        raise BadToken("The token says it is from the future.")
    if exp is None:
        return None
    if now_s >= exp + rules.leeway_s:
        raise ExpiredToken("The token has expired.")
    return exp + rules.leeway_s


def at(claims: dict[str, Any], path: str) -> Any:
    """The claim of that very name; else the dots lead into objects (`realm_access.roles`). None: there is none."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    return found


def _check_issuer(claims: dict[str, Any], issuers: frozenset[str]) -> None:
    issuer = claims.get("iss")
    if "iss" in claims and not isinstance(issuer, str):
        raise BadToken("The claim iss is no text.")
    if issuers and issuer not in issuers:
        raise BadToken("The token is from another issuer.")


def _check_audience(claims: dict[str, Any], audiences: frozenset[str]) -> None:
    said = claims.get("aud", [])
    named = [said] if isinstance(said, str) else said
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise BadToken("The claim aud is neither text nor a list of texts.")
    if (audiences or named) and audiences.isdisjoint(named):
        raise BadToken("The token is for another audience.")


def _date(claims: dict[str, Any], name: str) -> float | None:
    """NumericDate (RFC 7519 §2): seconds, perhaps with a fraction. A null or a text is not the same as no date."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_DATE_S:
        raise BadToken(f"The claim {name} is no date in seconds.")
    return float(value)


def subject(issuer: str, identity: str) -> int:
    """Stands for who the token is about where a key's id would: two issuers' `7` are two callers."""
    digest = hashlib.blake2b(json.dumps([issuer, identity]).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def identity(claim: Any) -> str:
    """Raises BadToken for what is there, but can be nobody's name. "": the token does not say."""
    if claim is None:
        return ""
    name = str(claim) if isinstance(claim, int) and not isinstance(claim, bool) else claim
    if not isinstance(name, str) or not 0 < len(name) <= MAX_IDENTITY or name != name.strip():
        raise BadToken("The token does not name its owner properly.")
    field_value(name)
    return name


def groups(claim: Any) -> frozenset[str]:
    """Raises BadToken rather than to leave one out: it might be one that acl denies."""
    named = claim.split() if isinstance(claim, str) else [] if claim is None else claim
    if not isinstance(named, list) or len(named) > MAX_GROUPS or not all(isinstance(name, str) for name in named):
        raise BadToken("The groups of the token are no list of texts, or too many.")
    for name in named:
        if not 0 < len(name) <= 128 or "," in name or name != name.strip():
            raise BadToken("A group of the token is empty, too long, or has a comma.")
        field_value(name)
    return frozenset(named)


def scopes(claims: dict[str, Any]) -> frozenset[str]:
    """What the token allows: words in `scope` (RFC 8693 §4.2), or a list in `scp`. What is neither allows nothing."""
    found: set[str] = set()
    for name in ("scope", "scp"):
        said = claims.get(name, "")
        words = said.split() if isinstance(said, str) else said if isinstance(said, list) else ()
        found.update(word for word in words if isinstance(word, str))
    return frozenset(found)


def field_value(value: Any) -> bytes:
    """Raises BadToken for what cannot stand in a header field."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    if _UNFIT.search(text):
        raise BadToken("A claim that goes into a header field has control characters.")
    return text.encode()


def _plain(name: str) -> str:
    """A name from our own config, fit for a quoted string in a header field."""
    return re.sub(r"[^!#-\[\]-~]", "?", name)
