"""The one reading of a request head: what it accepts, what it refuses, and that llhttp agrees on the accepted."""

from __future__ import annotations

import dataclasses

import httptools
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from gateway.proxy.errors import GatewayError
from gateway.server import head
from gateway.server.limits import Limits

H = b"Host: a.test\r\n"


def read(data: bytes, **limits: int) -> head.Head:
    return head.read(data, len(data), Limits(**limits))


def with_fields(fields: bytes, line: bytes = b"POST / HTTP/1.1") -> bytes:
    return line + b"\r\n" + fields + b"\r\n"


REFUSED = [
    # request line
    (b"GET /\r\n\r\n", "bad_request"),
    (b"GET  / HTTP/1.1\r\n" + H + b"\r\n", "bad_path"),
    (b"GET / HTTP/1.1 \r\n" + H + b"\r\n", "bad_request"),
    (b"GET\t/ HTTP/1.1\r\n" + H + b"\r\n", "bad_request"),
    (b" GET / HTTP/1.1\r\n" + H + b"\r\n", "bad_request"),
    (b"G@T / HTTP/1.1\r\n" + H + b"\r\n", "bad_request"),
    (b"GET / http/1.1\r\n" + H + b"\r\n", "bad_request"),
    (b"GET / HTTP/1.10\r\n" + H + b"\r\n", "bad_request"),
    (b"GET / HTTP/1.2\r\n" + H + b"\r\n", "http_version_not_supported"),
    (b"GET / HTTP/0.9\r\n" + H + b"\r\n", "http_version_not_supported"),
    (b"GET / HTTP/3.0\r\n" + H + b"\r\n", "http_version_not_supported"),
    (b"PRI * HTTP/2.0\r\n\r\n", "http_version_not_supported"),
    (b"CONNECT a.test:443 HTTP/1.1\r\n" + H + b"\r\n", "method_not_allowed"),
    (b"TRACE / HTTP/1.1\r\n" + H + b"\r\n", "method_not_allowed"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "bad_request"),
    # target
    (b"GET /a b HTTP/1.1\r\n" + H + b"\r\n", "bad_path"),
    (b"GET /a\tb HTTP/1.1\r\n" + H + b"\r\n", "bad_path"),
    (b"GET /a\x00b HTTP/1.1\r\n" + H + b"\r\n", "bad_path"),
    (b"GET /a\x7fb HTTP/1.1\r\n" + H + b"\r\n", "bad_path"),
    (b"GET /a\nb HTTP/1.1\r\n" + H + b"\r\n", "bad_request"),
    (b"GET /\xc3\xa4 HTTP/1.1\r\n" + H + b"\r\n", "bad_path"),
    (b"GET /a#b HTTP/1.1\r\n" + H + b"\r\n", "bad_path"),
    (b"GET a HTTP/1.1\r\n" + H + b"\r\n", "bad_path"),
    (b"GET ?a HTTP/1.1\r\n" + H + b"\r\n", "bad_path"),
    (b"GET * HTTP/1.1\r\n" + H + b"\r\n", "bad_path"),
    (b"OPTIONS ** HTTP/1.1\r\n" + H + b"\r\n", "bad_path"),
    (b"GET a.test:80 HTTP/1.1\r\n" + H + b"\r\n", "bad_path"),
    (b"GET ftp://a.test/ HTTP/1.1\r\n" + H + b"\r\n", "bad_path"),
    (b"GET http:///a HTTP/1.1\r\n" + H + b"\r\n", "bad_path"),
    (b"GET http://u:p@a.test/ HTTP/1.1\r\n" + H + b"\r\n", "bad_path"),
    (b"GET http://a.test/#b HTTP/1.1\r\n" + H + b"\r\n", "bad_path"),
    # Host
    (b"GET / HTTP/1.1\r\n\r\n", "bad_request"),
    (with_fields(H + H), "bad_request"),
    (with_fields(H + b"host: b.test\r\n"), "bad_request"),
    (with_fields(b"Host: \r\n"), "bad_request"),
    (with_fields(b"Host: a b\r\n"), "bad_request"),
    (with_fields(b"Host: a.test, b.test\r\n"), "bad_request"),
    (with_fields(b"Host: a.test/x\r\n"), "bad_request"),
    (with_fields(b"Host: u@a.test\r\n"), "bad_request"),
    (with_fields(b"Host: a.test:8x\r\n"), "bad_request"),
    (with_fields(b"Host: a.test:123456\r\n"), "bad_request"),
    (with_fields(b"Host: [::1\r\n"), "bad_request"),
    (with_fields(b"Host: \xc3\xa4.test\r\n"), "bad_request"),
    (with_fields(b"Host: a b\r\n", b"GET / HTTP/1.0"), "bad_request"),
    # fields
    (with_fields(H + b"X : a\r\n"), "bad_request"),
    (with_fields(H + b": a\r\n"), "bad_request"),
    (with_fields(H + b"X\r\n"), "bad_request"),
    (with_fields(H + b"X(: a\r\n"), "bad_request"),
    (with_fields(H + b"X\x00: a\r\n"), "bad_request"),
    (with_fields(H + b"X\xc3\xa4: a\r\n"), "bad_request"),
    (with_fields(H + b"X: a\r\n b\r\n"), "bad_request"),
    (with_fields(H + b"X: a\r\n\tb\r\n"), "bad_request"),
    (with_fields(b" X: a\r\n" + H), "bad_request"),
    (with_fields(H + b"X: a\nY: b\r\n"), "bad_request"),
    (with_fields(H + b"X: a\rY: b\r\n"), "bad_request"),
    (with_fields(H + b"X: a\r\r\n"), "bad_request"),
    (with_fields(H + b"X: a\n\r\n"), "bad_request"),
    (with_fields(H + b"X: a\x00b\r\n"), "bad_request"),
    (with_fields(H + b"X: a\x0bb\r\n"), "bad_request"),
    (with_fields(H + b"X: \x7f\r\n"), "bad_request"),
    (with_fields(H + b"X: \x1b[2J\r\n"), "bad_request"),
    # framing
    (with_fields(H + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), "bad_request"),
    (with_fields(H + b"Content-Length: 1\r\nContent-Length: 2\r\n"), "bad_request"),
    (with_fields(H + b"Content-Length: 1\r\nContent-Length: 1\r\n"), "bad_request"),
    (with_fields(H + b"Content-Length: 1, 1\r\n"), "bad_request"),
    (with_fields(H + b"Content-Length: +1\r\n"), "bad_request"),
    (with_fields(H + b"Content-Length: -1\r\n"), "bad_request"),
    (with_fields(H + b"Content-Length: 1_0\r\n"), "bad_request"),
    (with_fields(H + b"Content-Length: 0x1\r\n"), "bad_request"),
    (with_fields(H + b"Content-Length: 1.0\r\n"), "bad_request"),
    (with_fields(H + b"Content-Length:\r\n"), "bad_request"),
    (with_fields(H + b"Content-Length: \xb2\r\n"), "bad_request"),
    (with_fields(H + b"Content-Length: " + b"9" * 30 + b"\r\n"), "bad_request"),
    (with_fields(H + b"Transfer-Encoding: chunked\r\n", b"POST / HTTP/1.0"), "bad_request"),
    (with_fields(H + b"Transfer-Encoding: chunked, chunked\r\n"), "bad_request"),
    (with_fields(H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), "bad_request"),
    (with_fields(H + b"Transfer-Encoding: chunked, gzip\r\n"), "bad_request"),
    (with_fields(H + b"Transfer-Encoding:\r\n"), "bad_request"),
    (with_fields(H + b"Transfer-Encoding: gzip\r\n"), "transfer_coding_unknown"),
    (with_fields(H + b"Transfer-Encoding: gzip, chunked\r\n"), "transfer_coding_unknown"),
    (with_fields(H + b"Transfer-Encoding: identity\r\n"), "transfer_coding_unknown"),
    (with_fields(H + b"Transfer-Encoding: xchunked\r\n"), "transfer_coding_unknown"),
    (with_fields(H + b"Transfer-Encoding: \"chunked\"\r\n"), "transfer_coding_unknown"),
    (with_fields(H + b"Content-Length: 3\r\nExpect: a-pony\r\n"), "expectation_failed"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "code"), REFUSED, ids=[repr(data)[2:60] for data, _ in REFUSED])
