"""The text of a key: `hg_live_` + 32 base62 characters + 6 of checksum. A token of the admin API begins with `hgt_`.

The first 5 of the 32 are shown as the prefix; the other 27 hold 160 bits that nobody but the owner knows. With that
much randomness a plain SHA-256 is a safe thing to store: there is nothing to guess. The CRC finds typing mistakes and
lets secret scanners recognise a key offline; it proves nothing.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib
from dataclasses import dataclass, field

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
RANDOM_CHARS, SHOWN_CHARS, CHECKSUM_CHARS = 32, 5, 6
TOKEN_HEAD = "hgt_"  # noqa: S105 (the head only)
SHAPE = re.compile(
    rf"((?:hg_[a-z]{{1,10}}_|{TOKEN_HEAD})[0-9A-Za-z]{{{RANDOM_CHARS}}})([0-9A-Za-z]{{{CHECKSUM_CHARS}}})"
)


@dataclass(frozen=True, slots=True)
class Secret:
    """`text` is for its owner, once. It stays out of the repr, so out of tracebacks and logs."""

    text: str = field(repr=False)
    prefix: str
    digest: bytes = field(repr=False)


def generate(environment: str = "live") -> Secret:
    """The secret of an API key."""
    if not re.fullmatch(r"[a-z]{1,10}", environment):
        raise ValueError("An environment is 1 to 10 letters a-z.")
    return _generate(f"hg_{environment}_")


def generate_token() -> Secret:
    """The secret of a token of the admin API."""
    return _generate(TOKEN_HEAD)


def _generate(head: str) -> Secret:
    body = head + "".join(secrets.choice(ALPHABET) for _ in range(RANDOM_CHARS))
    text = body + _checksum(body)
    return Secret(text, prefix=body[: len(head) + SHOWN_CHARS], digest=digest(text))


def checksum_ok(text: str) -> bool:
    """True for a key or token of our making without a typo in it, whether or not it was ever issued."""
    match = SHAPE.fullmatch(text)
    return match is not None and _checksum(match[1]) == match[2]


def digest(text: str) -> bytes:
    """What is stored and looked up: SHA-256 of the whole key, 32 bytes."""
    return hashlib.sha256(text.encode()).digest()


def _checksum(body: str) -> str:
    number, chars = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM_CHARS):  # 62**6 > 2**32: nothing is cut off
        number, index = divmod(number, len(ALPHABET))
        chars = ALPHABET[index] + chars
    return chars
