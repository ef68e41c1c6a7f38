from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard

from gateway.plugins.compression import Compression, CompressionConfig, chosen
from gateway.plugins.registry import ConfigProblems
from gateway.proxy.errors import UpstreamError
from gateway.proxy.headers import get, get_all
from tests.proxy.gatewaying import Bench, request, route, setting, table, target, upstream
from tests.upstream import Wire, answering, serving

GZIP = [(b"accept-encoding", b"gzip, deflate")]
#: Makes what unpacks one chunk after another.
UNPACKERS: dict[str, Callable[[], Callable[[bytes], bytes]]] = {
    "gzip": lambda: zlib.decompressobj(31).decompress,
    "br": lambda: brotli.Decompressor().process,
    "zstd": lambda: zstandard.ZstdDecompressor().decompressobj().decompress,
}
TEXT = b"A quick brown fox jumps over the lazy dog. " * 100
JSON = [(b"content-type", b"application/json"), (b"content-length", b"5000")]


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        (b"gzip", True),
        (b"GZip;q=0.1", True),
        (b"br;q=1, x-gzip ; q=0.5", True),
        (b"*", True),
        (b"gzip;q=1,identity;q=1", True),
        (b"deflate, *;q=0.3", True),
        (b"identity", False),
        (b"gzip;q=0", False),
        (b"gzip;q=0.000, *", False),
        (b"*;q=0", False),
        (b"gzip;q=0.5, identity;q=0.8", False),
        (b"gzip;q=much", False),
        (b"gzipped", False),
        (b"br, deflate", False),
    ],
)
def test_what_clients_accept(value: bytes, accepted: bool) -> None:
    assert chosen(value, ("gzip",)) == ("gzip" if accepted else None)


@pytest.mark.parametrize(("value", "coding"), [
    (b"gzip, deflate, br, zstd", "zstd"),
    (b"gzip, br", "br"),
    (b"*", "zstd"),
    (b"gzip, *;q=0.5", "gzip"),
    (b"zstd;q=0, br;q=0, *", "gzip"),
    (b"br;q=0.4, gzip;q=0.3, identity;q=0.5", None),
    (b"deflate", None),
])  # fmt: skip
def test_the_most_welcome_coding_is_taken_and_ours_of_equals(value: bytes, coding: str | None) -> None:
    assert chosen(value, ("zstd", "br", "gzip")) == coding


def answered(make, exchange_of, answer, config=None, method="GET", asked=GZIP, status=200):
    plugin, exchange = make("compression", config), exchange_of(method, headers=asked, answer=answer, status=status)
    plugin.access(exchange)
    plugin.response(exchange)
    return exchange


@pytest.mark.parametrize(
    ("answer", "changes"),
    [
        (JSON, {}),
        ([(b"content-type", b"TEXT/HTML; charset=utf-8")], {}),
        ([(b"content-type", b"application/hal+json")], {}),
        (JSON, {"status": 404}),
        (JSON, {"method": "HEAD"}),
        ([(b"content-type", b"image/png")], {"config": {"types": ["image/png"]}}),
        ([(b"content-type", b"text/plain"), (b"content-length", b"1024")], {}),
        ([*JSON, (b"cache-control", b"max-age=5")], {"asked": [*GZIP, (b"cache-control", b"no-cache")]}),
    ],
)
def test_what_is_compressed(make, exchange_of, answer, changes) -> None:
    fields = answered(make, exchange_of, answer, **changes).response_headers
    assert get_all(fields, b"content-encoding") == [b"gzip"]
    assert get_all(fields, b"vary") == [b"Accept-Encoding"]
    assert get(fields, b"content-length") is None


