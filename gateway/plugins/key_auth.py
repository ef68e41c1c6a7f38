"""key-auth: lets in who shows a valid API key, and says who it is.

Phases   access
Fails    401 `key_missing`, `key_invalid`, `key_expired`, `key_revoked`, `consumer_disabled`; 503
         `credentials_unavailable` when keys cannot be looked up: never a 401 for trouble of our own
Compare  Kong's key-auth (same field names; keys are stored hashed, and `hide_credentials` is on by default)
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from gateway.plugins.anonymous import admit, admit_anonymous
from gateway.plugins.base import Plugin, PluginConfig, Refusal, Resources
from gateway.proxy import headers, query
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Credential, Exchange

MAX_KEY_BYTES = 512
KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]

_AUTHORIZATION = b"authorization"
_SCHEMES = (b"bearer", b"apikey")
_DETAILS = {
    "key_invalid": "This API key is not valid here.",
    "key_expired": "This API key has expired. Ask for a new one.",
    "key_revoked": "This API key has been revoked. Ask for a new one.",
    "consumer_disabled": "The owner of this API key is disabled.",
}


class KeyAuthConfig(PluginConfig):
    key_names: tuple[KeyName, ...] = Field(("apikey", "x-api-key"), min_length=1, max_length=16)
    """Headers and query parameters that may carry the key. Headers match without regard to case."""
    key_in_header: bool = True
    """Look in the headers of `key_names`."""
    key_in_query: bool = True
    """Look in the query parameters of `key_names`. Query strings end up in logs of others; headers do not."""
    key_in_authorization: bool = True
    """Look in `Authorization: Bearer <key>` or `ApiKey <key>`, if no key stands under `key_names`."""
    hide_credentials: bool = True
    """Take the key out of the request before it goes upstream."""
    anonymous: str = Field("", max_length=100)
    """The username of the consumer that requests without a key count as. Empty: they are refused."""
    run_on_preflight: bool = True
    """Ask for a key on CORS preflights too. Browsers send none: with `cors` on the route this never matters."""
    realm: str = Field("hydragate", max_length=128, pattern=r"^[ !#-\[\]-~]+$")
    """The realm of `WWW-Authenticate` in a 401."""

    @model_validator(mode="after")
    def _looks_somewhere(self) -> KeyAuthConfig:
        if not (self.key_in_header or self.key_in_query or self.key_in_authorization):
            raise ValueError("Turn on at least one of key_in_header, key_in_query and key_in_authorization.")
        return self


class KeyAuth(Plugin):
    name = "key-auth"
    Config = KeyAuthConfig
    config: KeyAuthConfig
    identifies = True

    def __init__(self, config: KeyAuthConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._header_names = frozenset(name.lower().encode() for name in config.key_names if config.key_in_header)
        self._query_names = frozenset(name.encode() for name in config.key_names if config.key_in_query)
        self._challenge = ((b"www-authenticate", f'ApiKey realm="{config.realm}"'.encode()),)
        names = " or ".join(f"`{name}`" for name in config.key_names)
        places = [f"in the header {names}"] if config.key_in_header else []
        places += [f"in the query parameter {names}"] if config.key_in_query else []
        places += ["as `Authorization: Bearer <key>`"] if config.key_in_authorization else []
        self._missing = f"This request has no API key. Send one {', or '.join(places)}."

    async def access(self, exchange: Exchange) -> None:
        if not self.config.run_on_preflight and headers.is_preflight(exchange.method, exchange.headers):
            return
        anonymous = self.config.anonymous
        if anonymous and exchange.credential is not None:
            return
        key = self._key(exchange)
        if not key:
            if not anonymous:
                raise self._refused("key_missing", self._missing)
            await admit_anonymous(exchange, self.resources, anonymous)
            return
        found = self.resources.credentials.find_key(hashlib.sha256(key).digest())
        if not isinstance(found, (Credential, Refusal)):  # not remembered by this worker
            found = await found
        if isinstance(found, Refusal):
            raise self._refused(found.code, _DETAILS.get(found.code, _DETAILS["key_invalid"]))
        if self.config.hide_credentials:
            self._hide(exchange, key)
        admit(exchange, found)

    def _key(self, exchange: Exchange) -> bytes:
        """The one key of this request, b"" if it has none. The same key in two places is one key."""
        names = self._header_names
        keys = {pair[1] for pair in exchange.headers if pair[0] in names}
        if exchange.query:
            for name in self._query_names:
                keys.update(query.get_all(exchange.query, name))
        keys.discard(b"")
        if not keys and self.config.key_in_authorization:
            keys = {key for value in headers.get_all(exchange.headers, _AUTHORIZATION) if (key := _from_scheme(value))}
        if not keys:
            return b""
        if len(keys) > 1:
            raise self._refused("key_invalid", "This request has several different API keys. Send exactly one.")
        key = keys.pop()
        if len(key) > MAX_KEY_BYTES or not key.isascii() or not key.decode("ascii").isprintable():
            raise self._refused("key_invalid", "This is no API key: keys are short and plain ASCII.")
        return key

    def _hide(self, exchange: Exchange, key: bytes) -> None:
        """Everything under a key name goes. `Authorization` goes if it holds the key: else it is the upstream's."""
        exchange.headers = fields = headers.without(exchange.headers, self._header_names)
        if any(_from_scheme(value) == key for value in headers.get_all(fields, _AUTHORIZATION)):
            fields[:] = [pair for pair in fields if pair[0] != _AUTHORIZATION or _from_scheme(pair[1]) != key]
        wire = exchange.query if exchange.upstream_query is None else exchange.upstream_query
        if wire and (shorter := query.without(wire, self._query_names)) != wire:
            exchange.upstream_query = shorter

    def _refused(self, code: str, detail: str) -> Reject:
        return Reject(401, code, detail, headers=self._challenge)


def _from_scheme(value: bytes) -> bytes:
    scheme, _, key = value.strip().partition(b" ")
    return key.strip() if scheme.lower() in _SCHEMES else b""
