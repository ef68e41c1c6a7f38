"""Tokens for tests, right and wrong: every part can be whatever an attacker would make of it."""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SECRET = "a-secret-of-thirty-two-bytes-or-more"
NOW_S = 1_790_000_040
EXP = NOW_S + 300
CLAIMS: dict[str, Any] = {"sub": "anna", "exp": EXP}


def b64(part: bytes) -> bytes:
    return urlsafe_b64encode(part).rstrip(b"=")


def encoded(part: Any) -> bytes:
    """As JSON and base64url; bytes are taken for JSON as they are."""
    return b64(part if isinstance(part, bytes) else json.dumps(part).encode())


def hs256(signed: bytes, secret: str | bytes = SECRET) -> bytes:
    return hmac.digest(secret.encode() if isinstance(secret, str) else secret, signed, "sha256")


def token(claims: Any = None, header: Any = None, sign: Callable[[bytes], bytes] = hs256, **more: Any) -> bytes:
    """`more` goes into the header. Signed by `sign`, whatever the header says."""
    header = header if header is not None else {"alg": "HS256", "typ": "JWT", **more}
    signed = encoded(header) + b"." + encoded(CLAIMS if claims is None else claims)
    return signed + b"." + b64(sign(signed))


@cache
def private_key(kind: str) -> Any:
    match kind[:2]:
        case "RS" | "PS":
            return rsa.generate_private_key(65537, 2048)
        case "ES":
            return ec.generate_private_key({"256": ec.SECP256R1, "384": ec.SECP384R1, "512": ec.SECP521R1}[kind[2:]]())
    return ed25519.Ed25519PrivateKey.generate()


def pem(kind: str) -> str:
    public = private_key(kind).public_key()
    return str(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def signed_by(kind: str, claims: dict[str, Any] | None = None, **header: Any) -> bytes:
    """By PyJWT, so that what others make is read here."""
    key = SECRET * 3 if kind.startswith("HS") else private_key(kind)
    return jwt.encode(claims or CLAIMS, key, algorithm=kind, headers=header).encode()
