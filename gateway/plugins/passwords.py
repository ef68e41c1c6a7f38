"""Passwords: scrypt in a thread once, then remembered for some minutes, so that a repeated request costs microseconds.

What is stored reads `scrypt$<n>$<r>$<p>$<salt>$<hash>`, both in base64. Verified pairs are remembered as a digest under
a key of this process, never as text; a changed password has another stored text and so another digest.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import unicodedata
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from time import monotonic

from gateway.proxy.errors import CredentialsUnavailable

COST, BLOCK, PARALLEL = 2**14, 8, 1  # 16 MB and some 40 ms (RFC 7914 §2)
SALT_BYTES, HASH_BYTES = 16, 32
MAX_BYTES = 1024  # of a password
REMEMBERED_S = 300.0
MAX_REMEMBERED = 10_000
MAX_AT_ONCE = 2  # threads of a worker, and 16 MB each
MAX_WAITING = 64  # more would wait for longer than a client does


def normal(text: str) -> str:
    """The one spelling of letters that can be written in two ways (RFC 8265 §4.2.1)."""
    return unicodedata.normalize("NFC", text)


def has_controls(text: str) -> bool:
    """Neither usernames nor passwords have them (RFC 7617 §2)."""
    return any(unicodedata.category(sign) == "Cc" for sign in text)


def hashed(password: str) -> str:
    """What to store. Takes 40 ms: above the Django line, or in a thread."""
    salt = os.urandom(SALT_BYTES)
    return _text(salt, _scrypt(normal(password).encode(), salt, COST, BLOCK, PARALLEL))


def fits(stored: str, password: bytes) -> bool:
    """Takes 40 ms."""
    _, cost, block, parallel, salt, right = stored.split("$")
    made = _scrypt(password, b64decode(salt), int(cost), int(block), int(parallel))
    return hmac.compare_digest(made, b64decode(right))


def _scrypt(password: bytes, salt: bytes, cost: int, block: int, parallel: int) -> bytes:
    room = 256 * cost * block  # twice what it takes
    return hashlib.scrypt(password, salt=salt, n=cost, r=block, p=parallel, maxmem=room, dklen=HASH_BYTES)


def _text(salt: bytes, made: bytes) -> str:
    return f"scrypt${COST}${BLOCK}${PARALLEL}${b64encode(salt).decode()}${b64encode(made).decode()}"


#: Stands for the password of a user who does not exist: nothing fits it, and finding that out takes as long.
NOBODY = _text(bytes(SALT_BYTES), bytes(HASH_BYTES))


class Passwords:
    """One per worker; outlives a reload of the configuration."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._key = os.urandom(32)
        self._verified: OrderedDict[bytes, float] = OrderedDict()  # until when
        self._pending: dict[bytes, asyncio.Task[bool]] = {}
        self._turns = asyncio.Semaphore(MAX_AT_ONCE)

    def check(self, stored: str, password: bytes) -> bool | Awaitable[bool]:
        """Directly if this worker has verified the same of late.

        The same question asked at once by many is answered once. Raises CredentialsUnavailable when too many wait.
        """
        digest = hashlib.blake2b(stored.encode() + b"\0" + password, key=self._key, digest_size=32).digest()
        until_s = self._verified.get(digest)
        if until_s is not None and self._clock() < until_s:
            return True
        return self._checked(digest, stored, password)

    async def _checked(self, digest: bytes, stored: str, password: bytes) -> bool:
        task = self._pending.get(digest)
        if task is None:
            if len(self._pending) >= MAX_WAITING:
                raise CredentialsUnavailable("Too many passwords wait to be checked.")
            task = self._pending[digest] = asyncio.create_task(self._computed(digest, stored, password))
            task.add_done_callback(lambda _: self._pending.pop(digest, None))
        return await asyncio.shield(task)

    async def _computed(self, digest: bytes, stored: str, password: bytes) -> bool:
        async with self._turns:
            right = await asyncio.to_thread(fits, stored, password)
        if right:
            self._verified[digest] = self._clock() + REMEMBERED_S
            self._verified.move_to_end(digest)
            if len(self._verified) > MAX_REMEMBERED:
                self._verified.popitem(last=False)
        return right
