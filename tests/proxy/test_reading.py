"""A head that was read before is not read again, and nothing comes out otherwise than when it was."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import httptools
import pytest

from gateway.proxy import reading
from gateway.proxy.answer import UpstreamAnswer
from gateway.proxy.headers import Lasting
from gateway.proxy.reading import MAX_KNOWN, MAX_KNOWN_BYTES, MAX_MET, Reader, Violation

HEAD = b"HTTP/1.1 200 OK\r\nDate: Sun, 29 Nov 2026 06:00:00 GMT\r\nContent-Length: 5\r\nX: a \r\nX: b\r\n\r\n"
OTHERS = {
    "200": HEAD,
    "404": b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\n",
    "keep-alive": b"HTTP/1.1 200 OK\r\nkeep-alive: timeout=5\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\n",
    "empty": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
    "closes": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\n",
    "1.0": b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n",
    "1.0 keeps": b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    "until the close": b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n",
    "cookie": b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\ncontent-length: 5\r\n\r\n",
    "interim": b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + HEAD,
    "interim with a length": b"HTTP/1.1 100 Continue\r\ncontent-length: 0\r\n\r\n" + HEAD,
    "blank line": b"\r\n" + HEAD,
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n",
    "large": b"HTTP/1.1 200 OK\r\nx: " + b"y" * MAX_KNOWN_BYTES + b"\r\ncontent-length: 5\r\n\r\n",
    "no head": b"SSH-2.0-OpenSSH\r\n\r\n",
}
BODIES = [
    [],
    [b"abcde"],
    [b"abc", b"de"],
    [b"ab"],
    [b"abcdefg"],
    [b"abcde", b"fg"],
    [HEAD],
    [b"5\r\nabcde\r\n0\r\n\r\n"],
]
REMEMBERED = {"200", "404", "keep-alive", "empty"}

Outcome = tuple[int, list[tuple[bytes, bytes]], bytes, bool, bool, float, str]


def forget() -> None:
    reading._known.clear()
    reading._met.clear()


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    forget()
    yield
    forget()


def read(packets: list[bytes], method: str = "GET") -> Outcome:
    """What a connection would see: it stops at a whole answer, and at an error."""
    reader, answer = Reader(), UpstreamAnswer(method, [], inf)
    reader._expect(answer)
    error = ""
    for packet in packets:
        if answer.complete:
            error = "after the answer"
            break
        try:
            reader._read(answer, packet)
        except (Violation, httptools.HttpParserError) as why:
            error = type(why).__name__
            break
    fields = [*answer.headers] if answer.status else []
    keep = reader._keep_alive and answer.complete and not error
    return answer.status, fields, b"".join(answer.chunks), answer.complete, keep, reader.keep_alive_hint_s, error


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("name", OTHERS)
def test_a_known_head_says_what_an_unknown_one_says(name: str, method: str) -> None:
    head = OTHERS[name]
    for body in BODIES:
        for packets in ([head, *body], [head + b"".join(body)], [head[:20], head[20:] + b"".join(body)]):
            forget()
            first = read(packets, method)
            for before in ("GET", "HEAD", "GET"):  # whatever was read before
                read([head + b"abcde"], before)
                read([head], before)
            assert read(packets, method) == first, (packets, bool(reading._known))


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_remembered(name: str) -> None:
    read([OTHERS[name] + b"abcde"])
    assert not reading._known  # it may never come again
    read([OTHERS[name] + b"abcde"])
    assert (name in REMEMBERED) == bool(reading._known)
    assert all(type(known.fields) is Lasting for known in reading._known.values())


def test_a_head_that_comes_in_pieces_is_not_remembered_in_pieces() -> None:
    for cut in range(1, len(HEAD)):
        for _ in range(2):
            read([HEAD[:cut], HEAD[cut:] + b"abcde"])
    assert not reading._known


def test_of_a_known_head_the_parser_hears_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first = read([HEAD + b"abcde"])
    read([HEAD + b"abcde"])
    monkeypatch.setattr(httptools, "HttpResponseParser", None)
    assert read([HEAD + b"abcde"]) == first
    assert read([HEAD, b"ab", b"cde"])[:4] == first[:4]


def test_so_many_heads_are_remembered_and_no_more() -> None:
    for number in range(MAX_MET + 10):
        for _ in range(2):
            read([b"HTTP/1.1 200 OK\r\nx: %d\r\ncontent-length: 0\r\n\r\n" % number])
        assert 0 < len(reading._known) <= MAX_KNOWN
        assert len(reading._met) <= MAX_MET
