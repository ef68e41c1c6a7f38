"""openid-connect: sends people to their login service and knows them by a cookie afterwards; takes its tokens, too.

Phases   access
Fails    401 `token_missing`, `token_invalid`, `token_expired`, `consumer_disabled`; 400 and 401 `login_failed` on the
         way back; 503 `credentials_unavailable` when the login service, its keys or consumers cannot be had
Compare  Kong's openid-connect (its authorization code flow with PKCE, session and bearer methods, logout; sessions are
         in the cookie only, and refresh tokens are not used)

Whoever is not known and looks like a person (a GET that wants HTML) is sent to the issuer, and comes back to
`redirect_path` with a code, for which the issuer gives an ID token. What it says is sealed into the session cookie.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, quote_plus, urlencode

from pydantic import Field, SecretStr, StringConstraints, model_validator

from gateway.plugins import claims, jwks, provider, tokens
from gateway.plugins.anonymous import admit_anonymous
from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.endpoints import Endpoint, Reply, Url
from gateway.plugins.identity import Identity, IdentityConfig, Text, code_of
from gateway.plugins.provider import Metadata, ProviderUnavailable
from gateway.plugins.sealed import Box
from gateway.plugins.signatures import PublicAlgorithm
from gateway.plugins.tokens import BadToken
from gateway.proxy import headers
from gateway.proxy.errors import Reject, UpstreamError
from gateway.proxy.exchange import Answer, Exchange

LOGIN_S = 600  # how long somebody may take to log in
MAX_COOKIE_BYTES = 3800  # browsers keep 4096 with name and attributes
MAX_PLACE_BYTES = 1500  # of where to come back to
_PROTOCOL = frozenset({"nonce", "at_hash", "c_hash", "s_hash", "sid", "jti", "auth_time", "acr", "amr", "azp", "nbf"})
Path = Annotated[str, StringConstraints(pattern=r"^/[!\"$-;=@-Z_a-z~]*$", max_length=512)]
CookieName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]


class LoginConfig(PluginConfig):
    issuer: Url
    """The login service, as it calls itself: `https://login.example/realms/main`."""
    client_id: Text
    """The gateway's name there."""
    client_secret: SecretStr = Field(SecretStr(""), max_length=4096)
    """And its secret. Empty: a public client, which PKCE alone protects."""
    client_auth: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    """Where the secret stands: in `Authorization: Basic`, or in the question's body."""
    scopes: tuple[Annotated[str, StringConstraints(pattern=r"^[!#-\[\]-~]+$", max_length=256)], ...] = Field(
        ("openid", "profile", "email"), min_length=1, max_length=64
    )
    """What to ask the login service for; `openid` is one of them."""
    redirect_path: Path = "/oidc/callback"
    """Where the login service sends people back: a path that leads to this route. Tell it `https://host` and this."""
    logout_path: Annotated[str, StringConstraints(pattern=r"^(/[!\"$-;=@-Z_a-z~]*)?$", max_length=512)] = "/oidc/logout"
    """Whoever goes there is logged out, at the login service, too. Empty: nowhere."""
    logout_redirect_uri: Annotated[str, StringConstraints(pattern=r"^(https?://[!-~]+)?$", max_length=2048)] = ""
    """Where people are sent after that. Empty: where the login service likes."""
    auth_methods: tuple[Literal["session", "bearer"], ...] = Field(("session", "bearer"), min_length=1, max_length=2)
    """`session`: people by cookie; `bearer`: programs by a token of the issuer in `Authorization`."""
    audience: tuple[Text, ...] = Field((), max_length=16)
    """Names of this service in `aud` of bearer tokens; one is enough. Empty: the client_id."""
    algorithms: tuple[PublicAlgorithm, ...] = Field(("RS256", "ES256", "EdDSA"), min_length=1, max_length=10)
    """What the issuer's keys are used for."""
    leeway_s: int = Field(5, ge=0, le=300)
    """How far clocks may differ."""
    session_secret: SecretStr = Field(SecretStr(""), max_length=4096)
    """Seals the cookies: 32 random characters or more. Empty: made from client_secret. A new one logs everybody out."""
    session_ttl_s: int = Field(28_800, ge=60, le=2_592_000)
    """How long a login lasts. The login service is not asked meanwhile."""
    cookie_name: CookieName = "hg_session"
    """Of the session. Logins under way have it with something behind."""
    cookie_same_site: Literal["lax", "strict", "none"] = "lax"
    """`strict`: not even a link from elsewhere comes with the session; `none`: needs https."""
    anonymous: str = Field("", max_length=100)
    """The username of the consumer that requests without session and token count as. Empty: people are sent to log in,
    others are refused."""
    run_on_preflight: bool = True
    """Ask who it is on CORS preflights too. Browsers send nothing: with `cors` on the route this never matters."""
    realm: str = Field("hydragate", max_length=128, pattern=r"^[ !#-\[\]-~]+$")
    """The realm of `WWW-Authenticate` in a 401."""


