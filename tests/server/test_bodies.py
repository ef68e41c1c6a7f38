"""Request bodies: where they end, however they are cut into packets, and which are refused."""

from __future__ import annotations

import pytest

from gateway.proxy.errors import GatewayError
from gateway.server.bodies import Chunked, Sized
from gateway.server.limits import Limits

WHOLE = [
    (b"0\r\n\r\n", b""),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world"),
    (b"00a;x=1\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n\r\n\r\n\r\n"),
    (b'1 ; a="b c"\r\nx\r\n0;z\r\n\r\n', b"x"),
    (b"1\r\nx\r\n0\r\nChecksum: 1\r\nB:\r\n\r\n", b"x"),
]
BROKEN = [
    b"\r\n", b"g\r\n", b"-1\r\n", b"+1\r\n", b"0x1\r\n", b" 1\r\n", b"1 \r\n", b"1\n", b"1;a\n", b"1;\x00\r\n",
    b"1_0\r\n", b"1\r\nxy", b"1\r\nx\n", b"1\r\nx\r0", b"1\r\nxx\r\n", b"f" * 16 + b"\r\n", b"f" * 2000,
    b"1;" + b"a" * 2000 + b"\r\n",
    b"0\r\n X: 1\r\n\r\n", b"0\r\nX : 1\r\n\r\n", b"0\r\nX: 1\nY: 2\r\n\r\n", b"0\r\nX\r\n\r\n",
    b"0\r\nX: " + b"a" * 9000, b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n" * 600,
]  # fmt: skip


@pytest.mark.parametrize(("data", "body"), WHOLE)
@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_a_chunked_body_is_the_same_in_any_packets(data: bytes, body: bytes, step: int) -> None:
    reader, read = Chunked(Limits()), b""
    for at in range(0, len(data), step):
        piece, rest = reader.feed(data[at : at + step])
        read += piece
        assert (rest is not None) == (at + step >= len(data))
    assert (read, rest) == (body, b"")


@pytest.mark.parametrize(("data", "body"), WHOLE)
def test_what_follows_a_chunked_body_is_given_back(data: bytes, body: bytes) -> None:
    assert Chunked(Limits()).feed(data + b"GET /") == (body, b"GET /")


@pytest.mark.parametrize("data", BROKEN, ids=[repr(data)[2:40] for data in BROKEN])
@pytest.mark.parametrize("step", [1, 100_000])
def test_broken_chunks_are_refused(data: bytes, step: int) -> None:
    reader = Chunked(Limits())
    with pytest.raises(GatewayError) as refusal:  # noqa: PT012
        for at in range(0, len(data), step):
            reader.feed(data[at : at + step])
    assert refusal.value.status == 400


def test_a_chunked_body_is_bounded_by_what_it_announces() -> None:
    reader = Chunked(Limits(max_body_bytes=10))
    reader.feed(b"9\r\n123456789\r\n")
    with pytest.raises(GatewayError) as refusal:
        reader.feed(b"2\r\n")
    assert refusal.value.status == 413


def test_many_small_plain_chunks_are_no_attack() -> None:
    body, rest = Chunked(Limits()).feed(b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
    assert (len(body), rest) == (20_000, b"")


def test_a_sized_body_ends_where_it_said() -> None:
    reader = Sized(5)
    assert reader.feed(b"abc") == (b"abc", None)
    assert reader.feed(b"defgh") == (b"de", b"fgh")
    assert Sized(2).feed(b"ab") == (b"ab", b"")
