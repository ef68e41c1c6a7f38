"""body-transformer: changes JSON bodies by pointer or by jq, and turns forms into JSON and JSON into forms, both ways.

Phases   access, response
Fails    400 `body_unreadable` for a request's body that is not what its media type says or that no form can hold;
         413 `body_too_large`; an answer that cannot be read passes as it is. Where jq comes to no end in time, or does
         not take an answer: 503 or 502 `transform_failed`, or all passes as it is (`on_error`)
Compare  Kong's request-transformer-advanced and response-transformer-advanced (their `json` edits, here by JSON
         pointer instead of names with dots), and its jq (here in processes of its own, with a time limit)

Only bodies of the media type that the edits take are held in memory, and only on routes with this plugin. If answers
are to be changed, the upstream is asked for whole and plain ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Literal

from pydantic import Field, model_validator

from gateway.plugins import bodies, programs
from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.pointers import BodyEdits, Change
from gateway.proxy import headers
from gateway.proxy.errors import BodyTooLarge, Reject
from gateway.proxy.exchange import Exchange

_BODILESS = frozenset({101, 204, 205, 206, 304})
_STALE = headers.DIGESTS | {b"content-length", b"content-encoding", b"accept-ranges"}
#: What jq says itself may show the body, and this is for usage rows and logs.
_NOT_TAKEN = "body-transformer: the jq program does not take this body"


class BodyTransformerConfig(PluginConfig):
    request: BodyEdits = BodyEdits()
    """What is changed on the way to the upstream."""
    response: BodyEdits = BodyEdits()
    """What is changed on the way to the client."""
    max_body_bytes: int = Field(1_048_576, ge=1, le=104_857_600)
    """Largest body that is changed, before and after decoding. A larger request gets 413; a larger answer passes as it
    is."""
    timeout_ms: int = Field(500, ge=10, le=10_000)
    """How long a jq program may take for one body, with all waiting. Then its process is killed."""
    on_error: Literal["deny", "allow"] = "deny"
    """Where a jq program takes too long or makes too much, or does not take an answer. `allow`: the body passes as it
    was."""

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
            changed = await self._made(change, bodies.decoded(body, exchange.headers, limit), exchange)
        except bodies.TooLarge as error:
            raise BodyTooLarge(str(error)) from error
        except programs.Unavailable as error:
            exchange.detail = f"body-transformer: {error}"
            if self.config.on_error == "allow":
                return
            raise Reject(
                503, "transform_failed", "The body of this request could not be changed. Try again."
            ) from error
        except (bodies.Unreadable, programs.Refused) as error:
            if isinstance(error, programs.Refused):
                exchange.detail = _NOT_TAKEN
            raise Reject(400, "body_unreadable", f"The body of this request cannot be used. {error}") from error
        exchange.body, exchange.content_length = bodies.Whole(changed), len(changed)
        _describe(exchange.headers, change, len(changed))

    def response(self, exchange: Exchange) -> Awaitable[None] | None:
        return None if self._response is None else self._respond(exchange, self._response)

    async def _respond(self, exchange: Exchange, change: Change) -> None:
        fields = exchange.response_headers
        assert fields is not None
        if exchange.status in _BODILESS or headers.get(fields, b"content-encoding"):
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
            exchange.answer_body = await self._made(change, whole, exchange)
        except bodies.Unreadable as error:
            exchange.detail = f"body-transformer: the answer passed as it was. {error}"
        except (programs.Unavailable, programs.Refused) as error:
            exchange.detail = _NOT_TAKEN if isinstance(error, programs.Refused) else f"body-transformer: {error}"
            if self.config.on_error == "deny":
                status = 503 if isinstance(error, programs.Unavailable) else 502
                raise Reject(status, "transform_failed", "The upstream's answer could not be changed.") from error
        else:
            _describe(fields, change, len(exchange.answer_body))

    async def _made(self, change: Change, body: bytes, exchange: Exchange) -> bytes:
        """Raises Unreadable, and of a program Refused and Unavailable."""
        if not change.program:
            return change.made(body, exchange)
        text = change.before_program(body, exchange)
        async with self.resources.kept.use(programs.KEY, programs.Pool) as pool:
            said = await pool.run(change.program, text, self.config.timeout_ms / 1000, self.config.max_body_bytes)
        return change.after_program(said)

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