@pytest.mark.parametrize(
    ("answer", "changes", "varies"),
    [
        (JSON, {"asked": []}, True),
        (JSON, {"asked": [(b"accept-encoding", b"deflate")]}, True),
        (JSON, {"asked": [*GZIP, (b"cache-control", b"no-transform")]}, True),
        ([*JSON, (b"cache-control", b"private, No-Transform")], {}, False),
        ([*JSON, (b"content-encoding", b"br")], {}, False),
        ([*JSON, (b"content-encoding", b"gzip")], {}, False),
        ([*JSON, (b"content-range", b"bytes 0-4999/9000")], {"status": 206}, False),
        ([*JSON, (b"content-digest", b"sha-256=:x:")], {}, False),
        ([(b"content-type", b"text/plain"), (b"content-length", b"1023")], {}, False),
        ([(b"content-type", b"text/event-stream")], {}, False),
        ([(b"content-type", b"text/event-stream; charset=utf-8")], {"config": {"types": ["*/*"]}}, False),
        ([(b"content-type", b"image/jpeg"), (b"content-length", b"50000")], {}, False),
        ([], {}, False),
        ([(b"content-type", b"text/html")], {"status": 204}, False),
        ([(b"content-type", b"text/html")], {"status": 304}, False),
        (JSON, {"config": {"types": ["text/*"]}}, False),
    ],
)
def test_what_is_left_alone(make, exchange_of, answer, changes, varies) -> None:
    exchange = answered(make, exchange_of, answer, **changes)
    vary = [(b"vary", b"Accept-Encoding")] if varies else []
    assert exchange.response_headers == [*answer, *vary]
    chunks = object()
    assert make("compression").body(exchange, chunks) is chunks


def test_vary_is_joined_and_said_once(make, exchange_of) -> None:
    for given, wanted in [
        (b"Origin", b"Origin, Accept-Encoding"),
        (b"accept-encoding", b"accept-encoding"),
        (b"*", b"*"),
    ]:
        exchange = answered(make, exchange_of, [*JSON, (b"vary", given)])
        assert get_all(exchange.response_headers, b"vary") == [wanted]


@pytest.mark.parametrize(("etag", "weak"), [(b'"a"', b'W/"a"'), (b'W/"a"', b'W/"a"')])
def test_another_representation_has_another_name_and_no_ranges(make, exchange_of, etag, weak) -> None:
    fields = answered(make, exchange_of, [*JSON, (b"etag", etag), (b"accept-ranges", b"bytes")]).response_headers
    assert get_all(fields, b"etag") == [weak]
    assert get(fields, b"accept-ranges") is None


@pytest.mark.parametrize(
    ("asked_by", "told"), [(b'W/"a"', b'W/"a"'), (b'"x", W/"a"', b'W/"a"'), (b'"a"', b'"a"'), (b"*", b'"a"')]
)
def test_a_304_keeps_the_name_the_client_knows(make, exchange_of, asked_by, told) -> None:
    asked = [*GZIP, (b"if-none-match", asked_by)]
    fields = answered(make, exchange_of, [(b"etag", b'"a"')], asked=asked, status=304).response_headers
    assert get_all(fields, b"etag") == [told]
    assert get(fields, b"content-encoding") is None


def test_the_answer_to_a_handshake_is_left_alone(make, exchange_of) -> None:
    plugin = make("compression")
    exchange = exchange_of(headers=GZIP, answer=JSON, status=403, notes={"websocket": True})
    plugin.access(exchange)
    plugin.response(exchange)
    assert get(exchange.response_headers, b"content-encoding") is None


def test_the_clients_own_word_counts_and_not_what_goes_upstream(make, exchange_of) -> None:
    plugin, exchange = make("compression"), exchange_of(headers=GZIP, answer=JSON, status=200)
    plugin.access(exchange)
    exchange.headers.clear()  # a request-transformer, so that the upstream does not compress
    plugin.response(exchange)
    assert get(exchange.response_headers, b"content-encoding") == b"gzip"


# --- bodies, over real connections ------------------------------------------------------------------------------------


def bench(port: int, **config: object) -> Bench:
    settings = [setting(Compression, config=CompressionConfig.model_validate(config))]
    return Bench(table([route("r")], [upstream("up", target(port))], [Compression], settings))


def whole(body: bytes, *fields: bytes) -> bytes:
    head = b"".join(field + b"\r\n" for field in (b"content-type: text/plain", *fields))
    return b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)


