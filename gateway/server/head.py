"""Bytes → one request head, strictly (RFC 9112 §2 to §6). No I/O.

There is one reading of a head, and it is this one: what does not match the grammar is refused, never repaired.
Two compiled patterns do the work, in C and in linear time (possessive quantifiers: nothing to backtrack into);
the framing fields are then judged by name. This costs a little less than llhttp with a second, strict scan for what
llhttp lets through; `tests/server/test_head.py` checks that llhttp reads every accepted head in the same way.

Over one connection the fields of most requests are the same, byte for byte: then they are not read again (`Block`),
and nothing is of a request that is repeated whole, as by who polls.

Refused here, although seen in the wild: bare CR or LF, folded lines, space before the colon, control bytes, a
Content-Length next to Transfer-Encoding, several Hosts, `#` in a target, HTTP/0.9.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import unquote_to_bytes

from gateway.proxy.headers import Given, Pairs
from gateway.server.limits import Limits
from gateway.server.refusals import (
    BadPath,
    BadRequest,
    CodingUnknown,
    ExpectationRefused,
    HeadTooLarge,
    MethodRefused,
    TargetTooLong,
    VersionRefused,
)

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_LINE = re.compile(rb"(" + _TOKEN + rb") ([!-~]++) HTTP/1\.([01])\r\n")
_FIELD = re.compile(rb"^(" + _TOKEN + rb"):[ \t]*+([\t -~\x80-\xff]*+)\r\n", re.MULTILINE)
_END = b"\r\n\r\n"
_BLANK_LINES = re.compile(rb"(?:\r\n)++")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_LOOSE_LINE = re.compile(rb"(\S+) (.*) HTTP/([0-9])\.([0-9])")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]*+)(.*)")
#: A name, an IPv4 or a bracketed IPv6 address, and perhaps a port (RFC 3986 §3.2.2, without its odder characters).
_AUTHORITY = re.compile(
    rb"(?:[0-9A-Za-z._~\-]{1,255}+|\[[0-9A-Fa-f:.]{2,45}+\])"
    rb"(?::(?:[0-9]{0,4}|[0-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
)
MAX_REMEMBERED_BYTES = 4096  # of the head of an idle connection
_JUDGED = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"})

_Judged = dict[bytes, list[bytes]]


@dataclass(frozen=True, slots=True)
class Block:
    """The fields of a head, judged. Good for a later head of the same version with the same `text`."""

    text: bytes
    modern: bool  # HTTP/1.1
    headers: Given
    length: int | None
    keep_alive: bool
    expect: bool
    websocket: bool  # if the method is GET


@dataclass(slots=True)
class Head:
    """Nobody changes it: it may be another request's too. `length` is None for a chunked body. `target` is what the
    path was cut from, an absolute form already reduced."""

    method: str
    version: str
    target: bytes
    path: str
    raw_path: bytes
    query: bytes
    headers: Pairs
    length: int | None
    keep_alive: bool
    expect: bool
    websocket: bool
    block: Block


class HeadReader:
    """Gathers one head after another from packets of any size."""

    __slots__ = ("_last", "_limits", "_packet", "pending")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._last: Head | None = None
        self._packet = b""  # with which the last head came, and nothing else
        self.pending = bytearray()  # the beginning of a head

    def feed(self, data: bytes) -> tuple[Head, bytes] | None:
        """The next head and what follows it, or None if more is needed. Raises a GatewayError, after which: close."""
        last = self._last
        if last is not None and data == self._packet and not self.pending:
            return last, b""
        whole = not self.pending and not data.startswith(b"\r")  # the usual case: one packet
        end = data.find(_END) if whole else -1
        if end < 0:
            whole = False
            searched = max(len(self.pending) - 3, 0)
            self.pending += data
            if blank := _BLANK_LINES.match(self.pending):  # RFC 9112 §2.2
                del self.pending[: blank.end()]
                searched = 0
            end = self.pending.find(_END, searched)
            if end < 0:
                self._check_beginning(searched)
                return None
            data = bytes(self.pending)
            self.pending.clear()
        if end + 4 > self._limits.max_head_bytes:
            raise HeadTooLarge
        head = read(data, end + 4, self._limits, last.block if last is not None else None)
        self._last = head if end <= MAX_REMEMBERED_BYTES else None
        self._packet = data if whole and end + 4 == len(data) else b""
        return head, data[end + 4 :]

    def _check_beginning(self, searched: int) -> None:
        """Raises if it can never become a good head."""
        size, line_end = len(self.pending), self._limits.max_line_bytes + 2
        if size >= line_end and self.pending.find(b"\n", 0, line_end) < 0:
            raise TargetTooLong
        if size > self._limits.max_head_bytes:
            raise HeadTooLarge
        if _BARE_LF.search(self.pending, searched):
            raise BadRequest("Lines end with CR LF.")


def read(data: bytes, end: int, limits: Limits, last: Block | None = None) -> Head:
    """`data[:end]` is one head with the empty line that ends it; `last`: of the head before it. Raises a GatewayError,
    after which: close."""
    line = _LINE.match(data)
    if line is None or line.end() - 2 > limits.max_line_bytes:
        _explain(data, limits)
    method, target, modern = line[1].decode(), line[2], line[3] == b"1"
    text = data[line.end() : end - 2]
    block = last if last is not None and last.text == text and last.modern is modern else _block(text, modern, limits)
    if method in ("CONNECT", "TRACE"):
        raise MethodRefused
    headers: Pairs = block.headers
    if target[0] != 47:  # "/"
        target, headers = _reduce(method, target, headers)
    elif b"#" in target:
        raise BadPath("A request target has no fragment.")
    raw_path, _, query = target.partition(b"?")
    return Head(
        method,
        "1.1" if modern else "1.0",
        target,
        _decode(raw_path) if b"%" in raw_path else raw_path.decode("ascii"),
        raw_path,
        query,
        headers,
        block.length,
        block.keep_alive,
        block.expect,
        block.websocket and method == "GET",
        block,
    )


def _block(text: bytes, modern: bool, limits: Limits) -> Block:
    headers, judged = _fields(text, limits)
    _check_host(judged, modern)
    length = _body_length(judged, modern)
    headers.bodiless = length == 0
    options = _tokens(judged.get(b"connection"))
    return Block(
        text,
        modern,
        headers,
        length,
        b"close" not in options if modern else b"keep-alive" in options and b"close" not in options,
        modern and _expects(judged) and length != 0,
        modern and b"upgrade" in options and b"websocket" in _tokens(judged.get(b"upgrade")),
    )


def _fields(text: bytes, limits: Limits) -> tuple[Given, _Judged]:
    """All fields in order, and again by name those that say how to read on."""
    fields = _FIELD.findall(text)
    if len(fields) != text.count(b"\n"):
        raise BadRequest("A header field is malformed: 'Name: value', no folding, no control characters.")
    if len(fields) > limits.max_headers:
        raise HeadTooLarge
    headers = Given()
    judged: _Judged = {}
    for name, value in fields:
        name, value = name.lower(), value.rstrip(b" \t")
        headers.append((name, value))
        if name in _JUDGED:
            judged.setdefault(name, []).append(value)
    return headers, judged


def _explain(data: bytes, limits: Limits) -> NoReturn:
    """The request line did not match: say which rule it broke."""
    line = data.partition(b"\r\n")[0]
    if len(line) > limits.max_line_bytes:
        raise TargetTooLong
    parts = _LOOSE_LINE.fullmatch(line)
    if parts is None:
        raise BadRequest("The request line is not 'METHOD target HTTP/1.1'.")
    if parts[3] != b"1" or parts[4] not in b"01":
        raise VersionRefused
    if not re.fullmatch(_TOKEN, parts[1]):
        raise BadRequest("The method is not a token.")
    raise BadPath


def _check_host(judged: _Judged, modern: bool) -> None:
    """RFC 9112 §3.2. An empty Host is refused too: a gateway has nothing to route it by."""
    hosts = judged.get(b"host")
    if hosts is None:
        if modern:
            raise BadRequest("A Host header is required.")
    elif len(hosts) != 1 or not _AUTHORITY.fullmatch(hosts[0]):
        raise BadRequest("Exactly one valid Host header is required.")


def _reduce(method: str, target: bytes, headers: Pairs) -> tuple[bytes, Pairs]:
    """Absolute form: its authority becomes the Host (RFC 9112 §3.2.2) and the rest the target. `*`: for OPTIONS."""
    if target == b"*" and method == "OPTIONS":
        return target, headers
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not _AUTHORITY.fullmatch(absolute[1]) or b"#" in absolute[2]:
        raise BadPath
    headers = [(b"host", absolute[1]), *(pair for pair in headers if pair[0] != b"host")]
    if not absolute[2] and method == "OPTIONS":
        return b"*", headers
    return absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2], headers


def _decode(raw_path: bytes) -> str:
    return unquote_to_bytes(raw_path).decode("utf-8", "replace")


def _body_length(judged: _Judged, modern: bool) -> int | None:
    """RFC 9112 §6.3, without the parts that invite smuggling. None: chunked."""
    codings, lengths = judged.get(b"transfer-encoding"), judged.get(b"content-length")
    if codings is not None:
        if lengths is not None or not modern:
            raise BadRequest("Transfer-Encoding goes neither with Content-Length nor with HTTP/1.0.")
        names = [name.strip(b" \t").lower() for name in b",".join(codings).split(b",")]
        if names == [b"chunked"]:
            return None
        if b"chunked" in names[:-1] or b"" in names:
            raise BadRequest("'chunked' must come once, and last, in Transfer-Encoding.")
        raise CodingUnknown
    if lengths is None:
        return 0
    if len(lengths) != 1 or not lengths[0].isdigit() or len(lengths[0]) > 18:
        raise BadRequest("Content-Length must be one whole number.")
    return int(lengths[0])


def _expects(judged: _Judged) -> bool:
    expectations = judged.get(b"expect")
    if expectations is None:
        return False
    if [value.lower() for value in expectations] != [b"100-continue"]:
        raise ExpectationRefused
    return True


def _tokens(values: list[bytes] | None) -> tuple[bytes, ...] | frozenset[bytes]:
    if values is None:
        return ()
    return frozenset(token.strip(b" \t").lower() for token in b",".join(values).split(b","))
