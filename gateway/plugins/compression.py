"""compression: sends answers packed (zstd, br, gzip) to those who can read it, as they come.

Phases   access, response, body
Fails    never: what should not be compressed passes as it is
Compare  Kong's nginx directives (`gzip`, `gzip_types`, `gzip_min_length`, `gzip_comp_level`), here for each route

An answer is left alone if it is encoded already, a part (206), without a body, too small, an event stream, of a type
that is not listed, or if its upstream or its client says `no-transform`. A compressed one is another representation:
its ETag becomes weak and it takes no ranges (RFC 9110 §8.8.1, §14.3).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Annotated

from pydantic import Field, StringConstraints

from gateway.plugins import packers
from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.packers import Coding, Packer
from gateway.proxy import headers
from gateway.proxy.exchange import Exchange

SLICE_BYTES = 32_768  # compressed at one go, less than a millisecond; then others have their turn
MAX_REMEMBERED = 1000
MediaType = Annotated[str, StringConstraints(pattern=r"^[a-z0-9!#$&^_.+*-]+/[a-z0-9!#$&^_.+*-]+$", max_length=128)]

_BODILESS = frozenset({101, 204, 205, 206, 304})
_EVENTS = b"text/event-stream"


class CompressionConfig(PluginConfig):
    types: tuple[MediaType, ...] = Field(
        (
            "text/*", "application/json", "application/*+json", "application/javascript", "application/xml",
            "application/*+xml", "application/wasm", "application/x-ndjson", "image/svg+xml",
        ),
        min_length=1, max_length=100,
    )  # fmt: skip
    """Media types that are compressed, without parameters; `*` stands for any text. Event streams never are."""
    min_length: int = Field(1024, ge=20, le=1_073_741_824)
    """Smaller answers stay as they are: one packet is one packet. One whose length is not known is compressed."""
    codings: tuple[Coding, ...] = Field(("zstd", "br", "gzip"), min_length=1, max_length=3)
    """Which there are. Of those that a client likes equally, the first is taken."""
    level: int = Field(4, ge=1, le=9)
    """Of gzip: 1 is the fastest, 9 the smallest."""
    br_level: int = Field(4, ge=0, le=9)
    """Of br: 0 is the fastest, 9 the smallest. Above it a slice takes so long that others would notice."""
    zstd_level: int = Field(3, ge=1, le=12)
    """Of zstd: 1 is the fastest, 12 the smallest. Above it a slice takes so long that others would notice."""


class Compression(Plugin):
    name = "compression"
    Config = CompressionConfig
    config: CompressionConfig
    refuses = False

    def __init__(self, config: CompressionConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._listed: dict[bytes, bool] = {}  # Content-Type → whether it is among `types`
        self._levels = {"gzip": config.level, "br": config.br_level, "zstd": config.zstd_level}
        self._whole = {coding: packers.whole(coding, self._levels[coding]) for coding in config.codings}

    def access(self, exchange: Exchange) -> None:
        """What the client says of itself, before another plugin changes what the upstream is told."""
        accepted = b",".join(headers.get_all(exchange.headers, b"accept-encoding"))
        refuses = not accepted or "websocket" in exchange.notes or _no_transform(exchange.headers)
        exchange.notes[self] = None if refuses else chosen(accepted, self.config.codings)

    def response(self, exchange: Exchange) -> None:
        fields = exchange.response_headers
        assert fields is not None
        coding: Coding | None = exchange.notes.pop(self, None)
        if exchange.status == 304:
            _match(exchange.headers, fields)
        length = headers.get(fields, b"content-length")
        if exchange.status in _BODILESS or not self._compressible(fields):
            return
        if length is not None and int(length) < self.config.min_length:
            return
        headers.vary(fields, b"Accept-Encoding")
        if coding is None:
            return
        fields[:] = [
            (name, headers.weak(value) if name == b"etag" else value)
            for name, value in fields
            if name not in (b"content-length", b"accept-ranges")
        ]
        fields.append((b"content-encoding", coding.encode()))
        if exchange.method != "HEAD":
            exchange.notes[self] = coding, None if length is None else int(length)

    def body(self, exchange: Exchange, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        if self not in exchange.notes:
            return chunks
        return self._compressed(chunks, *exchange.notes[self])

    async def _compressed(
        self, chunks: AsyncIterator[bytes], coding: Coding, length: int | None
    ) -> AsyncIterator[bytes]:
        """`length`: None may be a stream, whose every chunk somebody waits for."""
        packer: Packer | None = None
        async for chunk in chunks:
            if packer is None:
                if len(chunk) == length and length <= SLICE_BYTES:
                    yield self._whole[coding](chunk)
                    return
                packer = packers.of(coding, self._levels[coding])
            for start in range(0, len(chunk), SLICE_BYTES):
                if start:
                    await asyncio.sleep(0)
                if packed := packer.pack(chunk[start : start + SLICE_BYTES]):
                    yield packed
            if length is None and (packed := packer.flush()):
                yield packed
        yield (packer or packers.of(coding, self._levels[coding])).finish()

    def _compressible(self, fields: headers.Pairs) -> bool:
        content_type = b""
        for name, value in fields:
            if name == b"content-type":
                content_type = value
            elif name in (b"content-encoding", b"content-range") or name in headers.DIGESTS:
                return False
        listed = self._listed.get(content_type)
        if listed is None:
            listed = self._lists(content_type)
            if len(self._listed) >= MAX_REMEMBERED:
                self._listed.clear()
            self._listed[content_type] = listed
        return listed and not _no_transform(fields)

    def _lists(self, content_type: bytes) -> bool:
        media_type = content_type.partition(b";")[0].strip().lower()
        return media_type != _EVENTS and any(fnmatchcase(media_type.decode("latin-1"), t) for t in self.config.types)


@lru_cache(maxsize=1024)
def chosen(accepted: bytes, codings: tuple[Coding, ...]) -> Coding | None:
    """The most welcome of `codings`, the first of equals. None if the plain answer is more so (RFC 9110 §12.5.3)."""
    weights: dict[bytes, float] = {}
    for member in accepted.lower().split(b","):
        coding, *parameters = (part.strip() for part in member.split(b";"))
        weights[b"gzip" if coding == b"x-gzip" else coding] = _weight(parameters)
    others = weights.get(b"*", 0.0)
    best = max(codings, key=lambda coding: weights.get(coding.encode(), others))  # the first, of equals
    weight = weights.get(best.encode(), others)
    return best if weight > 0 and weight >= weights.get(b"identity", 0.0) else None


def _weight(parameters: list[bytes]) -> float:
    """0 for what is no weight: who is not understood gets the plain answer."""
    for parameter in parameters:
        name, _, number = parameter.partition(b"=")
        if name.strip() == b"q":
            try:
                return min(max(float(number), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0


def _no_transform(fields: headers.Pairs) -> bool:
    return any(b"no-transform" in value.lower() for value in headers.get_all(fields, b"cache-control"))


def _match(asked: headers.Pairs, fields: headers.Pairs) -> None:
    """A client that holds a compressed answer, which it knows by the weak name, keeps it under that name."""
    etag = headers.get(fields, b"etag")
    if etag is not None and any(headers.weak(etag) in value for value in headers.get_all(asked, b"if-none-match")):
        headers.put(fields, b"etag", headers.weak(etag))
        headers.vary(fields, b"Accept-Encoding")
