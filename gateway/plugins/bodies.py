"""Whole bodies, for the plugins that must see all of one. Only routes that have such a plugin hold bodies in memory.

A body is read up to a limit, before and after decoding, so that neither a long stream nor a small file that unpacks to
gigabytes takes more.
"""

from __future__ import annotations

import json
import zlib
from codecs import BOM_UTF8
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from gateway.plugins.jq_helper import STRICT
from gateway.proxy import headers
from gateway.proxy.errors import BodyTooLarge
from gateway.proxy.exchange import Exchange
from gateway.proxy.messages import POSTED_BYTES, at_once


class Unreadable(ValueError):
    """A sentence for the client: the coding or the text cannot be read."""


class TooLarge(Unreadable):
    """Only when it is decoded."""


async def request_body(exchange: Exchange, limit: int) -> bytes:
    """Reads it, and leaves it to be sent as it came, also where it raises BodyTooLarge."""
    if exchange.body is None:
        return b""
    if (exchange.content_length or 0) > limit:
        raise _too_large(limit)
    body = at_once(exchange.body, min(limit, POSTED_BYTES))
    if body is None:
        chunks, size = [], 0
        async for chunk in exchange.body:
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                exchange.body = _begun(chunks, exchange.body)
                raise _too_large(limit)
        body = b"".join(chunks)
    exchange.body = Whole(body)
    return body


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is larger than the {limit} bytes that this route can look into.")


async def _begun(chunks: list[bytes], rest: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    while chunks:
        yield chunks.pop(0)
    async for chunk in rest:
        yield chunk


class Whole:
    """A body that is all there, as chunks: one, or none if it is empty."""

    __slots__ = ("_body",)

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __aiter__(self) -> Whole:
        return self

    async def __anext__(self) -> bytes:
        if body := self.at_once(len(self._body)):
            return body
        raise StopAsyncIteration

    def at_once(self, most: int) -> bytes | None:
        """See `gateway.proxy.messages.at_once`."""
        if len(self._body) > most:
            return None
        body, self._body = self._body, b""
        return body


def decoded(body: bytes, pairs: headers.Pairs, limit: int) -> bytes:
    """Without its gzip or deflate coding. Raises Unreadable: also when it would be larger than `limit`."""
    codings = b",".join(headers.get_all(pairs, b"content-encoding")).strip().lower()
    if codings in (b"", b"identity"):
        return body
    if codings not in (b"gzip", b"x-gzip", b"deflate"):
        raise Unreadable("Its content coding is neither gzip nor deflate.")
    unpacker = zlib.decompressobj(wbits=47)  # gzip or zlib, by their first bytes
    try:
        text = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise Unreadable("Its content coding is broken.") from error
    if len(text) > limit:
        raise TooLarge(f"Decoded, the body is larger than the {limit} bytes that this route can look into.")
    if not unpacker.eof or unpacker.unused_data:
        raise Unreadable("Its content coding is broken.")
    return text


def media_type(pairs: headers.Pairs) -> str:
    """In lower case, without parameters; "" if there is none."""
    return (headers.get(pairs, b"content-type") or b"").partition(b";")[0].strip().lower().decode("latin-1")


def is_json(media: str) -> bool:
    return media == "application/json" or media.endswith("+json")


def parsed(text: bytes) -> Any:
    """JSON by RFC 8259: no NaN, no number beyond a double, no endless nesting. Raises Unreadable."""
    try:
        return STRICT.decode(text.removeprefix(BOM_UTF8).decode())
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it cannot be represented"
        raise Unreadable(f"It is no valid JSON: {reason}.") from error