@pytest.mark.parametrize("size", [1024, 4300, 70_000, 1_000_000])
@pytest.mark.parametrize(("coding", "config"), [
    ("gzip", {"level": 1}), ("gzip", {"level": 9}), ("br", {"br_level": 0}), ("br", {"br_level": 7}),
    ("zstd", {"zstd_level": 1}), ("zstd", {"zstd_level": 12}),
])  # fmt: skip
async def test_the_same_bytes_come_out(size: int, coding: str, config: dict[str, int]) -> None:
    body = (TEXT * (size // len(TEXT) + 1))[:size]
    async with serving(answering(whole(body))) as up, bench(up.port, **config) as running:
        exchange, packed = await running.get("/", headers=[(b"accept-encoding", coding.encode())])
        plain, same = await running.get("/")
    assert get(exchange.response_headers or [], b"content-encoding") == coding.encode()
    assert UNPACKERS[coding]()(packed) == body
    assert coding != "gzip" or gzip.decompress(packed) == body  # to its very end
    assert len(packed) < size / 5
    assert exchange.bytes_out == len(packed)
    assert (same, get(plain.response_headers or [], b"content-length")) == (body, b"%d" % size)


async def test_a_head_is_answered_as_a_get_would_be() -> None:
    answer = whole(TEXT)
    async with serving(answering(answer[: -len(TEXT)])) as up, bench(up.port) as running:
        exchange, body = await running.get("/", method="HEAD", headers=GZIP)
    fields = exchange.response_headers or []
    assert (body, get(fields, b"content-encoding"), get(fields, b"content-length")) == (b"", b"gzip", None)


@pytest.mark.parametrize("coding", UNPACKERS)
@pytest.mark.parametrize("content_type", [b"text/plain", b"text/event-stream"])
async def test_a_stream_is_not_held_back(content_type: bytes, coding: str) -> None:
    """The upstream sends its second chunk when the first has come through."""
    through = asyncio.Event()

    async def slow(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n" % content_type)
        await wire.send(b"5\r\nfirst\r\n")
        await through.wait()
        await wire.send(b"6\r\nsecond\r\n0\r\n\r\n")

    async with serving(slow) as up, bench(up.port) as running:
        exchange = request("/", headers=[(b"accept-encoding", coding.encode())])
        await running.pipeline.handle(exchange)
        events = content_type == b"text/event-stream"
        assert (get(exchange.response_headers or [], b"content-encoding") is None) == events
        unpack, received = UNPACKERS[coding](), b""
        assert not isinstance(exchange.answer_body, bytes)
        async with asyncio.timeout(5):
            async for chunk in exchange.answer_body:
                received += chunk if events else unpack(chunk)
                if received == b"first":
                    through.set()
        await running.pipeline.finish(exchange, "ok")
    assert received == b"firstsecond"


async def test_an_answer_that_breaks_off_never_looks_whole() -> None:
    async def cut(wire: Wire) -> None:
        await wire.head()
        await wire.send(whole(b"x" * 200_000)[:150_000])
        wire.reset()

    async with serving(cut) as up, bench(up.port) as running:
        exchange, unpacker = request("/", headers=GZIP), zlib.decompressobj(31)
        await running.pipeline.handle(exchange)
        body = exchange.answer_body
        assert not isinstance(body, bytes)

        async def read() -> None:
            async for chunk in body:
                unpacker.decompress(chunk)

        with pytest.raises(UpstreamError):
            await read()
        await running.pipeline.finish(exchange, "upstream_broke")
    assert not unpacker.eof


async def test_others_have_their_turn_while_a_large_answer_is_compressed() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def chunks():
        yield b"x" * 1_000_000

    ticking = asyncio.create_task(other())
    await asyncio.sleep(0)
    before = turns
    plugin = Compression(CompressionConfig(), None)  # type: ignore[arg-type]
    packed = b"".join([chunk async for chunk in plugin._compressed(chunks(), "gzip", 1_000_000)])
    ticking.cancel()
    assert turns - before >= 30
    assert gzip.decompress(packed) == b"x" * 1_000_000


@pytest.mark.parametrize("config", [
    {"types": []}, {"types": ["json"]}, {"types": ["text/html; charset=utf-8"]}, {"types": ["Text/HTML"]}, {"level": 0},
    {"level": 10}, {"min_length": 0}, {"codings": []}, {"codings": ["deflate"]}, {"br_level": 10}, {"zstd_level": 0},
])  # fmt: skip
def test_what_cannot_work_is_refused(registry, config) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("compression", config)