class OpenidConnectConfig(IdentityConfig, LoginConfig):
    @model_validator(mode="after")
    def _fits_together(self) -> OpenidConnectConfig:
        if "openid" not in self.scopes:
            raise ValueError("scopes lacks openid: without it the login service tells nobody's name.")
        if not self.client_secret.get_secret_value() and not self.session_secret.get_secret_value():
            raise ValueError("A client without a client_secret needs a session_secret.")
        if 0 < len(self.session_secret.get_secret_value()) < 32:
            raise ValueError("session_secret has at least 32 characters.")
        if self.redirect_path == self.logout_path:
            raise ValueError("redirect_path and logout_path are two paths.")
        if self.consumer_required and self.consumer_by == "none":
            raise ValueError("consumer_required needs consumer_by: username or custom_id.")
        return self


class OpenidConnect(Plugin):
    name = "openid-connect"
    Config = OpenidConnectConfig
    config: OpenidConnectConfig
    identifies = True

    def __init__(self, config: OpenidConnectConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        secret = (config.session_secret.get_secret_value() or config.client_secret.get_secret_value()).encode()
        self._sessions = Box(secret, f"session {config.issuer} {config.client_id}")
        self._logins = Box(secret, f"login {config.issuer} {config.client_id}")
        self._provider = provider.shared(config.issuer, resources.caller, resources.clock)
        self._identity = Identity(config, "oidc", resources.credentials)
        self.owned = self._identity.owned
        self._cookie = config.cookie_name.encode()
        self._key_set: jwks.KeySet | None = None  # alive as long as it is held here

    async def access(self, exchange: Exchange) -> Answer | None:
        if not self.config.run_on_preflight and headers.is_preflight(exchange.method, exchange.headers):
            self._identity.drop(exchange)
            return None
        if "session" in self.config.auth_methods:
            if exchange.path == self.config.redirect_path:
                return await self._come_back(exchange)
            if exchange.path == self.config.logout_path:
                return await self._log_out(exchange)
        anonymous = self.config.anonymous
        try:
            if anonymous and exchange.credential is not None:
                self._identity.drop(exchange)
            elif (said := await self._said(exchange)) is not None:
                waiting = self._identity.admit(exchange, self._identity.read(said))
                if waiting is not None:
                    await waiting
            elif anonymous:
                self._identity.drop(exchange)
                await admit_anonymous(exchange, self.resources, anonymous)
            else:
                return await self._unknown(exchange)
        except BadToken as error:
            raise self._refused(code_of(error), str(error)) from error
        self._hide_cookies(exchange)
        return None

    async def _said(self, exchange: Exchange) -> dict[str, Any] | None:
        """By a token, else by the session. Raises BadToken."""
        values = headers.get_all(exchange.headers, b"authorization")
        shown = [value[7:].strip() for value in values if value[:7].lower() == b"bearer "]
        if shown and "bearer" in self.config.auth_methods:
            if len(shown) > 1:
                raise BadToken("This request has several tokens. Send exactly one.")
            audiences = frozenset(self.config.audience or (self.config.client_id,))
            return await self._verified(shown[0], audiences, ("exp",))
        if "session" not in self.config.auth_methods:
            return None
        cookie = headers.cookie(exchange.headers, self._cookie)
        return None if cookie is None else self._sessions.open(cookie, self.resources.wall())

    async def _verified(self, text: bytes, audiences: frozenset[str], required: tuple[str, ...]) -> dict[str, Any]:
        """Raises BadToken, CredentialsUnavailable."""
        metadata = await self._provider.metadata()
        token = tokens.read(text)
        self._key_set = jwks.shared(metadata.jwks_uri, self.config.algorithms, self.resources.clock)
        checks = await self._key_set.find(token.kid, token.algorithm)
        if not any(check(token.signed, token.signature) for check in checks):
            raise BadToken("The signature of the token is wrong, or of a key that its issuer does not have.")
        said = tokens.claims(token)
        rules = claims.Rules(frozenset({metadata.issuer}), audiences, ("iss", *required), self.config.leeway_s)
        claims.check(said, rules, self.resources.wall())
        return said

    # --- logging in -------------------------------------------------------------------------------------------------

    async def _unknown(self, exchange: Exchange) -> Answer:
        """The way to the login service, for people. Raises Reject."""
        if "session" not in self.config.auth_methods or not _looks_like_a_person(exchange):
            raise self._refused("token_missing", "Nobody knows who you are. Log in, or send a token.")
        metadata = await self._provider.metadata()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        place = exchange.raw_path + (b"?" + exchange.query if exchange.query else b"")
        began = {
            "state": state, "nonce": nonce, "verifier": verifier,
            "place": place.decode("latin-1") if len(place) <= MAX_PLACE_BYTES else "/",
        }  # fmt: skip
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        question = urlencode({
            "response_type": "code", "client_id": self.config.client_id, "redirect_uri": self._redirect_uri(exchange),
            "scope": " ".join(self.config.scopes), "state": state, "nonce": nonce,
            "code_challenge": challenge, "code_challenge_method": "S256",
        })  # fmt: skip
        sealed = self._logins.seal(began, self.resources.wall() + LOGIN_S)
        cookie = self._set_cookie(exchange, self._login_cookie(state), sealed, LOGIN_S, self.config.redirect_path)
        return _sent_to(_with_query(metadata.authorization_endpoint, question), cookie)

    async def _come_back(self, exchange: Exchange) -> Answer:
        said = dict(parse_qsl(exchange.query.decode("latin-1"), keep_blank_values=True))
        began = self._begun(exchange, said.get("state", ""))
        if "error" in said:
            exchange.detail = f"openid-connect: the login service said {said['error'][:100]!r}"
            raise Reject(401, "login_failed", "The login service has not let you in.")
        metadata = await self._provider.metadata()
        if said.get("iss", metadata.issuer) != metadata.issuer:  # RFC 9207
            raise Reject(400, "login_failed", "Another login service has answered. Start again.")
        id_token = await self._fetched(exchange, metadata, said.get("code", ""), began["verifier"])
        try:
            known = await self._verified(id_token.encode(), frozenset({self.config.client_id}), ("exp", "iat", "sub"))
            if not hmac.compare_digest(str(known.get("nonce", "")).encode(), began["nonce"].encode()):
                raise BadToken("The token is of another login.")
            if known.get("azp", self.config.client_id) != self.config.client_id:
                raise BadToken("The token was made for another client.")
            self._identity.read(known)
        except BadToken as error:
            exchange.detail = f"openid-connect: the ID token does not count: {error}"
            raise Reject(401, "login_failed", "What the login service said cannot be used.") from error
        session = self._set_cookie(exchange, self.config.cookie_name, self._session(known), self.config.session_ttl_s)
        done = self._set_cookie(exchange, self._login_cookie(began["state"]), "", 0, self.config.redirect_path)
        return _sent_to(_origin(exchange) + began["place"], session, done)

    def _begun(self, exchange: Exchange, state: str) -> dict[str, Any]:
        """Of this browser, or another's code would be its login. Raises Reject."""
        cookie = headers.cookie(exchange.headers, self._login_cookie(state).encode()) if state else None
        began = None if cookie is None else self._logins.open(cookie, self.resources.wall())
        if began is None or not hmac.compare_digest(began["state"].encode(), state.encode()):
            raise Reject(
                400, "login_failed", "This login was not begun in this browser, or ten minutes ago. Start again."
            )
        return began

    async def _fetched(self, exchange: Exchange, metadata: Metadata, code: str, verifier: str) -> str:
        """The ID token. Raises Reject, ProviderUnavailable."""
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": self._redirect_uri(exchange),
            "code_verifier": verifier,
        }  # fmt: skip
        fields = [(b"content-type", b"application/x-www-form-urlencoded"), (b"accept", b"application/json")]
        secret = self.config.client_secret.get_secret_value()
        if secret and self.config.client_auth == "client_secret_basic":  # RFC 6749 §2.3.1: encoded as in a form
            pair = f"{quote_plus(self.config.client_id)}:{quote_plus(secret)}"
            fields.append((b"authorization", b"Basic " + base64.b64encode(pair.encode())))
        else:
            form |= {"client_id": self.config.client_id} | ({"client_secret": secret} if secret else {})
        try:
            endpoint = Endpoint.of(metadata.token_endpoint, provider.TIMEOUT_S)
            reply = await self.resources.caller.call(endpoint, "POST", fields, urlencode(form).encode())
        except UpstreamError as error:
            exchange.detail = f"openid-connect: no token from {metadata.token_endpoint}: {error.detail}"
            raise ProviderUnavailable() from error
        return _id_token(exchange, reply)

    def _session(self, known: dict[str, Any]) -> str:
        """All the ID token says if a cookie can hold it, else what the settings name."""
        ends_s = self.resources.wall() + self.config.session_ttl_s
        sealed = self._sessions.seal({name: value for name, value in known.items() if name not in _PROTOCOL}, ends_s)
        if len(sealed) > MAX_COOKIE_BYTES:
            paths = [self.config.consumer_claim, self.config.groups_claim]
            paths += [entry.claim for entry in self.config.claims_to_headers]
            few = {path: value for path in ("iss", "sub", *paths) if (value := claims.at(known, path)) is not None}
            sealed = self._sessions.seal(few, ends_s)
        if len(sealed) > MAX_COOKIE_BYTES:
            raise Reject(401, "login_failed", "The login service says more of you than a cookie can hold.")
        return sealed

    async def _log_out(self, exchange: Exchange) -> Answer:
        gone = self._set_cookie(exchange, self.config.cookie_name, "", 0)
        after = self.config.logout_redirect_uri
        try:
            there = (await self._provider.metadata()).end_session_endpoint
        except ProviderUnavailable:  # here at least
            there = ""
        if there:
            question = {"client_id": self.config.client_id} | ({"post_logout_redirect_uri": after} if after else {})
            return _sent_to(_with_query(there, urlencode(question)), gone)
        if after:
            return _sent_to(after, gone)
        return Answer(200, [(b"content-type", b"text/plain"), _NO_STORE, gone], b"You are logged out.\n")

    # --- cookies, answers -------------------------------------------------------------------------------------------

    def _login_cookie(self, state: str) -> str:
        """One for each login under way: people open several tabs."""
        return f"{self.config.cookie_name}_{state[:8]}"

    def _set_cookie(
        self, exchange: Exchange, name: str, value: str, ttl_s: int, path: str = "/"
    ) -> tuple[bytes, bytes]:
        secure = "; Secure" if exchange.scheme == "https" else ""
        # A login comes back by a link from elsewhere, which `strict` would not go with.
        same_site = self.config.cookie_same_site if path == "/" else "lax"
        text = f"{name}={value}; Path={path}; Max-Age={ttl_s}; HttpOnly; SameSite={same_site.title()}{secure}"
        return b"set-cookie", text.encode("latin-1")

    def _hide_cookies(self, exchange: Exchange) -> None:
        """What is sealed for us is nobody else's."""
        kept: headers.Pairs = []
        for name, value in exchange.headers:
            if name == b"cookie" and self._cookie in value:
                parts = [part for part in value.split(b";") if not self._is_ours(part)]
                if parts:
                    kept.append((name, b";".join(parts).strip()))
            else:
                kept.append((name, value))
        exchange.headers[:] = kept

    def _is_ours(self, part: bytes) -> bool:
        name = part.partition(b"=")[0].strip()
        return name == self._cookie or name.startswith(self._cookie + b"_")

    def _redirect_uri(self, exchange: Exchange) -> str:
        return _origin(exchange) + self.config.redirect_path

    def _refused(self, code: str, detail: str) -> Reject:
        challenge = f'Bearer realm="{self.config.realm}"'
        if code != "token_missing":  # RFC 6750 §3.1: who sent none is told of no error
            challenge += f', error="invalid_token", error_description="{detail}"'
        return Reject(401, code, detail, headers=((b"www-authenticate", challenge.encode()),))