def test_what_is_not_valid_http_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(GatewayError) as refusal:
        read(data)
    assert refusal.value.code == code


@pytest.mark.parametrize(
    ("target", "host", "reduced"),
    [
        (b"http://b.test", b"b.test", b"/"),
        (b"HTTP://b.test:81/x?y=1", b"b.test:81", b"/x?y=1"),
        (b"https://[::1]:1?y", b"[::1]:1", b"/?y"),
    ],
)
def test_authority_of_an_absolute_target_replaces_host(target: bytes, host: bytes, reduced: bytes) -> None:
    request = read(b"GET " + target + b" HTTP/1.1\r\nHost: a.test\r\nX: 1\r\n\r\n")
    assert (request.target, request.headers) == (reduced, [(b"host", host), (b"x", b"1")])


@pytest.mark.parametrize("target", [b"*", b"http://a.test"])
def test_options_of_the_whole_server(target: bytes) -> None:
    assert read(b"OPTIONS " + target + b" HTTP/1.1\r\n" + H + b"\r\n").path == "*"


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/a/b", "/a/b"),
        (b"/%C3%A4", "/ä"),
        (b"/%ff", "/\ufffd"),
        (b"/a%2Fb", "/a/b"),
        (b"/100%", "/100%"),
        (b"//x", "//x"),
    ],
)
def test_path_is_decoded_and_kept_raw(raw: bytes, path: str) -> None:
    request = read(b"GET " + raw + b"?q=%20 HTTP/1.1\r\n" + H + b"\r\n")
    assert (request.path, request.raw_path, request.query) == (path, raw, b"q=%20")


