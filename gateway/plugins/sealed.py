"""What a client keeps for us and shall neither read nor change: JSON under AES-256-GCM, as text for a cookie.

box = Box(secret, "session of https://login.example")
text = box.seal({"sub": "anna"}, ends_s=wall() + 3600)
box.open(text, wall())  # {"sub": "anna"}; None: not ours, changed, for another purpose, or too old
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import json
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

_NONCE_BYTES = 12


class Box:
    """`purpose`: what is sealed for one opens for no other."""

    def __init__(self, secret: bytes, purpose: str) -> None:
        key = hmac.digest(secret, b"hydragate sealed 1 " + purpose.encode(), hashlib.sha256)
        library = importlib.import_module("cryptography.hazmat.primitives.ciphers.aead")
        self._cipher: Any = library.AESGCM(key)
        self._broken: type[Exception] = importlib.import_module("cryptography.exceptions").InvalidTag

    def seal(self, value: dict[str, Any], ends_s: float) -> str:
        """`ends_s`: seconds since the epoch."""
        nonce = os.urandom(_NONCE_BYTES)
        text = json.dumps([int(ends_s), value], separators=(",", ":")).encode()
        sealed: bytes = self._cipher.encrypt(nonce, text, None)
        return urlsafe_b64encode(nonce + sealed).rstrip(b"=").decode()

    def open(self, text: bytes, now_s: float) -> dict[str, Any] | None:
        try:
            sealed = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
            ends_s, value = json.loads(self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None))
        except (ValueError, self._broken):
            return None
        found: dict[str, Any] = value
        return found if now_s < ends_s else None
