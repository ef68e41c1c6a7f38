"""oauth2-introspection: lets in who shows a token that its issuer, asked at each first sight, calls active (RFC 7662).

Phases   access
Fails    401 `token_missing`, `token_invalid`, `consumer_disabled`; 403 `scope_missing`; 503 `credentials_unavailable`
         when the issuer or consumers cannot be asked: never a 401 for trouble of our own
Compare  Kong's oauth2-introspection (answers are remembered by the token's hash; scopes are checked here)
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from base64 import b64encode
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import quote_plus, urlencode

from pydantic import Field, SecretStr, StringConstraints, model_validator

from gateway.plugins import claims
from gateway.plugins.anonymous import admit_anonymous
from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.bearer import Places
from gateway.plugins.endpoints import AuthorizationUnavailable, Endpoint, Reply, Url
from gateway.plugins.identity import Identity, IdentityConfig, Text, Who, code_of
from gateway.plugins.tokens import BadToken
from gateway.proxy import headers
from gateway.proxy.errors import Reject, UpstreamError
from gateway.proxy.exchange import Exchange

MAX_REMEMBERED, MAX_TOKEN_BYTES = 10_000, 8192
Scope = Annotated[str, StringConstraints(pattern=r"^[!#-\[\]-~]+$", max_length=256)]  # RFC 6749 §3.3
PlaceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]


class IntrospectionConfig(PluginConfig):
    introspection_url: Url = Field(max_length=2048)
    """Where the issuer tells about tokens."""
    client_id: Text
    """Who asks. The issuer knows the gateway by this name."""
    client_secret: SecretStr = Field(max_length=4096)
    """And by this secret."""
    client_auth: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    """Where they stand: in `Authorization: Basic`, or in the question's body."""
    scopes_required: tuple[Scope, ...] = Field((), max_length=64)
    """Scopes a token must have, all of them."""
    audience: tuple[Text, ...] = Field((), max_length=16)
    """Names of this service in `aud`; one is enough. Empty: `aud` is not looked at."""
    ttl_s: int = Field(30, ge=0, le=3600)
    """How long an active token is remembered, at most until its `exp`: so long it outlives being revoked."""
    header_names: tuple[PlaceName, ...] = Field(("authorization",), max_length=16)
    """Headers that may carry the token. In `Authorization` it follows `Bearer`."""
    uri_param_names: tuple[PlaceName, ...] = Field((), max_length=16)
    """Query parameters that may carry it. Query strings end up in logs of others; headers do not."""
    cookie_names: tuple[PlaceName, ...] = Field((), max_length=16)
    """Cookies that may carry it. Browsers send them by themselves: guard against CSRF."""
    hide_credentials: bool = False
    """Take the token out of the request before it goes upstream."""
    anonymous: str = Field("", max_length=100)
    """The username of the consumer that requests without a token count as. Empty: they are refused."""
    run_on_preflight: bool = True
    """Ask for a token on CORS preflights too. Browsers send none: with `cors` on the route this never matters."""
    realm: str = Field("hydragate", max_length=128, pattern=r"^[ !#-\[\]-~]+$")
    """The realm of `WWW-Authenticate` in a 401."""
    timeout_ms: int = Field(2000, ge=10, le=60_000)
    """How long the issuer may take."""


class Oauth2IntrospectionConfig(IdentityConfig, IntrospectionConfig):
    consumer_claim: str = Field("sub", min_length=1, max_length=1000)
    """The member of the answer that says who calls: `sub`, `username`, `client_id`; dots lead into objects."""
    groups_claim: str = Field("", max_length=1000)
    """A member with groups for `acl`: a list, or words in one text, such as `scope`. They add to the consumer's own."""

    @model_validator(mode="after")
    def _fits_together(self) -> Oauth2IntrospectionConfig:
        if not (self.header_names or self.uri_param_names or self.cookie_names):
            raise ValueError("Name at least one place for the token: header_names, uri_param_names or cookie_names.")
        if self.consumer_required and self.consumer_by == "none":
            raise ValueError("consumer_required needs consumer_by: username or custom_id.")
        if not self.client_secret.get_secret_value():
            raise ValueError("client_secret is empty: an issuer tells only those it knows.")
        return self


@dataclass(frozen=True, slots=True)
class Told:
    """What the issuer said of an active token."""

    ends_s: float  # by the wall clock: not remembered beyond
    who: Who