def test_optional_whitespace_goes_and_repeats_stay() -> None:
    request = read(with_fields(H + b"Cookie:a=1\r\nCOOKIE: \t b=2 \t\r\nX:\r\n"))
    assert request.headers[1:] == [(b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"x", b"")]


@pytest.mark.parametrize(
    ("version", "connection", "keep"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Close", False),
        (b"1.1", b"x, close", False),
        (b"1.0", b"", False),
        (b"1.0", b"Keep-Alive", True),
        (b"1.0", b"keep-alive, close", False),
    ],
)
def test_persistence(version: bytes, connection: bytes, keep: bool) -> None:
    data = b"GET / HTTP/" + version + b"\r\n" + H + b"Connection: " + connection + b"\r\n\r\n"
    assert read(data).keep_alive is keep


def test_limits() -> None:
    line = b"GET /" + b"a" * 94 + b" HTTP/1.1"
    assert read(line + b"\r\n" + H + b"\r\n", max_line_bytes=len(line)).method == "GET"
    with pytest.raises(GatewayError, match="longer") as refusal:
        read(line + b"\r\n" + H + b"\r\n", max_line_bytes=len(line) - 1)
    assert refusal.value.status == 414
    with pytest.raises(GatewayError) as refusal:
        read(with_fields(H + b"a: b\r\n" * 3), max_headers=3)
    assert refusal.value.status == 431


def test_a_hostile_value_costs_linear_time() -> None:
    """Thirty thousand spaces before a forbidden byte: a backtracking pattern would take seconds."""
    with pytest.raises(GatewayError):
        read(with_fields(H + b"X:" + b" " * 30_000 + b"\x00\r\n"))


class Llhttp:
    """What llhttp makes of the same bytes."""

    def __init__(self, data: bytes) -> None:
        self.target, self.headers = b"", []
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(data)
        self.method = parser.get_method().decode()
        self.version = parser.get_http_version()

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))


