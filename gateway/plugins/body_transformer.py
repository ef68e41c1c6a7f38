"""body-transformer: changes JSON bodies by pointer, and turns forms into JSON and JSON into forms, both ways.

Phases   access, response
Fails    400 `body_unreadable` for a request's body that is not what its media type says or that no form can hold;
         413 `body_too_large`; an answer that cannot be read passes as it is
Compare  Kong's request-transformer-advanced and response-transformer-advanced (their `json` edits, here by JSON
         pointer instead of names with dots); a jq program has no place here, for it could run without end

Only bodies of the media type that the edits take are held in memory, and only on routes with this plugin. If answers
are to be changed, the upstream is asked for whole and plain ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from pydantic import Field, model_validator

from gateway.plugins import bodies
from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.pointers import BodyEdits, Change
from gateway.proxy import headers
from gateway.proxy.errors import BodyTooLarge, Reject
from gateway.proxy.exchange import Exchange

_BODILESS = frozenset({101, 204, 205, 206, 304})
_STALE = headers.DIGESTS | {b"content-length", b"content-encoding", b"accept-ranges"}


class BodyTransformerConfig(PluginConfig):
    request: BodyEdits = BodyEdits()
    """What is changed on the way to the upstream."""
    response: BodyEdits = BodyEdits()
    """What is changed on the way to the client."""
    max_body_bytes: int = Field(1_048_576, ge=1, le=104_857_600)
    """Largest body that is changed, before and after decoding. A larger request gets 413; a larger answer passes as it
    is."""

    @model_validator(mode="after")
    def _does_something(self) -> BodyTransformerConfig:
        if self.request.idle and self.response.idle:
            raise ValueError("Nothing to do: give at least one edit for the request or the response.")
        return self


class BodyTransformer(Plugin):
    name = "body-transformer"
    Config = BodyTransformerConfig
    config: BodyTransformerConfig
    refuses = False

    def __init__(self, config: BodyTransformerConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._request = None if config.request.idle else Change(config.request)
        self._response = None if config.response.idle else Change(config.response)

    async def access(self, exchange: Exchange) -> None:
        if "websocket" in exchange.notes:
            return
        if self._response is not None:
            for name in (b"accept-encoding", b"range", b"if-range"):
                headers.remove(exchange.headers, name)
        change = self._request
        if change is None or not change.takes(bodies.media_type(exchange.headers)):
            return
        limit = self.config.max_body_bytes
        if not (body := await bodies.request_body(exchange, limit)):
            return
        try:
            changed = change.made(bodies.decoded(body, exchange.headers, limit), exchange)
        except bodies.TooLarge as error:
            raise BodyTooLarge(str(error)) from error
        except bodies.Unreadable as error:
            raise Reject(400, "body_unreadable", f"The body of this request cannot be used. {error}") from error
        exchange.body, exchange.content_length = bodies.once(changed), len(changed)
        _describe(exchange.headers, change, len(changed))

    async def response(self, exchange: Exchange) -> None:
        fields, change = exchange.response_headers, self._response
        assert fields is not None
        if change is None or exchange.status in _BODILESS or headers.get(fields, b"content-encoding"):
            return
        if not change.takes(bodies.media_type(fields)):
            return
        length = headers.get(fields, b"content-length")
        if length is not None and int(length) > self.config.max_body_bytes:
            exchange.detail = "body-transformer: the answer passed as it was, for it is too large"
        elif exchange.method == "HEAD":
            _describe(fields, change, None)
        else:
            await self._change(change, exchange, fields)

    async def _change(self, change: Change, exchange: Exchange, fields: headers.Pairs) -> None:
        whole = await self._whole(exchange)
        if not whole:
            return
        try:
            exchange.answer_body = change.made(whole, exchange)
        except bodies.Unreadable as error:
            exchange.answer_body = whole
            exchange.detail = f"body-transformer: the answer passed as it was. {error}"
        else:
            _describe(fields, change, len(exchange.answer_body))

    async def _whole(self, exchange: Exchange) -> bytes:
        """Empty if it is, and if it is too large: then it is left as it came."""
        chunks = exchange.answer_body
        if isinstance(chunks, bytes):
            return chunks
        held, size = [], 0
        async for chunk in chunks:
            held.append(chunk)
            size += len(chunk)
            if size > self.config.max_body_bytes:
                exchange.detail = "body-transformer: the answer passed as it was, for it is too large"
                exchange.answer_body = _with(held, chunks)
                return b""
        exchange.answer_body = b"".join(held)
        return exchange.answer_body


async def _with(held: list[bytes], chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in held:
        yield chunk
    async for chunk in chunks:
        yield chunk


def _describe(fields: headers.Pairs, change: Change, length: int | None) -> None:
    """The fields of a body that was changed. None: of a HEAD, for which nobody knows the length."""
    fields[:] = [
        (name, headers.weak(value) if name == b"etag" else value) for name, value in fields if name not in _STALE
    ]
    if length is not None:
        fields.append((b"content-length", b"%d" % length))
    if change.gives is not None:
        headers.put(fields, b"content-type", change.gives)
