"""forward-auth: asks a service of yours about each request, and forwards only what it lets through.

Phases   access
Fails    the service's own answer, whatever it is but 2xx; 503 `credentials_unavailable` when it cannot be asked
         (`on_error`); 403 `acl_denied` for a consumer that is not served
Compare  Kong's has none of its own; Traefik's ForwardAuth and APISIX' forward-auth (the same X-Forwarded fields)
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from gateway.plugins.base import Plugin, PluginConfig, Refusal, Resources
from gateway.plugins.edits import check_name
from gateway.plugins.endpoints import AuthorizationUnavailable, Endpoint, Reply, Url
from gateway.proxy import headers
from gateway.proxy.errors import Reject, UpstreamError
from gateway.proxy.exchange import Answer, Credential, Exchange

FieldName = Annotated[str, StringConstraints(min_length=1, max_length=128), AfterValidator(check_name)]
_LOOKED_AT = ("authorization", "cookie", "accept", "user-agent", "x-request-id", "traceparent")
_TOLD = ("content-type", "location", "set-cookie", "www-authenticate", "retry-after", "cache-control")


class ForwardAuthConfig(PluginConfig):
    uri: Url = Field(max_length=2048)
    """Where to ask, such as `http://auth.internal:9000/check`."""
    request_method: Literal["GET", "POST"] = "GET"
    """Method of the question. It never has a body: the client's goes on untouched."""
    request_headers: tuple[FieldName, ...] = Field(_LOOKED_AT, max_length=64)
    """The client's fields that the service is shown."""
    upstream_headers: tuple[FieldName, ...] = Field((), max_length=64)
    """Fields of a 2xx answer that go upstream. What the client sent under these names goes in any case."""
    client_headers: tuple[FieldName, ...] = Field(_TOLD, max_length=64)
    """Fields of a refusal that the client gets, with its status and body."""
    consumer_header: str = Field("", max_length=128, pattern=r"^[A-Za-z0-9_-]*$")
    """The field of a 2xx answer with the username of a consumer: limits and groups of that one hold. Empty: none."""
    timeout_ms: int = Field(2000, ge=10, le=60_000)
    """How long the service may take."""
    on_error: Literal["deny", "allow"] = "deny"
    """When the service cannot be asked: refuse with 503, or let everything through."""
    run_on_preflight: bool = True
    """Ask for CORS preflights too. Browsers send no credentials with them."""


class ForwardAuth(Plugin):
    name = "forward-auth"
    Config = ForwardAuthConfig
    config: ForwardAuthConfig
    identifies = True

    def __init__(self, config: ForwardAuthConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._endpoint = Endpoint.of(config.uri, config.timeout_ms / 1000)
        self._shown = _names(config.request_headers)
        self._upstream = _names(config.upstream_headers)
        self.owned = frozenset(headers.canonical(name) for name in self._upstream)
        self._told = _names(config.client_headers)
        self._consumer = config.consumer_header.lower().encode()

    async def access(self, exchange: Exchange) -> Answer | None:
        if not self.config.run_on_preflight and headers.is_preflight(exchange.method, exchange.headers):
            return None
        try:
            reply = await self.resources.caller.call(
                self._endpoint, self.config.request_method, self._question(exchange)
            )
        except UpstreamError as error:
            exchange.detail = f"forward-auth: {self._endpoint.upstream.name} could not be asked: {error.detail}"
            if self.config.on_error == "allow":
                self._drop(exchange)
                return None
            raise AuthorizationUnavailable() from error
        if not 200 <= reply.status < 300:
            exchange.detail = f"forward-auth: {self._endpoint.upstream.name} answered {reply.status}"
            exchange.outcome = "rejected"
            return Answer(reply.status, [pair for pair in reply.headers if pair[0] in self._told], reply.body)
        self._drop(exchange)
        told = [pair for pair in reply.headers if pair[0] in self._upstream]
        exchange.headers += told
        if told:  # who that is about gets answers of its own
            exchange.notes["identified"] = True
        if self._consumer:
            await self._identify(exchange, reply)
        return None

    def _question(self, exchange: Exchange) -> headers.Pairs:
        path = exchange.raw_path + b"?" + exchange.query if exchange.query else exchange.raw_path
        pairs = [pair for pair in exchange.headers if pair[0] in self._shown]
        pairs += [
            (b"x-forwarded-method", exchange.method.encode()),
            (b"x-forwarded-proto", exchange.scheme.encode()),
            (b"x-forwarded-host", exchange.authority),
            (b"x-forwarded-uri", path),
            (b"x-forwarded-for", exchange.client_ip.encode() or b"unknown"),
        ]
        return pairs

    def _drop(self, exchange: Exchange) -> None:
        """What only the service may say, with names an upstream may take for the same (`X_User` for `X-User`)."""
        headers.remove_owned(exchange.headers, self.owned)

    async def _identify(self, exchange: Exchange, reply: Reply) -> None:
        name = (headers.get(reply.headers, self._consumer) or b"").decode("utf-8", "replace")
        if not name:
            return
        found = self.resources.credentials.find_consumer("username", name)
        if not isinstance(found, (Credential, Refusal)):
            found = await found
        if isinstance(found, Refusal):
            exchange.detail = f"forward-auth: the service named a consumer that is not served: {found.code}"
            raise Reject(403, "acl_denied", "You may not call this.")
        exchange.consumer, exchange.credential = found.consumer, found
        exchange.headers += found.fields


def _names(names: tuple[str, ...]) -> frozenset[bytes]:
    return frozenset(name.lower().encode() for name in names)