NAMES = [b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"X", b"X-Y", b" X", b"X ", b"Expect"]
VALUES = [b"a.test", b"1", b"2", b"chunked", b"gzip", b"close", b"", b"a b", b"\t", b"a\x00", b"a\xe4", b"100-continue"]
ENDS = [b"\r\n"] * 6 + [b"\n", b"\r", b"\r\r\n", b"\r\n ", b""]
LINES = [b"GET / HTTP/1.1", b"POST /a?b HTTP/1.1", b"PUT /\xe4 HTTP/1.1", b"GET /  HTTP/1.0", b"GET / HTTP/1.0"]
FIELD = st.tuples(st.sampled_from(NAMES), st.sampled_from([b":", b": ", b" :"]), st.sampled_from(VALUES),
                  st.sampled_from(ENDS)).map(b"".join)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(LINES), st.lists(FIELD, max_size=5))
@example(b"GET / HTTP/1.1", [b"Host: a.test\r\n"])
def test_llhttp_reads_what_we_accept_in_the_same_way(line: bytes, fields: list[bytes]) -> None:
    data = line + b"\r\n" + H + b"".join(fields) + b"\r\n"
    end = data.find(b"\r\n\r\n") + 4
    assume(end > 3)
    try:
        ours = head.read(data, end, Limits())
    except GatewayError:
        return
    theirs = Llhttp(data[:end])
    assert (ours.method, ours.target, ours.version) == (theirs.method, theirs.target, theirs.version)
    assert ours.headers == theirs.headers


# --- one head after another on one connection -------------------------------------------------------------------------


def fed(reader: head.HeadReader, data: bytes) -> head.Head | str:
    try:
        found = reader.feed(data)
    except GatewayError as error:
        reader.pending.clear()
        return error.code
    assert found is not None
    return dataclasses.replace(found[0], block=BLOCK)  # all but how it was read


BLOCK = read(b"GET / HTTP/1.1\r\n" + H + b"\r\n").block
HEADS = st.tuples(st.sampled_from(LINES), st.lists(FIELD, max_size=2)).map(
    lambda parts: parts[0] + b"\r\n" + H + b"".join(parts[1]) + b"\r\n"
)


@settings(max_examples=200, deadline=None)
@given(st.lists(HEADS.filter(lambda data: data.find(b"\r\n\r\n") == len(data) - 4), min_size=2, max_size=6))
def test_a_head_is_read_as_if_it_were_the_first(heads: list[bytes]) -> None:
    reader = head.HeadReader(Limits())
    for data in heads * 2 + [one for one in heads for _ in range(2)]:
        assert fed(reader, data) == fed(head.HeadReader(Limits()), data)


def test_fields_that_come_again_are_not_read_again_and_an_absolute_target_changes_only_its_own_host() -> None:
    reader = head.HeadReader(Limits())
    first = reader.feed(b"GET /a HTTP/1.1\r\n" + H + b"X: 1\r\n\r\n")
    absolute = reader.feed(b"GET http://b.test/b HTTP/1.1\r\n" + H + b"X: 1\r\n\r\n")
    last = reader.feed(b"POST /c HTTP/1.1\r\n" + H + b"X: 1\r\n\r\n")
    assert first
    assert absolute
    assert last
    assert last[0].headers is first[0].headers
    assert last[0].headers == [(b"host", b"a.test"), (b"x", b"1")]
    assert absolute[0].headers == [(b"host", b"b.test"), (b"x", b"1")]


def test_a_request_that_is_repeated_whole_is_not_read_again_unless_it_ends_another() -> None:
    reader = head.HeadReader(Limits())
    data = b"GET /a HTTP/1.1\r\n" + H + b"\r\n"
    first, second = reader.feed(data), reader.feed(data)
    assert first
    assert second
    assert second == (first[0], b"")
    assert second[0] is first[0]
    assert reader.feed(data + b"GET") == (first[0], b"GET")
    assert reader.feed(b"X") is None
    longer = reader.feed(data)
    assert longer
    assert longer[0].method == "XGET"


def test_large_fields_are_not_kept_for_a_connection_that_may_be_idle() -> None:
    reader = head.HeadReader(Limits())
    data = b"GET / HTTP/1.1\r\n" + H + b"X: " + b"x" * head.MAX_REMEMBERED_BYTES + b"\r\n\r\n"
    first, second = reader.feed(data), reader.feed(data)
    assert first
    assert second
    assert first[0].headers is not second[0].headers
