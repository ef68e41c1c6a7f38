"""Checks of a token's signature, each bound to one key and one algorithm: a token chooses neither.

HMAC is the standard library's: 2 µs. RSA, ECDSA and EdDSA are PyJWT's, imported with the first such key, for with the
library behind it that is 10 MB in each worker: 30 to 100 µs, so that a thread would cost more than it frees.
"""

from __future__ import annotations

import binascii
import hmac
import importlib
import re
from base64 import b64decode
from collections.abc import Callable
from typing import Any, Literal

Algorithm = Literal[
    "HS256", "HS384", "HS512",
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "EdDSA",
]  # fmt: skip
PublicAlgorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
]  # fmt: skip
Check = Callable[[bytes, bytes], bool]  # (what was signed, signature)

MIN_SECRET_BYTES = 8
_DIGESTS = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}
_PEM = re.compile(r"\s*-----BEGIN (RSA )?PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END (RSA )?PUBLIC KEY-----\s*")


def is_symmetric(algorithm: str) -> bool:
    return algorithm in _DIGESTS


def secret_check(algorithm: str, secret: bytes) -> Check:
    """Raises ValueError with a sentence for the operator."""
    if len(secret) < MIN_SECRET_BYTES:
        raise ValueError(f"A secret has at least {MIN_SECRET_BYTES} bytes; 32 random ones are right.")
    if b"-----BEGIN" in secret or secret.startswith((b"ssh-", b"ecdsa-")):
        raise ValueError("This is a key of a pair, no secret. Put a public one in public_key, with its algorithm.")
    digest = _DIGESTS[algorithm]

    def check(signed: bytes, signature: bytes) -> bool:
        return hmac.compare_digest(hmac.digest(secret, signed, digest), signature)

    return check


def public_check(algorithm: str, pem: str) -> Check:
    """Raises ValueError with a sentence for the operator."""
    match = _PEM.fullmatch(pem)
    if match is None:
        raise ValueError("This is no public key in PEM: `-----BEGIN PUBLIC KEY-----`, base64, and an end like it.")
    kind = f"{match[1] or ''}PUBLIC KEY"
    body = "".join(match[2].split())  # a field of one line in a form loses line breaks
    lines = "\n".join(body[start : start + 64] for start in range(0, len(body), 64))
    return key_check(algorithm, f"-----BEGIN {kind}-----\n{lines}\n-----END {kind}-----\n")


def key_check(algorithm: str, key: Any) -> Check:
    """`key`: PEM, or a public key object. Raises ValueError unless it is a sound key for this very algorithm."""
    library = importlib.import_module("jwt.algorithms")
    broken = importlib.import_module("jwt.exceptions").PyJWTError
    verifier = library.get_default_algorithms()[algorithm]
    try:
        prepared = verifier.prepare_key(key)
        weak = verifier.check_key_length(prepared)
    except (broken, ValueError, TypeError) as error:
        raise ValueError(f"This is no public key for {algorithm}.") from error
    if weak:
        raise ValueError("An RSA key has at least 2048 bits.")
    verify: Callable[[bytes, Any, bytes], bool] = verifier.verify

    def check(signed: bytes, signature: bytes) -> bool:
        try:
            return verify(signed, prepared, signature)
        except ValueError:  # a signature of a shape that cannot be
            return False

    return check


def jwk_check(algorithm: str, jwk: dict[str, Any]) -> Check:
    """Of the public half only (RFC 7517 §4). Raises ValueError for a key of another kind, or for another algorithm."""
    if jwk.get("alg", algorithm) != algorithm:
        raise ValueError("This key is for another algorithm.")
    kind = {"R": "RSA", "P": "RSA", "E": "EC"}[algorithm[0]] if algorithm != "EdDSA" else "OKP"
    if jwk.get("kty") != kind:
        raise ValueError("This key is of another kind.")
    public = {name: jwk[name] for name in ("kty", "n", "e", "crv", "x", "y") if isinstance(jwk.get(name), str)}
    library = importlib.import_module("jwt.algorithms")
    broken = importlib.import_module("jwt.exceptions").PyJWTError
    try:
        key = library.get_default_algorithms()[algorithm].from_jwk(public)
    except (broken, ValueError, TypeError, KeyError) as error:
        raise ValueError("This key is broken.") from error
    return key_check(algorithm, key)


def secret_bytes(text: str, is_base64: bool) -> bytes:
    """Base64 or base64url, padded or not. Raises ValueError."""
    if not is_base64:
        return text.encode()
    plain = text.strip().rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError("With secret_is_base64 the secret is written in base64 or base64url.") from error
