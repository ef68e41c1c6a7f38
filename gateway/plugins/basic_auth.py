"""basic-auth: lets in who shows a username and its password (RFC 7617), and says who it is.

Phases   access
Fails    401 `credentials_missing`, `credentials_invalid`, `consumer_disabled`; 503 `credentials_unavailable` when
         they cannot be looked up, or too many passwords wait to be checked
Compare  Kong's basic-auth (same field names; passwords are hashed by scrypt, and `hide_credentials` is on by default)
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as BadBase64

from pydantic import Field

from gateway.plugins.anonymous import admit, admit_anonymous
from gateway.plugins.base import Plugin, PluginConfig, Refusal, Resources
from gateway.plugins.passwords import MAX_BYTES, NOBODY, has_controls, normal
from gateway.proxy import headers
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Credential, Exchange

_AUTHORIZATION = b"authorization"
_HIDDEN = frozenset({_AUTHORIZATION})
_MAX_ENCODED = 4 * MAX_BYTES


class BasicAuthConfig(PluginConfig):
    hide_credentials: bool = True
    """Take username and password out of the request before it goes upstream."""
    anonymous: str = Field("", max_length=100)
    """The username of the consumer that requests without credentials count as. Empty: they are refused."""
    run_on_preflight: bool = True
    """Ask for credentials on CORS preflights too. Browsers send none: with `cors` on the route this never matters."""
    realm: str = Field("hydragate", max_length=128, pattern=r"^[ !#-\[\]-~]+$")
    """The realm of `WWW-Authenticate` in a 401: browsers show it when they ask for the password."""


class BasicAuth(Plugin):
    name = "basic-auth"
    Config = BasicAuthConfig
    config: BasicAuthConfig
    identifies = True

    def __init__(self, config: BasicAuthConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._challenge = ((b"www-authenticate", f'Basic realm="{config.realm}", charset="UTF-8"'.encode()),)

    async def access(self, exchange: Exchange) -> None:
        if not self.config.run_on_preflight and headers.is_preflight(exchange.method, exchange.headers):
            return
        if self.config.anonymous and exchange.credential is not None:
            return
        given = self._given(exchange)
        if given is not None:
            admit(exchange, await self._proved(*given))
            if self.config.hide_credentials:
                exchange.headers = headers.without(exchange.headers, _HIDDEN)
        elif self.config.anonymous:
            await admit_anonymous(exchange, self.resources, self.config.anonymous)
        else:
            raise self._refused("credentials_missing", "This request has no `Authorization: Basic` with credentials.")

    def _given(self, exchange: Exchange) -> tuple[str, bytes] | None:
        """Username and password; None: the request has none of this scheme."""
        values = headers.get_all(exchange.headers, _AUTHORIZATION)
        basic = [value for value in values if value[:6].lower() == b"basic "]
        if not basic:
            return None
        if len(values) > 1 or len(basic[0]) > _MAX_ENCODED:
            raise self._invalid()
        try:
            text = normal(b64decode(basic[0][6:].strip(), validate=True).decode())
        except (BadBase64, ValueError):
            raise self._invalid() from None
        username, colon, password = text.partition(":")
        if not colon or len(password.encode()) > MAX_BYTES or has_controls(text):
            raise self._invalid()
        return username, password.encode()

    async def _proved(self, username: str, password: bytes) -> Credential:
        """A name that does not exist costs as much time as a wrong password, and gets the same answer."""
        found = self.resources.credentials.find_login(username)
        if not isinstance(found, (Credential, Refusal)):
            found = await found
        right = self.resources.passwords.check(found.proof or NOBODY, password)
        if not isinstance(right, bool):
            right = await right
        if not right:
            raise self._invalid()
        if isinstance(found, Refusal):
            raise self._refused(found.code, "The owner of these credentials is disabled.")
        return found

    def _invalid(self) -> Reject:
        return self._refused("credentials_invalid", "Username or password is wrong.")

    def _refused(self, code: str, detail: str) -> Reject:
        return Reject(401, code, detail, headers=self._challenge)
