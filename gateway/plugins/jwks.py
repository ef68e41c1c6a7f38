"""The public keys an issuer shows at a URL (RFC 7517 §5). Fetched when a token needs them, not before a request comes.

| what happens                          | what follows                                                                |
|---------------------------------------|-----------------------------------------------------------------------------|
| the first token                       | waits for the keys, as all others meanwhile                                 |
| keys are older than REFRESH_S         | they go on counting while they are fetched in the background                |
| a token names a key that is not there | one fetch for all of them, at most every RETRY_S; between, it is not there  |
| the fetch fails, or brings no key     | what is there goes on counting, what is not is KeysUnavailable; tried again |
|                                       | after RETRY_S                                                               |

A set is shared by all settings of the same URL and algorithms, and outlives a new configuration.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from weakref import WeakValueDictionary

import httpx

from gateway.plugins import signatures
from gateway.plugins.signatures import Check
from gateway.proxy.errors import CredentialsUnavailable

REFRESH_S, RETRY_S = 300.0, 10.0
FETCH_TIMEOUT_S = 5.0
MAX_BYTES, MAX_KEYS = 256 * 1024, 100
MAX_NAMELESS = 4  # keys tried for a token that names none: each costs up to half a millisecond

Fetch = Callable[[str], Awaitable[bytes]]
Keys = Mapping[tuple[str, str], tuple[Check, ...]]  # by kid and algorithm
logger = logging.getLogger(__name__)


class KeysUnavailable(CredentialsUnavailable):
    """Never a 401: that the issuer does not answer is not the client's fault."""

    detail = "The gateway has no keys of the token's issuer at the moment. Try again shortly."


async def fetch(url: str) -> bytes:
    """Raises httpx.HTTPError, TimeoutError, or ValueError for an answer that is none. Follows no redirects."""
    async with asyncio.timeout(FETCH_TIMEOUT_S):
        client = await asyncio.to_thread(httpx.AsyncClient, timeout=FETCH_TIMEOUT_S)  # reads certificates: 20 ms
        async with client, client.stream("GET", url, headers={"Accept": "application/json"}) as answer:
            if answer.status_code != 200:
                raise ValueError(f"status {answer.status_code}")
            body = b""
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ValueError("more than 256 KB")
            return body


class KeySet:
    """`clock` is monotonic. `changes` counts the sets that differed: what an older set said is to be asked anew."""

    def __init__(self, url: str, algorithms: tuple[str, ...], clock: Callable[[], float], fetch: Fetch = fetch) -> None:
        self.changes = 0
        self._url, self._algorithms, self._clock, self._fetch = url, algorithms, clock, fetch
        self._keys: Keys = {}
        self._body: bytes | None = None
        self._failed = False
        self._read_s = self._tried_s = float("-inf")
        self._task: asyncio.Task[None] | None = None

    async def find(self, kid: str | None, algorithm: str) -> tuple[Check, ...]:
        """What fits; of a token without a `kid`, all of the algorithm if they are few. Raises KeysUnavailable."""
        self.keep_fresh()
        found = self._fitting(kid, algorithm)
        if not found and self._task is None and self._clock() - self._tried_s >= RETRY_S:
            self._begin()
        if not found and self._task is not None:
            await asyncio.shield(self._task)  # whoever leaves does not end it for the others
            found = self._fitting(kid, algorithm)
        if not found and self._failed:
            raise KeysUnavailable()
        return found

    def keep_fresh(self) -> None:
        """Call for each request, also one that needs no key: a key that is withdrawn must end what it signed."""
        now_s = self._clock()
        if self._task is None and now_s - self._read_s >= REFRESH_S and now_s - self._tried_s >= RETRY_S:
            self._begin()

    def _begin(self) -> None:
        self._tried_s = self._clock()
        self._task = asyncio.create_task(self._renew(), name=f"keys of {self._url}")

    def _fitting(self, kid: str | None, algorithm: str) -> tuple[Check, ...]:
        if kid:
            return self._keys.get((kid, algorithm), ())
        every = [check for (_, of), checks in self._keys.items() if of == algorithm for check in checks]
        return tuple(every) if len(every) <= MAX_NAMELESS else ()

    async def _renew(self) -> None:
        try:
            body = await self._fetch(self._url)
            if body != self._body:
                self._keys = await asyncio.to_thread(keys_of, body, self._algorithms)  # imports a library at first
                self._body = body
                self.changes += 1
            self._read_s, self._failed = self._clock(), False
        except Exception as error:  # whatever the issuer does: what is there goes on counting
            logger.warning("keys of %s cannot be had: %s: %s", self._url, type(error).__name__, error)
            self._failed = True
        finally:
            self._task = None


def keys_of(body: bytes, algorithms: tuple[str, ...]) -> Keys:
    """What of a set can be used; what cannot is passed over. Raises ValueError if nothing can."""
    try:
        document = json.loads(body)
    except RecursionError as error:
        raise ValueError("nested without end") from error
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise ValueError(f"no list of at most {MAX_KEYS} keys")
    found: dict[tuple[str, str], tuple[Check, ...]] = {}
    for key in listed:
        if not isinstance(key, dict) or not _is_for_signatures(key):
            continue
        for algorithm in algorithms:
            try:
                check = signatures.jwk_check(algorithm, key)
            except ValueError:
                continue
            name = (key.get("kid", ""), algorithm)
            found[name] = (*found.get(name, ()), check)[:MAX_NAMELESS]
    if not found:
        raise ValueError("no key that can be used")
    return found


def _is_for_signatures(key: dict[str, Any]) -> bool:
    operations = key.get("key_ops", ["verify"])
    return (
        key.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        and isinstance(key.get("kid", ""), str)
    )


_shared: WeakValueDictionary[tuple[str, tuple[str, ...]], KeySet] = WeakValueDictionary()


def shared(url: str, algorithms: tuple[str, ...], clock: Callable[[], float], fetch: Fetch = fetch) -> KeySet:
    """Alive as long as a plugin holds it: that of a new table takes it over from that of the old one."""
    found = _shared.get((url, algorithms))
    if found is None:
        found = _shared[url, algorithms] = KeySet(url, algorithms, clock, fetch)
    return found
