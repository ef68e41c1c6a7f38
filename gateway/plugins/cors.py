"""cors: lets pages of other origins call, as the Fetch standard wants it (https://fetch.spec.whatwg.org/#http-cors-protocol).

Phases   access (answers preflights), response
Fails    never: an origin that may not call gets an answer without permission, and its browser keeps the answer from it
Compare  Kong's cors (same field names; a regular expression starts with `^` and fits the whole origin)

It stands before authentication, because browsers send preflights without credentials. Errors of the gateway get the
fields too, so that a page can read why it was refused. The upstream's own CORS fields are replaced.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import re2
from pydantic import AfterValidator, Field, StringConstraints, model_validator

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.proxy import headers
from gateway.proxy.exchange import Answer, Exchange

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
_WILDCARD = re.compile(r"([a-z][a-z0-9+.-]*://)(\*\.)?(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:(?:[0-9]{1,5}|\*))?")
_RE2 = re2.Options()
_RE2.log_errors = False
_RE2.max_mem = 1 << 20
_STRANGERS = ("https://a.stranger.invalid", "http://stranger.invalid:8080", "null")
_OURS = b"access-control-"
_PREFLIGHT = object()


def _origin(value: str) -> str:
    if value.startswith("^"):
        _compiled(value)
        return value
    lowered = value.lower()
    if lowered != "*" and not _WILDCARD.fullmatch(lowered):
        raise ValueError(
            "Write an origin as a browser sends it, `https://app.example.com`, without a path; with a wildcard, "
            "`https://*.example.com` or `http://localhost:*`; as a regular expression that starts with `^`; or `*`."
        )
    return lowered


def _compiled(origin: str) -> re.Pattern[str]:
    """Of a regular expression, or an origin with a wildcard. RE2: an origin comes from strangers."""
    expression = origin
    if not origin.startswith("^"):
        found = _WILDCARD.fullmatch(origin)
        assert found is not None  # `_origin` has seen it
        scheme, labels, host, port = found.groups()
        expression = re.escape(scheme) + (r"(?:[a-z0-9_-]+\.)+" if labels else "") + re.escape(host)
        expression += r"(?::[0-9]{1,5})?" if port == ":*" else re.escape(port or "")
    try:
        compiled: re.Pattern[str] = re2.compile(expression, _RE2)
    except re2.error as error:
        raise ValueError(f"'{origin}' is no regular expression of RE2: {error}.") from None
    return compiled


def _is_exact(origin: str) -> bool:
    return not origin.startswith("^") and _ORIGIN.fullmatch(origin) is not None


Origin = Annotated[str, StringConstraints(max_length=255), AfterValidator(_origin)]
Token = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", max_length=128)]
Method = Literal["GET", "HEAD", "PUT", "PATCH", "POST", "DELETE", "OPTIONS", "TRACE", "CONNECT"]


class CorsConfig(PluginConfig):
    origins: tuple[Origin, ...] = Field(("*",), min_length=1, max_length=100)
    """Origins that may call: exact ones (scheme, host, port), `https://*.example.com` (any subdomain), `http://localhost:*`
    (any port), regular expressions that start with `^` and fit the whole origin (RE2), or `*` for all."""
    methods: tuple[Method, ...] = Field(("GET", "HEAD", "PUT", "PATCH", "POST", "DELETE"), min_length=1)
    """Methods a preflight allows."""
    headers: tuple[Token, ...] = Field((), max_length=100)
    """Request headers a preflight allows. Empty: whatever it asks for."""
    exposed_headers: tuple[Token, ...] = Field((), max_length=100)
    """Response headers that pages may read besides the safe ones."""
    credentials: bool = False
    """Allow cookies and `Authorization` of the browser. Not with `*`."""
    max_age: int | None = Field(None, ge=0, le=86_400)
    """Seconds a browser may remember a preflight. None: its own default."""
    preflight_continue: bool = False
    """Send preflights upstream, and leave its answers to them as they are."""
    private_network: bool = False
    """Allow calls from public pages into a private network."""
    allow_origin_absent: bool = True
    """Add the fields also to answers of requests without an `Origin`. Off: only to those of calls across origins."""

    @model_validator(mode="after")
    def _keeps_credentials_from_strangers(self) -> CorsConfig:
        if "*" in self.origins and len(self.origins) > 1:
            raise ValueError("`*` allows every origin; leave the others out.")
        if "*" in self.origins and self.credentials:
            raise ValueError("credentials needs named origins: with `*` any page could act for its visitor.")
        for origin in self.origins if self.credentials else ():
            if origin.startswith("^") and any(_compiled(origin).fullmatch(stranger) for stranger in _STRANGERS):
                raise ValueError(
                    f"'{origin}' lets any origin in, and with credentials any page could act for its visitor."
                )
        return self


class Cors(Plugin):
    name = "cors"
    Config = CorsConfig
    config: CorsConfig
    refuses = False

    def __init__(self, config: CorsConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._any = "*" in config.origins
        self._origins = frozenset(origin.encode() for origin in config.origins if _is_exact(origin))
        self._patterns = [_compiled(origin) for origin in config.origins if not self._any and not _is_exact(origin)]
        self._exposed = ", ".join(config.exposed_headers).encode()
        self._preflight: headers.Pairs = [(b"access-control-allow-methods", ", ".join(config.methods).encode())]
        if config.headers:
            self._preflight.append((b"access-control-allow-headers", ", ".join(config.headers).encode()))
        if config.max_age is not None:
            self._preflight.append((b"access-control-max-age", b"%d" % config.max_age))

    def access(self, exchange: Exchange) -> Answer | None:
        origin = headers.get(exchange.headers, b"origin")
        asked = headers.get(exchange.headers, b"access-control-request-method")
        if exchange.method != "OPTIONS" or origin is None or asked is None:
            exchange.notes[self] = origin  # a later plugin may take the header away
            return None
        exchange.notes[self] = _PREFLIGHT
        if self.config.preflight_continue:
            return None
        return Answer(204, self._permission(exchange, origin))

    def response(self, exchange: Exchange) -> None:
        fields = exchange.response_headers
        assert fields is not None
        origin = exchange.notes.get(self)
        if origin is _PREFLIGHT:
            return
        fields[:] = [pair for pair in fields if not pair[0].startswith(_OURS)]
        if origin is not None or self.config.allow_origin_absent:
            allowed = self._allowed(origin)
            fields += allowed
            if self._exposed and allowed:
                fields.append((b"access-control-expose-headers", self._exposed))
        if not self._any or not self.config.allow_origin_absent:
            headers.vary(fields, b"Origin")

    def _allowed(self, origin: bytes | None) -> headers.Pairs:
        """`*` is said to everyone, also without an Origin: then a shared cache holds one answer for all."""
        if self._any:
            return [(b"access-control-allow-origin", b"*")]
        if origin is None or not self._is_named(origin.lower()):
            return []
        pairs = [(b"access-control-allow-origin", origin)]
        if self.config.credentials:
            pairs.append((b"access-control-allow-credentials", b"true"))
        return pairs

    def _is_named(self, origin: bytes) -> bool:
        if origin in self._origins:
            return True
        text = origin.decode("latin-1")
        return any(pattern.fullmatch(text) for pattern in self._patterns)

    def _permission(self, exchange: Exchange, origin: bytes) -> headers.Pairs:
        """The header fields of a preflight's answer."""
        vary = [] if self._any else [b"Origin"]
        fields = self._allowed(origin)
        if fields:
            fields += self._preflight
            wanted = headers.get(exchange.headers, b"access-control-request-headers")
            if wanted and not self.config.headers:
                fields.append((b"access-control-allow-headers", wanted))
            if self.config.private_network and (
                headers.get(exchange.headers, b"access-control-request-private-network") == b"true"
            ):
                fields.append((b"access-control-allow-private-network", b"true"))
        if not self.config.headers:
            vary.append(b"Access-Control-Request-Headers")
        if self.config.private_network:
            vary.append(b"Access-Control-Request-Private-Network")
        if vary:
            fields.append((b"vary", b", ".join(vary)))
        return fields
