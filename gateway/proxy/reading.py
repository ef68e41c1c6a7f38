"""Bytes from an upstream → answers, strictly (RFC 9112 §4 to §7). No I/O.

Refused: Transfer-Encoding beside Content-Length, or other than exactly one `chunked`; two Content-Lengths, even equal
ones; obs-fold; bare CR or LF; bad chunk sizes; another version than 1.0 or 1.1; heads, trailers or chunk extensions
beyond MAX_HEAD_BYTES or MAX_FIELDS; a 101 nobody asked for. Trailers are dropped.
Tolerated, because the parser cannot tell: empty lines before an answer.

llhttp reads what is new. A head that was read before, byte for byte, is not read again (`Known`): most answers of an
upstream begin as one before them did, until the next second comes into their `Date`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf
from typing import Any

import httptools

from .answer import UpstreamAnswer
from .headers import Lasting, Pairs

MAX_HEAD_BYTES = 64 * 1024
MAX_FIELDS = 200
#: Heads that a worker remembers, of all its upstreams, and the longest of them.
MAX_KNOWN, MAX_KNOWN_BYTES = 512, 2048
MAX_MET = 4096

_END = b"\r\n\r\n"
_EXAMINED = frozenset({b"content-length", b"transfer-encoding", b"connection", b"keep-alive"})
_PROMISE = re.compile(rb"timeout=(\d{1,6})")


class Violation(Exception):
    """What the parser let pass and we do not. Raised in a callback, it stops the parser."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a head of HTTP/1.1 says that has a Content-Length and keeps the connection open."""

    status: int
    fields: Lasting
    length: int
    keep_alive_hint_s: float


_known: dict[bytes, Known] = {}
_met: set[int] = set()  # heads that came once, by their hash: many never come again


