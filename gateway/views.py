"""The doors: `proxy`, the async view that all traffic passes, and what the world may ask about our health."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from functools import cached_property
from http.cookies import SimpleCookie
from time import perf_counter, time
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase, ResponseHeaders

from gateway import runtime
from gateway.proxy import metrics
from gateway.proxy.errors import ClientClosed, UpstreamError
from gateway.proxy.exchange import Exchange
from gateway.proxy.headers import Given
from gateway.proxy.messages import at_once
from gateway.proxy.pipeline import Pipeline

# --- traffic ----------------------------------------------------------------------------------------------------------


async def proxy(request: HttpRequest) -> ProxyResponse:
    """Every request that is not for the control plane. Needs an ASGI request; a WSGI server cannot stream both ways."""
    assert isinstance(request, ASGIRequest), "The proxy view needs an ASGI server."
    current = runtime.current()
    if not current.started:
        # A plain ASGI mount has no life cycle of ours: the first request begins it, and must not end it by leaving.
        await asyncio.shield(asyncio.ensure_future(current.start()))
    exchange = exchange_of(request)
    try:
        await current.pipeline.handle(exchange)
    except BaseException:  # cancelled: the client is gone
        await current.pipeline.finish(exchange, "client_closed")
        raise
    return ProxyResponse(exchange, current.pipeline)


def exchange_of(request: ASGIRequest) -> Exchange:
    """Read from the scope: Django's own properties decode and copy, at many times the cost."""
    scope = request.scope
    client, server = scope.get("client"), scope.get("server")
    exchange = Exchange(
        method=scope["method"],
        raw_path=scope.get("raw_path") or scope["path"].encode(),
        query=scope["query_string"],
        headers=scope["headers"],
        scheme=scope["scheme"],
        peer_ip=client[0] if client else "",
        port=int(server[1] or 0) if server else 0,
        started_s=perf_counter(),
        wall_s=time(),
    )
    if "hydragate.certificate" in scope:
        exchange.certificate = scope["hydragate.certificate"]
    exchange.hints = getattr(request, "early_hints", None)
    fields = exchange.headers
    for name, value in () if type(fields) is Given and fields.bodiless else fields:
        if name == b"content-length":
            exchange.content_length = int(value)
            if exchange.content_length:
                exchange.body = ClientBody(request)
        elif name == b"transfer-encoding":
            exchange.body = ClientBody(request)
    return exchange


class ClientBody:
    """The request's body as it arrives; from Django's own buffer where a stock handler has read it already."""

    __slots__ = ("_more", "_receive", "_request")

    def __init__(self, request: ASGIRequest) -> None:
        self._request = request
        self._receive = getattr(request, "receive", None)  # a ProxyRequest's
        self._more = True

    def __aiter__(self) -> ClientBody:
        return self

    async def __anext__(self) -> bytes:
        if self._receive is None:
            if chunk := self._request.read(65_536):
                return chunk
            raise StopAsyncIteration
        while self._more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientClosed()
            self._more = message.get("more_body", False)
            if chunk := message.get("body", b""):
                return chunk
        raise StopAsyncIteration

    def at_once(self, most: int) -> bytes | None:
        """See `gateway.proxy.messages.at_once`."""
        body = at_once(self._request, most)
        if body is not None:
            self._more = False
        return body


class ProxyResponse(HttpResponseBase):
    """An answer as raw header pairs and chunks: two `Set-Cookie` stay two, and nothing is added or re-encoded.

    ProxyHandler sends it as it is. Under Django's own handler it behaves as a streaming response; only then the
    machinery of the base class is built, for whichever middleware asks for it.
    """

    streaming = True
    is_async = True
    _handler_class = None

    def __init__(self, exchange: Exchange, pipeline: Pipeline) -> None:
        self.exchange = exchange
        self.pipeline = pipeline
        self.status_code = exchange.status

    headers: Any = cached_property(lambda self: ResponseHeaders({}))
    cookies: Any = cached_property(lambda self: SimpleCookie())
    _resource_closers: Any = cached_property(lambda self: [])
    closed = False
    _reason_phrase = None
    _charset = "utf-8"

    def items(self) -> Any:
        pairs = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in self.exchange.response_headers or ()
        ]
        return [*pairs, *self.headers.items()]

    streaming_content = cached_property(lambda self: self.chunks())  # middleware may wrap it

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self.streaming_content:
            yield chunk

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body; ends the exchange when it ends, in whatever way."""
        exchange, outcome = self.exchange, "client_closed"
        try:
            body = exchange.answer_body
            if isinstance(body, bytes):
                exchange.bytes_out = len(body)
                if body:
                    yield body
            else:
                async for chunk in body:
                    exchange.bytes_out += len(chunk)
                    yield chunk
            outcome = "ok"
        except UpstreamError as error:
            outcome, exchange.detail = error.outcome, error.detail
            raise
        except Exception:
            outcome = "internal_error"
            raise
        finally:
            await self.pipeline.finish(exchange, outcome)


# --- health -----------------------------------------------------------------------------------------------------------


def health(request: HttpRequest) -> HttpResponse:
    """Alive: this process answers. Says nothing about what it can do."""
    return _state(200, {"status": "ok"})


def ready(request: HttpRequest) -> HttpResponse:
    """Ready for traffic: a configuration is loaded, no drain has begun. Outages behind us are `degraded`, not down."""
    state = runtime.current().readiness()
    return _state(503 if state["status"] == "unready" else 200, state)


def status(request: HttpRequest) -> HttpResponse:
    """What this worker knows of itself, of its configuration and of the parts around it."""
    return _state(200, runtime.current().status())


def metrics_view(request: HttpRequest) -> HttpResponse:
    """All processes of this node, in Prometheus' text format."""
    return HttpResponse(metrics.exposition(), content_type=metrics.CONTENT_TYPE)


def _state(code: int, state: dict[str, Any]) -> JsonResponse:
    response = JsonResponse(state, status=code, json_dumps_params={"indent": 2}, encoder=json.JSONEncoder)
    response["Cache-Control"] = "no-store"
    return response