_NO_STORE = (b"cache-control", b"no-store")


def _looks_like_a_person(exchange: Exchange) -> bool:
    """A browser that goes to a page. A script in a page, a program, a WebSocket could not follow to a login form."""
    fetched = headers.get(exchange.headers, b"sec-fetch-mode")
    return (
        exchange.method == "GET"
        and "websocket" not in exchange.notes
        and fetched in (None, b"navigate")
        and any(b"text/html" in value for value in headers.get_all(exchange.headers, b"accept"))
    )


def _origin(exchange: Exchange) -> str:
    return f"{exchange.scheme}://{exchange.authority.decode('latin-1')}"


def _with_query(url: str, query: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{query}"


def _sent_to(url: str, *cookies: headers.Pair) -> Answer:
    return Answer(302, [(b"location", url.encode("latin-1")), _NO_STORE, *cookies])


def _id_token(exchange: Exchange, reply: Reply) -> str:
    try:
        said = json.loads(reply.body)
    except (ValueError, RecursionError):
        said = None
    if reply.status in (400, 401) and isinstance(said, dict):
        exchange.detail = f"openid-connect: the login service refused the code: {str(said.get('error'))[:100]!r}"
        raise Reject(401, "login_failed", "The login service has not confirmed your login. Start again.")
    if reply.status != 200 or not isinstance(said, dict) or not isinstance(said.get("id_token"), str):
        exchange.detail = f"openid-connect: the login service gave no ID token: status {reply.status}"
        raise ProviderUnavailable()
    found: str = said["id_token"]
    return found
