"""hmac-auth: lets in who has signed the request with a shared secret, and says who it is.

Phases   access
Fails    401 `signature_missing`, `signature_invalid`, `consumer_disabled`; 503 `credentials_unavailable` when a
         consumer cannot be looked up
Compare  Kong's hmac-auth (`Authorization: hmac username=…`, the same signed text, the same field names). Here the
         credentials stand in the setting, the date and the request line are always signed, and there is no SHA-1

The signed text is that of draft-cavage-http-signatures: a line for each name in `headers`. A signature holds for
`clock_skew` seconds around its date, in which whoever reads it can send the same request again: use TLS.
"""

from __future__ import annotations

import hmac
import os
import re
from binascii import a2b_base64
from collections.abc import AsyncIterable, AsyncIterator, Awaitable
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from gateway.plugins import claims
from gateway.plugins.anonymous import admit_anonymous
from gateway.plugins.base import Plugin, PluginConfig, Refusal, Resources
from gateway.plugins.dryruns import would_refuse
from gateway.plugins.edits import check_name
from gateway.plugins.identity import OWNED
from gateway.proxy import headers
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Consumer, Credential, Exchange

MIN_SECRET_BYTES = 16
MAX_SIGNED = 32
_AUTHORIZATION = b"authorization"
_TARGET = (b"request-line", b"@request-target")
_DATES = (b"x-date", b"date")  # the first is taken if both are signed
_NAMES = {"username", "algorithm", "headers", "signature"}
_PARAMETERS = re.compile(r"\s*,\s*".join([r'([a-z]+)="([^"\\]*)"'] * len(_NAMES)))
_DATE_FORMAT = "%a, %d %b %Y %H:%M:%S GMT"  # RFC 9110 §5.6.7
_DIGEST = re.compile(r"sha-256=([A-Za-z0-9+/]{43}=)", re.IGNORECASE)
_EMPTY = sha256().digest()

Algorithm = Literal["hmac-sha256", "hmac-sha384", "hmac-sha512"]
UserName = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._@+-]+$")]
FieldName = Annotated[
    str, StringConstraints(min_length=1, max_length=128, to_lower=True), AfterValidator(lambda name: _signable(name))
]


def _signable(name: str) -> str:
    return name if name.encode() in (*_TARGET, b"host", b"content-length") else check_name(name)


class HmacCredential(PluginConfig):
    username: UserName
    """By which a client says who it is."""
    secret: SecretStr = Field(min_length=MIN_SECRET_BYTES, max_length=4096)
    """What client and gateway share. 32 random bytes are right."""
    consumer: str = Field("", max_length=150)
    """The username of the consumer it belongs to. Empty: to none, the caller is known by this name only."""


class HmacAuthConfig(PluginConfig):
    credentials: tuple[HmacCredential, ...] = Field(min_length=1, max_length=1000)
    """Who may sign."""
    algorithms: tuple[Algorithm, ...] = Field(("hmac-sha256", "hmac-sha384", "hmac-sha512"), min_length=1, max_length=3)
    """Those that are taken."""
    clock_skew: int = Field(300, ge=1, le=86_400)
    """Seconds by which the date of a request may differ from the gateway's."""
    enforce_headers: tuple[FieldName, ...] = Field((), max_length=MAX_SIGNED)
    """What has to be signed besides the date and the request line, such as `host`."""
    validate_request_body: bool = False
    """Ask for a signed `Digest: SHA-256=…` with every body, and check it."""
    hide_credentials: bool = True
    """Take the signature out of the request before it goes upstream."""
    anonymous: str = Field("", max_length=100)
    """The username of the consumer that requests without a signature count as. Empty: they are refused."""
    run_on_preflight: bool = True
    """Ask for a signature on CORS preflights too. Browsers send none: with `cors` on the route this never matters."""
    realm: str = Field("hydragate", max_length=128, pattern=r"^[ !#-\[\]-~]+$")
    """The realm of `WWW-Authenticate` in a 401."""

    @model_validator(mode="after")
    def _names_each_once(self) -> HmacAuthConfig:
        names = [credential.username for credential in self.credentials]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"These usernames stand in credentials twice: {', '.join(twice)}.")
        return self


