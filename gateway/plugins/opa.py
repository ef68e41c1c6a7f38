"""opa: lets an Open Policy Agent decide, by what the request is and who sends it.

Phases   access
Fails    403 `policy_denied` or the status the policy names; 503 `credentials_unavailable` when the agent cannot be
         asked or gives no decision (`on_error`)
Compare  Kong's opa (the same input and result); here decisions may be remembered for a while
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs

from pydantic import AfterValidator, Field, StringConstraints

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.edits import check_name, check_pair
from gateway.plugins.endpoints import AuthorizationUnavailable, Endpoint, Reply, Url
from gateway.proxy import headers
from gateway.proxy.errors import Reject, UpstreamError
from gateway.proxy.exchange import Exchange

MAX_REMEMBERED = 10_000
FieldName = Annotated[str, StringConstraints(min_length=1, max_length=128), AfterValidator(check_name)]


class OpaConfig(PluginConfig):
    url: Url = Field(max_length=2048)
    """The rule in the agent's Data API, such as `http://127.0.0.1:8181/v1/data/httpapi/authz`."""
    include_headers: tuple[FieldName, ...] = Field((), max_length=64)
    """The client's fields that the policy sees. Each is a text; repeats are joined by commas."""
    include_consumer: bool = True
    """Tell the policy the consumer: username, custom ID, groups."""
    include_route: bool = False
    """Tell the policy the route: name, tags, parameters of the path."""
    cache_ttl_s: int = Field(0, ge=0, le=3600)
    """How long a worker remembers a decision about an equal input. 0: it asks each time."""
    timeout_ms: int = Field(1000, ge=10, le=60_000)
    """How long the agent may take."""
    on_error: Literal["deny", "allow"] = "deny"
    """When there is no decision: refuse with 503, or let everything through."""


_NO = "You may not call this."


@dataclass(frozen=True, slots=True)
class Decision:
    allow: bool
    status: int = 403
    message: str = _NO
    fields: tuple[headers.Pair, ...] = ()


class Opa(Plugin):
    name = "opa"
    Config = OpaConfig
    config: OpaConfig

    def __init__(self, config: OpaConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._endpoint = Endpoint.of(config.url, config.timeout_ms / 1000)
        self._shown = [name.lower() for name in config.include_headers]
        self._remembered: OrderedDict[bytes, tuple[float, Decision]] = OrderedDict()

    async def access(self, exchange: Exchange) -> None:
        question = json.dumps({"input": self._input(exchange)}, separators=(",", ":")).encode()
        decision = self._known(question)
        if decision is None:
            decision = await self._asked(exchange, question)
        if decision is None:
            return
        if not decision.allow:
            exchange.detail = f"opa: {self._endpoint.upstream.name} said no"
            raise Reject(decision.status, "policy_denied", decision.message, headers=decision.fields)
        for name, value in decision.fields:
            headers.put(exchange.headers, name, value)

    async def _asked(self, exchange: Exchange, question: bytes) -> Decision | None:
        """None: no decision, and everything passes then."""
        try:
            reply = await self.resources.caller.call(self._endpoint, "POST", _JSON, question)
            decision = decision_of(reply)
        except (UpstreamError, ValueError) as error:
            reason = error.detail if isinstance(error, UpstreamError) else str(error)
            exchange.detail = f"opa: no decision from {self._endpoint.upstream.name}: {reason}"
            if self.config.on_error == "allow":
                return None
            raise AuthorizationUnavailable() from error
        if self.config.cache_ttl_s:
            self._remembered[_digest(question)] = self.resources.clock() + self.config.cache_ttl_s, decision
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        return decision

    def _known(self, question: bytes) -> Decision | None:
        if not self._remembered:
            return None
        ends_s, decision = self._remembered.get(_digest(question), (0.0, None))
        return decision if self.resources.clock() < ends_s else None

    def _input(self, exchange: Exchange) -> dict[str, Any]:
        request: dict[str, Any] = {
            "method": exchange.method,
            "path": exchange.path,
            "query": parse_qs(exchange.query.decode("latin-1"), keep_blank_values=True),
            "host": exchange.host,
            "scheme": exchange.scheme,
            "client_ip": exchange.client_ip,
            "headers": {name: value for name in self._shown if (value := _field(exchange, name)) is not None},
        }
        said: dict[str, Any] = {"request": {"http": request}}
        if self.config.include_consumer:
            said["consumer"] = (who := exchange.consumer) and {
                "username": who.username, "custom_id": who.custom_id, "groups": sorted(who.groups)
            }  # fmt: skip
        if self.config.include_route and exchange.route is not None:
            said["route"] = {
                "name": exchange.route.name, "tags": list(exchange.route.tags), "params": exchange.path_params
            }  # fmt: skip
        return said


_JSON = ((b"content-type", b"application/json"), (b"accept", b"application/json"))


def decision_of(reply: Reply) -> Decision:
    """Raises ValueError for what is none: an undefined rule, too, which must not be taken for a yes or a no."""
    if reply.status != 200:
        raise ValueError(f"status {reply.status}")
    try:
        document = json.loads(reply.body)
    except (ValueError, RecursionError):
        raise ValueError("no JSON") from None
    result = document.get("result") if isinstance(document, dict) else None
    if isinstance(result, bool):
        return Decision(result)
    if not isinstance(result, dict) or not isinstance(result.get("allow"), bool):
        raise ValueError("the rule is undefined, or neither true or false nor an object with `allow`")
    status, message, fields = (
        result.get("status", 403),
        result.get("message", _NO),
        result.get("headers", {}),
    )
    if not isinstance(status, int) or not 400 <= status <= 599 or not isinstance(message, str):
        raise ValueError("`status` is none from 400 to 599, or `message` no text")
    if not isinstance(fields, dict):
        raise ValueError("`headers` is no object")
    pairs = []
    for name, value in fields.items():
        check_pair(f"{name}:{value}")  # raises ValueError
        pairs.append((name.lower().encode(), str(value).encode()))
    return Decision(result["allow"], status, message, tuple(pairs))


def _field(exchange: Exchange, name: str) -> str | None:
    values = headers.get_all(exchange.headers, name.encode())
    return b", ".join(values).decode("latin-1") if values else None


def _digest(question: bytes) -> bytes:
    return hashlib.sha256(question).digest()
