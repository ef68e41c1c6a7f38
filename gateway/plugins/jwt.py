"""jwt: lets in who shows a token that somebody trusted has signed, and says who it is.

Phases   access
Fails    401 `token_missing`, `token_invalid`, `token_expired`, `consumer_disabled`; 503 `credentials_unavailable` when
         consumers (`consumer_by`) or an issuer's keys (`jwks_url`) cannot be had: never a 401 for trouble of our own
Compare  Kong's jwt (same names of places; keys stand in the setting, each for one algorithm, instead of one for each
         consumer; `claims_to_verify` is always on, `maximum_expiration` is not there)

A token that was verified is remembered until it expires, by its SHA-256, and then costs a hash and a look.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)

from gateway.plugins import claims, jwks, provider, signatures, tokens
from gateway.plugins.anonymous import admit_anonymous
from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.bearer import Places
from gateway.plugins.identity import Identity, IdentityConfig, Text, Who, code_of
from gateway.plugins.jwks import KeySet
from gateway.plugins.signatures import Algorithm, Check, PublicAlgorithm
from gateway.plugins.tokens import BadToken, Token
from gateway.proxy import headers
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Exchange

MAX_VERIFIED = 10_000

PlaceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]


def _listed(value: object) -> object:
    """One text is a list of one."""
    return (value,) if isinstance(value, str) else value


class KeyConfig(PluginConfig):
    kid: str = Field("", max_length=tokens.MAX_KID)
    """Tokens that name a key are checked with the key of that `kid`, or with keys that have none. Empty: none."""
    algorithm: Algorithm = "HS256"
    """The only one this key is used for, whatever a token says."""
    secret: SecretStr = Field(SecretStr(""), max_length=4096)
    """For HS256, HS384 and HS512: what issuer and gateway share. 32 random bytes or more."""
    secret_is_base64: bool = False
    """The secret is written in base64 or base64url."""
    public_key: str = Field("", max_length=8192)
    """For all other algorithms: the public key in PEM."""

    @model_validator(mode="after")
    def _is_sound(self) -> KeyConfig:
        self.check()
        return self

    def check(self) -> Check:
        """Raises ValueError."""
        secret = self.secret.get_secret_value()
        symmetric = signatures.is_symmetric(self.algorithm)
        if symmetric != bool(secret) or symmetric == bool(self.public_key):
            wanted = "a secret and no public_key" if symmetric else "a public_key and no secret"
            raise ValueError(f"{self.algorithm} needs {wanted}.")
        if symmetric:
            return signatures.secret_check(self.algorithm, signatures.secret_bytes(secret, self.secret_is_base64))
        return signatures.public_check(self.algorithm, self.public_key)


class TokenConfig(PluginConfig):
    keys: tuple[KeyConfig, ...] = Field((), max_length=32)
    """Who may sign. One that fits is enough."""
    secret: SecretStr = Field(SecretStr(""), max_length=4096)
    """Short for one entry of `keys`: HS256 with this secret."""
    jwks_url: str = Field("", max_length=1000, pattern=r"^(https?://[^\s/?#@]+(/[^\s#]*)?)?$")
    """Where the issuer shows its public keys (JWKS). Fetched when the first token comes, and every five minutes."""
    openid_issuer: Annotated[str, StringConstraints(pattern=r"^(https?://[^\s/?#@]+(/[^\s?#]*)?)?$")] = Field(
        "", max_length=1000
    )
    """An OpenID provider, which tells where its keys are. In the place of jwks_url, and of issuer if there is none."""
    algorithms: tuple[PublicAlgorithm, ...] = Field(("RS256", "ES256", "EdDSA"), min_length=1, max_length=10)
    """What the keys of `jwks_url` are used for. One that names its algorithm is used for that only."""
    issuer: Annotated[tuple[Text, ...], BeforeValidator(_listed)] = Field((), max_length=16)
    """Values of `iss` that are taken. Empty: any."""
    audience: Annotated[tuple[Text, ...], BeforeValidator(_listed)] = Field((), max_length=16)
    """Names of this service in `aud`; one is enough. Empty: a token that names an audience is for others."""
    leeway_s: int = Field(0, ge=0, le=300)
    """How far clocks may differ: added to `exp`, taken from `nbf` and `iat`."""
    claims_required: tuple[Text, ...] = Field(("exp",), max_length=32)
    """Claims a token must have. Without `exp` in this list, tokens without an end are taken."""
    types: tuple[Text, ...] = Field(("JWT", "at+jwt"), max_length=16)
    """Values of `typ` that are taken, whatever the case. Tokens without one always are."""
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

    @field_validator("secret")
    @classmethod
    def _is_one(cls, secret: SecretStr) -> SecretStr:
        if text := secret.get_secret_value():
            signatures.secret_check("HS256", text.encode())
        return secret

    def all_keys(self) -> tuple[KeyConfig, ...]:
        return (*self.keys, KeyConfig(secret=self.secret)) if self.secret.get_secret_value() else self.keys


class JwtConfig(IdentityConfig, TokenConfig):
    @model_validator(mode="after")
    def _fits_together(self) -> JwtConfig:
        if not self.all_keys() and not self.jwks_url and not self.openid_issuer:
            raise ValueError("Give at least one key: in keys, as secret, or by jwks_url or openid_issuer.")
        if self.jwks_url and self.openid_issuer:
            raise ValueError("Give jwks_url or openid_issuer, not both.")
        if not (self.header_names or self.uri_param_names or self.cookie_names):
            raise ValueError("Name at least one place for the token: header_names, uri_param_names or cookie_names.")
        if self.consumer_required and self.consumer_by == "none":
            raise ValueError("consumer_required needs consumer_by: username or custom_id.")
        return self


@dataclass(frozen=True, slots=True)
class Verified:
    """What of a token is worth remembering. `keys`: the key set it was checked with, as the set counts them."""

    ends_s: float | None
    keys: int
    who: Who


class Jwt(Plugin):
    name = "jwt"
    Config = JwtConfig
    config: JwtConfig
    identifies = True

    def __init__(self, config: JwtConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._keys = [(key.kid, key.algorithm, key.check()) for key in config.all_keys()]
        self._places = Places(config.header_names, config.uri_param_names, config.cookie_names)
        self._missing = f"This request has no token. Send one {self._places}."
        issuers, audiences = frozenset(config.issuer), frozenset(config.audience)
        if config.openid_issuer and not issuers:  # with and without a slash at the end: services differ
            issuers = frozenset({config.openid_issuer.rstrip("/"), config.openid_issuer.rstrip("/") + "/"})
        self._rules = claims.Rules(issuers, audiences, config.claims_required, config.leeway_s)
        self._identity = Identity(config, "jwt", resources.credentials)
        self.owned = self._identity.owned
        self._key_set = _key_set(config, resources)
        self._verified: OrderedDict[bytes, Verified] = OrderedDict()

    def access(self, exchange: Exchange) -> Awaitable[None] | None:
        if not self.config.run_on_preflight and headers.is_preflight(exchange.method, exchange.headers):
            self._identity.drop(exchange)
            return None
        anonymous = self.config.anonymous
        if anonymous and exchange.credential is not None:
            self._identity.drop(exchange)
            return None
        text = self._token(exchange)
        if not text:
            if not anonymous:
                raise self._refused("token_missing", self._missing)
            self._identity.drop(exchange)
            return admit_anonymous(exchange, self.resources, anonymous)
        verified = self._remembered(text)
        if verified is None:
            token = self._read(text)
            if self._key_set is not None:
                return self._access_by_key_set(self._key_set, exchange, text, token)
            verified = self._verify(text, token)
        return self._identify(exchange, verified)

    async def _access_by_key_set(self, key_set: KeySet, exchange: Exchange, text: bytes, token: Token) -> None:
        checks: Sequence[Check] = self._fitting(token)
        if not _is_signed(token, checks):
            checks = await key_set.find(token.kid, token.algorithm)
        waiting = self._identify(exchange, self._verify(text, token, checks))
        if waiting is not None:
            await waiting

    def _identify(self, exchange: Exchange, verified: Verified) -> Awaitable[None] | None:
        if self.config.hide_credentials:
            self._places.hide(exchange)
        try:
            waiting = self._identity.admit(exchange, verified.who)
        except BadToken as error:
            raise self._bad(error) from error
        return None if waiting is None else self._later(waiting)

    async def _later(self, waiting: Awaitable[None]) -> None:
        try:
            await waiting
        except BadToken as error:
            raise self._bad(error) from error

    def _token(self, exchange: Exchange) -> bytes:
        """b"": there is none."""
        found = self._places.find(exchange)
        if not found:
            return b""
        if len(found) > 1:
            raise self._refused("token_invalid", "This request has several different tokens. Send exactly one.")
        return found.pop()

    def _remembered(self, text: bytes) -> Verified | None:
        if self._key_set is not None:
            self._key_set.keep_fresh()
        digest = hashlib.sha256(text).digest()
        known = self._verified.get(digest)
        if known is None:
            return None
        alive = known.ends_s is None or self.resources.wall() < known.ends_s
        if alive and (self._key_set is None or known.keys == self._key_set.changes):
            self._verified.move_to_end(digest)
            return known
        del self._verified[digest]
        return None

    def _read(self, text: bytes) -> Token:
        try:
            token = tokens.read(text)
            if not tokens.is_type(token.typ, self.config.types):
                raise BadToken("Tokens of this typ are not accepted here.")
        except BadToken as error:
            raise self._bad(error) from error
        return token

    def _verify(self, text: bytes, token: Token, checks: Sequence[Check] = ()) -> Verified:
        """By these checks, or our own. Remembers it."""
        try:
            verified = self._judged(token, checks or self._fitting(token))
        except BadToken as error:
            raise self._bad(error) from error
        self._verified[hashlib.sha256(text).digest()] = verified
        if len(self._verified) > MAX_VERIFIED:
            self._verified.popitem(last=False)
        return verified

    def _fitting(self, token: Token) -> list[Check]:
        """Of the key the token names, or one without a name; if it names none, of any. Always its own algorithm."""
        named = None if not token.kid else ("", token.kid)
        keys = [key for key in self._keys if key[1] == token.algorithm and (named is None or key[0] in named)]
        return [check for _, _, check in keys]

    def _judged(self, token: Token, checks: Sequence[Check]) -> Verified:
        """Claims are read after the signature. Raises BadToken."""
        if not checks:
            raise BadToken("No key here fits the algorithm and kid of the token.")
        if not _is_signed(token, checks):
            raise BadToken("The signature of the token is wrong.")
        said = tokens.claims(token)
        ends_s = claims.check(said, self._rules, self.resources.wall())
        return Verified(ends_s, self._key_set.changes if self._key_set else 0, self._identity.read(said))

    def _bad(self, error: BadToken) -> Reject:
        return self._refused(code_of(error), str(error))

    def _refused(self, code: str, detail: str) -> Reject:
        challenge = f'Bearer realm="{self.config.realm}"'
        if code != "token_missing":  # RFC 6750 §3.1: who sent none is told of no error
            challenge += f', error="invalid_token", error_description="{detail}"'
        return Reject(401, code, detail, headers=((b"www-authenticate", challenge.encode()),))


def _key_set(config: JwtConfig, resources: Resources) -> KeySet | None:
    if config.jwks_url:
        return jwks.shared(config.jwks_url, config.algorithms, resources.clock)
    if not config.openid_issuer:
        return None
    source = provider.shared(config.openid_issuer, resources.caller, resources.clock)

    async def fetch(_: str) -> bytes:
        return await jwks.fetch((await source.metadata()).jwks_uri)

    return jwks.shared(f"{config.openid_issuer} (discovered)", config.algorithms, resources.clock, fetch)


def _is_signed(token: Token, checks: Sequence[Check]) -> bool:
    return any(check(token.signed, token.signature) for check in checks)