class HmacAuth(Plugin):
    name = "hmac-auth"
    Config = HmacAuthConfig
    config: HmacAuthConfig
    identifies = True

    def __init__(self, config: HmacAuthConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._secrets = {one.username: one.secret.get_secret_value().encode() for one in config.credentials}
        self._consumers = {one.username: one.consumer for one in config.credentials}
        self._strangers = {username: Consumer(0, username) for username in self._secrets}
        self._credentials: dict[str, Credential] = {}  # as last made, by username
        self._nobody = os.urandom(32)  # an unknown name takes as long as a wrong signature
        self._algorithms = frozenset(config.algorithms)
        self._enforced = [name.encode() for name in config.enforce_headers]
        self._hidden = OWNED | {_AUTHORIZATION} if config.hide_credentials else OWNED
        self._challenge = ((b"www-authenticate", f'hmac realm="{config.realm}"'.encode()),)

    def access(self, exchange: Exchange) -> Awaitable[None] | None:
        if not self.config.run_on_preflight and headers.is_preflight(exchange.method, exchange.headers):
            return None
        anonymous = self.config.anonymous
        if anonymous and exchange.credential is not None:
            return None
        said = self._said(exchange)
        if said is None:
            if not anonymous:
                raise self._refused("signature_missing", "This request is not signed. Send `Authorization: hmac …`.")
            return admit_anonymous(exchange, self.resources, anonymous)
        signed = self._signed(said["headers"])
        username, algorithm = said["username"], said["algorithm"]
        if algorithm not in self._algorithms:
            raise self._invalid(f"The algorithm has to be one of {', '.join(self.config.algorithms)}.")
        try:
            given = a2b_base64(said["signature"], strict_mode=True)
        except ValueError:
            raise self._invalid("The signature is no base64.") from None
        text = self._text(exchange, signed)
        if not hmac.compare_digest(given, signature(self._secrets.get(username, self._nobody), algorithm, text)):
            raise self._invalid("The signature does not fit the request.")
        self._check_date(exchange, _DATES[0] if _DATES[0] in signed else _DATES[1])
        if self.config.validate_request_body:
            self._watch_body(exchange, signed)
        return self._identify(exchange, username)

    # ---- what the client says

    def _said(self, exchange: Exchange) -> dict[str, str] | None:
        """The parameters of the one `Authorization: hmac`; None: there is none."""
        values = headers.get_all(exchange.headers, _AUTHORIZATION)
        signatures = [value for value in values if value[:5].lower() == b"hmac "]
        if not signatures:
            return None
        match = _PARAMETERS.fullmatch(signatures[0][5:].strip().decode("latin-1"))
        said = dict(zip(match.groups()[::2], match.groups()[1::2], strict=True)) if match else {}
        if len(values) > 1 or said.keys() != _NAMES:
            raise self._invalid("Authorization has to be one: hmac username, algorithm, headers and signature, quoted.")
        return said

    def _signed(self, said: str) -> tuple[bytes, ...]:
        signed = _names(said)
        if len(signed) > MAX_SIGNED or len(set(signed)) < len(signed):
            raise self._invalid(f"headers names at most {MAX_SIGNED}, each once.")
        if not any(name in signed for name in _DATES) or not any(name in signed for name in _TARGET):
            raise self._invalid("A signature covers `date` or `x-date`, and `request-line` or `@request-target`.")
        for name in self._enforced:
            if name not in signed:
                raise self._invalid(f"A signature here covers {name.decode()}, too.")
        return signed

    def _text(self, exchange: Exchange, signed: tuple[bytes, ...]) -> bytes:
        """What was signed: the client's own bytes."""
        target = exchange.raw_path + b"?" + exchange.query if exchange.query else exchange.raw_path
        method = exchange.method.encode()
        lines = []
        for name in signed:
            if name == b"request-line":
                lines.append(method + b" " + target + b" HTTP/1.1")
            elif name == b"@request-target":
                lines.append(b"@request-target: " + method.lower() + b" " + target)
            else:
                values = [exchange.authority] if name == b"host" else headers.get_all(exchange.headers, name)
                if not values:
                    raise self._invalid(
                        "headers names a field that the request does not have, or that may not be signed."
                    )
                lines.append(name + b": " + b", ".join(values))
        return b"\n".join(lines)

    def _check_date(self, exchange: Exchange, name: bytes) -> None:
        date_s = _epoch_s(b", ".join(headers.get_all(exchange.headers, name)))
        if date_s is None:
            raise self._invalid(f"The field {name.decode()} is no date such as `Sun, 06 Nov 1994 08:49:37 GMT`.")
        if abs(date_s - self.resources.wall()) > self.config.clock_skew:
            raise self._invalid(f"The date of the request is more than {self.config.clock_skew} s away from ours.")

    # ---- the body

    def _watch_body(self, exchange: Exchange, signed: tuple[bytes, ...]) -> None:
        values = headers.get_all(exchange.headers, b"digest")
        if not values and exchange.body is None:
            return
        match = _DIGEST.fullmatch(values[0].decode("latin-1")) if len(values) == 1 else None
        if match is None or b"digest" not in signed:
            raise self._invalid("A body here comes with a signed field `Digest: SHA-256=<base64>`.")
        digest = a2b_base64(match[1])
        if exchange.body is not None:
            exchange.body = self._checked(exchange, exchange.body, digest)
        elif digest != _EMPTY:
            raise self._invalid("The digest is not that of an empty body.")

    async def _checked(self, exchange: Exchange, body: AsyncIterable[bytes], digest: bytes) -> AsyncIterator[bytes]:
        """As it comes, but the last piece only once the whole is right: an upstream never gets all of a wrong body."""
        found, held = sha256(), b""
        async for chunk in body:
            found.update(chunk)
            if held:
                yield held
            held = chunk
        if found.digest() != digest:
            wrong = self._invalid("The body does not fit its digest.")
            if not self.dry_run:
                raise wrong
            would_refuse(exchange, self, wrong)
        if held:
            yield held

    # ---- who it is

    def _identify(self, exchange: Exchange, username: str) -> Awaitable[None] | None:
        if not self._consumers[username]:
            self._admit(exchange, username, self._strangers[username])
            return None
        found = self.resources.credentials.find_consumer("username", self._consumers[username])
        if isinstance(found, (Credential, Refusal)):
            self._admit_found(exchange, username, found)
            return None
        return self._admit_later(exchange, username, found)

    async def _admit_later(self, exchange: Exchange, username: str, finding: Awaitable[Credential | Refusal]) -> None:
        self._admit_found(exchange, username, await finding)

    def _admit_found(self, exchange: Exchange, username: str, found: Credential | Refusal) -> None:
        if isinstance(found, Refusal):
            if found.code == "consumer_disabled":
                raise self._refused(found.code, "The owner of this signature is disabled.")
            exchange.detail = f"hmac-auth: there is no consumer '{self._consumers[username]}'"
            raise self._invalid("This signature leads to no consumer.")
        self._admit(exchange, username, found.consumer)

    def _admit(self, exchange: Exchange, username: str, consumer: Consumer) -> None:
        credential = self._credentials.get(username)
        if credential is None or credential.consumer is not consumer:
            credential = Credential("hmac", claims.subject(self.name, username), username, consumer)
            self._credentials[username] = credential
        exchange.consumer, exchange.credential = consumer, credential
        exchange.headers = headers.without(exchange.headers, self._hidden)
        exchange.headers += credential.fields

    def _invalid(self, detail: str) -> Reject:
        return self._refused("signature_invalid", detail)

    def _refused(self, code: str, detail: str) -> Reject:
        return Reject(401, code, detail, headers=self._challenge)


@lru_cache(maxsize=256)
def _names(said: str) -> tuple[bytes, ...]:
    """Of the fields in `headers`. Remembered: a client signs the same ones every time."""
    return tuple(name.encode("latin-1") for name in said.lower().split())


@lru_cache(maxsize=1024)
def _epoch_s(text: bytes) -> float | None:
    """Remembered: all requests of a second have the same date, and reading one takes longer than the signature."""
    try:
        return datetime.strptime(text.decode("latin-1"), _DATE_FORMAT).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def signature(secret: bytes, algorithm: str, text: bytes) -> bytes:
    return hmac.digest(secret, text, algorithm.removeprefix("hmac-"))
