"""URLs that plugins call by themselves, and what comes back.

class Config(PluginConfig):
    url: Url = Field(...)

endpoint = Endpoint.of(config.url, timeout_s=1.0)
reply = await resources.caller.call(endpoint, "POST", fields, body)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, StringConstraints

from gateway.proxy.errors import CredentialsUnavailable
from gateway.proxy.headers import Pair, Pairs
from gateway.proxy.snapshot import TargetSpec, UpstreamSpec

MAX_CONNECTIONS = 64  # to one endpoint, of one worker
_PLAIN = re.compile(r"[!-~]+")


def check_url(url: str) -> str:
    """Raises ValueError for what a call could not be made to."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if not _PLAIN.fullmatch(url) or parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(f"'{url}' is no URL such as https://auth.internal/check: spaces and other letters encoded.")
    if "@" in parts.netloc:
        raise ValueError("A URL with a user and password in it ends up in logs; leave them out.")
    if parts.fragment:
        raise ValueError("What follows a '#' is never sent; leave it out.")
    return url


def _one_line(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not text.isascii() or not text.isprintable():
        raise ValueError("The value of a header field is one line of ASCII.")
    return secret


FieldSecret = Annotated[SecretStr, Field(max_length=4096), AfterValidator(_one_line)]
Url = Annotated[str, StringConstraints(max_length=2048), AfterValidator(check_url)]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a URL leads, in the terms of a transport: an upstream of one target."""

    upstream: UpstreamSpec
    target: TargetSpec
    path: bytes  # as on the wire, with the query

    @classmethod
    def of(cls, url: str, timeout_s: float) -> Endpoint:
        """`timeout_s` bounds the whole call, waiting for a connection included."""
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        target = TargetSpec(id=0, host=parts.hostname or "", port=parts.port or (443 if secure else 80), weight=1)
        upstream = UpstreamSpec(
            id=0, name=parts.netloc, protocol="https" if secure else "http", balancing="round-robin",
            connect_timeout_s=timeout_s, first_byte_timeout_s=timeout_s, idle_timeout_s=timeout_s,
            total_timeout_s=timeout_s, retries=0, max_connections=MAX_CONNECTIONS, targets=(target,),
        )  # fmt: skip
        return cls(upstream, target, ((parts.path or "/") + (f"?{parts.query}" if parts.query else "")).encode())


@dataclass(frozen=True, slots=True)
class Reply:
    """`headers` in lower case, without those of the connection."""

    status: int
    headers: Pairs
    body: bytes


class AuthorizationUnavailable(CredentialsUnavailable):
    """A service that decides cannot be asked. Never a 401 or 403: that is not the client's fault."""

    detail = "Whether you may do this cannot be found out at the moment. Try again shortly."


class Caller(Protocol):
    async def call(
        self,
        endpoint: Endpoint,
        method: str,
        fields: Sequence[Pair] = (),
        body: bytes = b"",
        *,
        path: bytes = b"",
        max_bytes: int = 65536,
    ) -> Reply:
        """One small request; `fields` without Host and lengths, `path` instead of the endpoint's own. No redirects.

        Raises UpstreamError: not reached, timed out, broken off, or an answer above `max_bytes`.
        """
        ...