class Reader:
    """Of one connection, one answer after another. `answer`: the one that is being read."""

    def __init__(self) -> None:
        self.answer: UpstreamAnswer | None = None
        self.keep_alive_hint_s = inf  # what the upstream's Keep-Alive field promises
        self.moved_bytes = 0  # of bodies, in either direction
        self._parser: Any = None
        self._packet = b""  # the first of an answer, while it is read
        self._fields: Pairs = []
        self._overhead_bytes = 0  # received since the last byte of a head or body was passed on
        self._length = self._left = 0  # of a body with a Content-Length; what is still to come, if it is not parsed
        self._keep_alive = self._until_close = self._tunnel = False

    def _expect(self, answer: UpstreamAnswer) -> None:
        self.answer, self._parser = answer, None
        self._fields, self._overhead_bytes, self._length, self._left = [], 0, 0, 0
        self._keep_alive = self._until_close = False

    def _read(self, answer: UpstreamAnswer, data: bytes) -> None:
        """Raises Violation, and what httptools raises."""
        if self._left:
            self._read_plain(answer, data)
            return
        if not answer.touched:
            answer.touched = True
            if not answer.to_head and self._recognise(answer, data):
                return
            self._packet = data
        elif self._tunnel:
            self.on_body(data)
            return
        self._overhead_bytes += len(data)
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        try:
            self._parser.feed_data(data)
        finally:
            self._packet = b""
        if self._overhead_bytes > MAX_HEAD_BYTES:
            raise Violation("too many bytes of head, trailers or chunk extensions")
        if self._length > answer.unread_bytes and not answer.complete:  # the rest is not to be parsed, nor copied
            self._left, self._keep_alive = self._length - answer.unread_bytes, self._parser.should_keep_alive()
            self._parser = None

    def _recognise(self, answer: UpstreamAnswer, data: bytes) -> bool:
        """A known head, and no more behind it than its body: otherwise the parser shall judge."""
        end = data.find(_END) + 4
        known = _known.get(data[:end])
        if known is None:
            return False
        left = known.length + end - len(data)
        if left < 0:
            return False
        answer.status, answer.headers = known.status, known.fields
        self.keep_alive_hint_s, self._keep_alive = known.keep_alive_hint_s, True
        if end < len(data):
            self.on_body(data[end:])
        self._left, answer.complete = left, not left
        return True

    def _remember(self, status: int, fields: Pairs, length: int) -> Pairs:
        """Only heads that come a second time, whole, at the beginning of a packet, with nothing before them."""
        head = self._packet[: self._packet.find(_END) + 4]
        if not self._packet or len(head) > MAX_KNOWN_BYTES:
            return fields
        if (place := hash(head)) not in _met:
            if len(_met) >= MAX_MET:
                _met.clear()
            _met.add(place)
            return fields
        if not head.startswith(b"HTTP/1.1 %d" % status) or any(name == b"set-cookie" for name, _ in fields):
            return fields
        if len(_known) >= MAX_KNOWN:
            _known.clear()
        lasting = Lasting(fields)
        _known[head] = Known(status, lasting, length, self.keep_alive_hint_s)
        return lasting

    def _read_plain(self, answer: UpstreamAnswer, data: bytes) -> None:
        if len(data) > self._left:  # there are bytes after the answer
            data, self._keep_alive = data[: self._left], False
        self._left -= len(data)
        self.on_body(data)
        answer.complete = not self._left

    # --- httptools

    def on_message_begin(self) -> None:
        if self.answer is None or self.answer.complete:
            raise Violation("bytes after the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        answer = self.answer
        assert answer is not None
        fields, self._fields = self._fields, []
        status, version = self._parser.get_status_code(), self._parser.get_http_version()
        framing, closing, self.keep_alive_hint_s = inspect(fields, version, self._overhead_bytes)
        if status < 200:
            if status < 100 or framing not in (b"", b"0") or (status == 101 and not answer.may_upgrade()):
                raise Violation("an interim answer that must not be")
            if status == 103 and answer.hints is not None:
                answer.hints([value for name, value in fields if name == b"link"])
            if status != 101:
                return
        self._overhead_bytes = 0
        self._length = int(framing) if framing.isdigit() else 0
        if answer.to_head or status in (204, 304):
            answer.complete = True
            self._keep_alive = version == "1.1" and not closing and (status != 204 or framing in (b"", b"0"))
        elif framing.isdigit() and version == "1.1" and not closing:
            fields = self._remember(status, fields, self._length)
        answer.status, answer.headers = status, fields
        self._until_close = not framing and not answer.complete

    def on_body(self, chunk: bytes) -> None:
        answer = self.answer
        assert answer is not None
        self._overhead_bytes = 0
        if answer.complete:
            self._keep_alive = False  # a body where none may be: dropped, and the connection with it
        else:
            answer.chunks.append(chunk)
            answer.unread_bytes += len(chunk)
            self.moved_bytes += len(chunk)

    def on_chunk_header(self) -> None:
        if self.answer is None or self.answer.complete:
            raise Violation("a body where none may be")

    def on_message_complete(self) -> None:
        answer = self.answer
        assert answer is not None
        if answer.status >= 200 and not answer.complete:
            if len(self._fields) > MAX_FIELDS:
                raise Violation("too many trailers")
            answer.complete = True
            self._keep_alive = self._parser.should_keep_alive()


def inspect(fields: Pairs, version: str, received_bytes: int) -> tuple[bytes, bool, float]:
    """How a head frames its body (the Content-Length, `chunked`, or nothing: until the end of the connection),
    whether it closes the connection, and for how long it promises to keep it. Raises Violation.

    Two Content-Lengths, or one beside Transfer-Encoding, do not come this far: the parser refuses them.
    """
    if len(fields) > MAX_FIELDS:
        raise Violation("too many fields")
    if received_bytes > MAX_HEAD_BYTES and sum(len(name) + len(value) for name, value in fields) > MAX_HEAD_BYTES:
        raise Violation("head too large")
    if version not in ("1.1", "1.0"):
        raise Violation("not HTTP/1")
    framing, closing, promise_s = b"", False, inf
    for name, value in fields:
        if name not in _EXAMINED:
            continue
        if name == b"content-length":
            framing = value
        elif name == b"transfer-encoding":
            if framing or version == "1.0" or value.lower() != b"chunked":  # RFC 9112 §6.1
                raise Violation("a transfer coding other than one `chunked`")
            framing = value
        elif name == b"connection":
            closing = closing or b"close" in value.lower()
        elif found := _PROMISE.search(value):
            promise_s = int(found[1])
    return framing, closing, promise_s
