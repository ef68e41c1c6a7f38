"""request-termination: answers in the place of the upstream: out of order, a mock, or an echo of the request.

Phases   access
Fails    `request_terminated` with `status_code`, which is the point; never by itself
Compare  Kong's request-termination (same field names; an echo shows neither cookies nor credentials, and no body)

It runs after all that may refuse or change a request, so an echo shows what the upstream would have been sent.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field, model_validator

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.proxy import headers, query
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Answer, Exchange

_BODILESS = (204, 205, 304)
_UNSHOWN = frozenset({b"cookie", b"authorization"})  # else a script could read what its browser keeps from it
_HIDDEN = "(hidden)"
_JSON = "application/json"


class RequestTerminationConfig(PluginConfig):
    status_code: int = Field(503, ge=200, le=599)
    """Status of the answer."""
    message: str = Field("", max_length=1000)
    """One sentence, for an answer in the gateway's own format. Not together with `body`."""
    body: str = Field("", max_length=65_536)
    """The whole body, as it is sent. Not together with `message`."""
    content_type: str = Field("", max_length=128, pattern=r"^([A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+[ -~]*)?$")
    """Of `body`. Empty: `application/json` if it is JSON, else `text/plain`."""
    trigger: str = Field("", max_length=64, pattern=r"^[A-Za-z0-9_-]*$")
    """Only requests with a header or a query parameter of this name are answered here. Empty: all."""
    echo: bool = False
    """Answer with what the upstream would have been sent, as JSON."""

    @model_validator(mode="after")
    def _has_one_body(self) -> RequestTerminationConfig:
        given = [name for name, there in (("message", self.message), ("body", self.body), ("echo", self.echo)) if there]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} cannot be one answer; choose one.")
        if given and self.status_code in _BODILESS:
            raise ValueError(f"An answer with status {self.status_code} has no body; leave out {given[0]}.")
        if self.content_type and not self.body:
            raise ValueError("content_type goes with body.")
        return self


class RequestTermination(Plugin):
    name = "request-termination"
    Config = RequestTerminationConfig
    config: RequestTerminationConfig

    def __init__(self, config: RequestTerminationConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._header, self._parameter = config.trigger.lower().encode(), config.trigger.encode()
        self._body, self._type = config.body.encode(), config.content_type or _type_of(config.body)
        if config.status_code < 400 and config.message:
            self._body, self._type = json.dumps({"message": config.message}).encode(), _JSON

    def access(self, exchange: Exchange) -> Answer | None:
        if self._header and not self._triggers(exchange):
            return None
        status = self.config.status_code
        if self.config.echo:
            return _answer(status, _JSON, json.dumps(_echo(exchange), indent=2).encode())
        if self._body:
            return _answer(status, self._type, self._body)
        if status < 400:
            return Answer(status)
        exchange.detail = "request-termination: out of order, as it was set"
        raise Reject(status, "request_terminated", self.config.message or "This is out of order at the moment.")

    def _triggers(self, exchange: Exchange) -> bool:
        if headers.get(exchange.headers, self._header) is not None:
            return True
        return bool(exchange.query) and query.has(exchange.query, self._parameter)


def _answer(status: int, content_type: str, body: bytes) -> Answer:
    return Answer(status, [(b"content-type", content_type.encode())], body)


def _type_of(body: str) -> str:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return "text/plain; charset=utf-8"
    return _JSON


def _echo(exchange: Exchange) -> dict[str, Any]:
    path = exchange.raw_path if exchange.upstream_path is None else exchange.upstream_path
    asked = exchange.query if exchange.upstream_query is None else exchange.upstream_query
    consumer = exchange.consumer
    return {
        "method": exchange.method,
        "scheme": exchange.scheme,
        "host": exchange.host,
        "path": path.decode("latin-1"),
        "query": asked.decode("latin-1"),
        "headers": [
            [name.decode("latin-1"), _HIDDEN if name in _UNSHOWN else value.decode("latin-1")]
            for name, value in exchange.headers
        ],
        "client_ip": exchange.client_ip,
        "request_id": exchange.id,
        "route": exchange.route.name if exchange.route else None,
        "params": exchange.path_params,
        "consumer": consumer.username if consumer else None,
    }