class Oauth2Introspection(Plugin):
    name = "oauth2-introspection"
    Config = Oauth2IntrospectionConfig
    config: Oauth2IntrospectionConfig
    identifies = True

    def __init__(self, config: Oauth2IntrospectionConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._endpoint = Endpoint.of(config.introspection_url, config.timeout_ms / 1000)
        self._places = Places(config.header_names, config.uri_param_names, config.cookie_names)
        self._required = frozenset(config.scopes_required)
        self._identity = Identity(config, "oauth2", resources.credentials)
        self.owned = self._identity.owned
        self._told: OrderedDict[bytes, Told] = OrderedDict()
        self._asking: dict[bytes, asyncio.Future[Told | None]] = {}

    async def access(self, exchange: Exchange) -> None:
        if not self.config.run_on_preflight and headers.is_preflight(exchange.method, exchange.headers):
            self._identity.drop(exchange)
            return
        anonymous = self.config.anonymous
        if anonymous and exchange.credential is not None:
            self._identity.drop(exchange)
            return
        token = self._token(exchange)
        if not token:
            if not anonymous:
                raise self._refused(401, "token_missing", f"This request has no token. Send one {self._places}.")
            self._identity.drop(exchange)
            await admit_anonymous(exchange, self.resources, anonymous)
            return
        told = self._remembered(token) or await self._asked(exchange, token)
        if told is None:
            raise self._refused(401, "token_invalid", "The token is not active.")
        if missing := self._required - told.who.scopes:
            raise self._refused(403, "scope_missing", f"The token lacks the scope {min(missing)}.")
        if self.config.hide_credentials:
            self._places.hide(exchange)
        try:
            waiting = self._identity.admit(exchange, told.who)
            if waiting is not None:
                await waiting
        except BadToken as error:
            raise self._refused(401, code_of(error), str(error)) from error

    def _token(self, exchange: Exchange) -> bytes:
        """b"": there is none."""
        found = self._places.find(exchange)
        if not found:
            return b""
        if len(found) > 1:
            raise self._refused(401, "token_invalid", "This request has several different tokens. Send exactly one.")
        token = found.pop()
        if len(token) > MAX_TOKEN_BYTES or not token.isascii() or not token.decode().isprintable():
            raise self._refused(401, "token_invalid", "This is no token: they are plain ASCII of at most 8 KB.")
        return token

    def _remembered(self, token: bytes) -> Told | None:
        told = self._told.get(hashlib.sha256(token).digest())
        return told if told is not None and self.resources.wall() < told.ends_s else None

    async def _asked(self, exchange: Exchange, token: bytes) -> Told | None:
        """One question for all who show the same token meanwhile. None: not active. Raises AuthorizationUnavailable."""
        digest = hashlib.sha256(token).digest()
        while (asking := self._asking.get(digest)) is not None:
            try:
                return await asyncio.shield(asking)
            except asyncio.CancelledError:
                if not asking.cancelled():  # we are the one who leaves
                    raise
        self._asking[digest] = answer = asyncio.get_running_loop().create_future()
        try:
            told = await self._introspected(exchange, token)
            answer.set_result(told)
            if told is not None and self.config.ttl_s:
                self._told[digest] = told
                if len(self._told) > MAX_REMEMBERED:
                    self._told.popitem(last=False)
            return told
        except Exception as error:
            answer.set_exception(error)
            answer.exception()  # marks it as seen: perhaps nobody waits
            raise
        finally:
            answer.cancel()  # only if we are cancelled: the next of those who wait asks anew
            del self._asking[digest]

    async def _introspected(self, exchange: Exchange, token: bytes) -> Told | None:
        secret = self.config.client_secret.get_secret_value()
        form = {"token": token.decode(), "token_type_hint": "access_token"}
        fields = [(b"content-type", b"application/x-www-form-urlencoded"), (b"accept", b"application/json")]
        if self.config.client_auth == "client_secret_post":
            form |= {"client_id": self.config.client_id, "client_secret": secret}
        else:  # RFC 6749 §2.3.1: both are encoded as in a form
            pair = f"{quote_plus(self.config.client_id)}:{quote_plus(secret)}"
            fields.append((b"authorization", b"Basic " + b64encode(pair.encode())))
        try:
            reply = await self.resources.caller.call(self._endpoint, "POST", fields, urlencode(form).encode())
            return self._read(reply)
        except (UpstreamError, ValueError) as error:
            reason = error.detail if isinstance(error, UpstreamError) else str(error)
            exchange.detail = f"oauth2-introspection: {self._endpoint.upstream.name} did not tell: {reason}"
            raise AuthorizationUnavailable() from error

    def _read(self, reply: Reply) -> Told | None:
        """Raises ValueError for an answer that is none."""
        if reply.status != 200:
            raise ValueError(f"status {reply.status}")
        try:
            said = json.loads(reply.body)
        except RecursionError:
            raise ValueError("nested without end") from None
        if not isinstance(said, dict) or not isinstance(said.get("active"), bool):
            raise ValueError("no object with `active`")
        if not said["active"]:
            return None
        now_s = self.resources.wall()
        audience = said.get("aud", []) if self.config.audience else []
        rules = claims.Rules(audiences=frozenset(self.config.audience), required=())
        try:
            ends_s = claims.check({**said, "aud": audience}, rules, now_s)
            claims.groups(said.get("scope"))
            who = self._identity.read(said)
        except BadToken:
            return None
        kept_s = now_s + self.config.ttl_s
        return Told(kept_s if ends_s is None else min(ends_s, kept_s), who)

    def _refused(self, status: int, code: str, detail: str) -> Reject:
        challenge = f'Bearer realm="{self.config.realm}"'
        if code == "scope_missing":  # RFC 6750 §3.1
            challenge += f', error="insufficient_scope", scope="{" ".join(self.config.scopes_required)}"'
        elif code != "token_missing":
            challenge += f', error="invalid_token", error_description="{detail}"'
        return Reject(status, code, detail, headers=((b"www-authenticate", challenge.encode()),))
