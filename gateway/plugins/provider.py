"""What an issuer tells of itself (OpenID Connect Discovery 1.0): where to log in, to fetch tokens, to find its keys.

Asked when the first request needs it; all who need it meanwhile wait for the one answer. Known, it goes on counting
while it is asked anew in the background (REFRESH_S), and while that fails (RETRY_S). Shared by all settings of an
issuer, and outlives a new configuration.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from gateway.plugins.endpoints import AuthorizationUnavailable, Caller, Endpoint, check_url

REFRESH_S, RETRY_S = 3600.0, 5.0
TIMEOUT_S = 5.0
_WELL_KNOWN = "/.well-known/openid-configuration"
logger = logging.getLogger(__name__)


class ProviderUnavailable(AuthorizationUnavailable):
    detail = "The login service does not answer at the moment. Try again shortly."


@dataclass(frozen=True, slots=True)
class Metadata:
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    end_session_endpoint: str  # "": there is none


class Provider:
    """`clock` is monotonic."""

    def __init__(self, issuer: str, caller: Caller, clock: Callable[[], float]) -> None:
        self._issuer, self._caller, self._clock = issuer, caller, clock
        self._known: Metadata | None = None
        self._read_s = self._tried_s = float("-inf")
        self._task: asyncio.Task[None] | None = None

    async def metadata(self) -> Metadata:
        """Raises ProviderUnavailable."""
        now_s = self._clock()
        if self._task is None and now_s - self._read_s >= REFRESH_S and now_s - self._tried_s >= RETRY_S:
            self._tried_s = now_s
            self._task = asyncio.create_task(self._renew(), name=f"metadata of {self._issuer}")
        if self._known is None and self._task is not None:
            await asyncio.shield(self._task)  # whoever leaves does not end it for the others
        if self._known is None:
            raise ProviderUnavailable()
        return self._known

    async def _renew(self) -> None:
        try:
            endpoint = Endpoint.of(self._issuer.rstrip("/") + _WELL_KNOWN, TIMEOUT_S)
            reply = await self._caller.call(endpoint, "GET", [(b"accept", b"application/json")], max_bytes=262_144)
            if reply.status != 200:
                raise ValueError(f"status {reply.status}")
            self._known, self._read_s = metadata_of(reply.body, self._issuer), self._clock()
        except Exception as error:  # whatever the issuer does: what is known goes on counting
            logger.warning("what %s tells of itself cannot be had: %r", self._issuer, error)
        finally:
            self._task = None


def metadata_of(body: bytes, issuer: str) -> Metadata:
    """Raises ValueError. The issuer must call itself as we call it (Discovery §4.3): nobody speaks for another."""
    try:
        said = json.loads(body)
    except RecursionError:
        raise ValueError("nested without end") from None
    if not isinstance(said, dict):
        raise ValueError("no object")
    if not isinstance(said.get("issuer"), str) or said["issuer"].rstrip("/") != issuer.rstrip("/"):
        raise ValueError(f"it calls itself {said.get('issuer')!r}")
    urls = {}
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "end_session_endpoint"):
        url = said.get(name, "")
        if not isinstance(url, str) or (not url and name != "end_session_endpoint"):
            raise ValueError(f"no {name}")
        urls[name] = check_url(url) if url else ""
    return Metadata(said["issuer"], **urls)


_shared: WeakValueDictionary[tuple[str, int], Provider] = WeakValueDictionary()


def shared(issuer: str, caller: Caller, clock: Callable[[], float]) -> Provider:
    """Alive as long as a plugin holds it."""
    key = issuer, id(caller)
    found = _shared.get(key)
    if found is None:
        found = _shared[key] = Provider(issuer, caller, clock)
    return found
