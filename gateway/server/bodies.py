"""Where a request body ends: two readers with one method, `feed(data) -> (body, rest)`.

`rest` is None while the body goes on, and the bytes after it once it has ended. Pure: no I/O.
"""

from __future__ import annotations

import re

from gateway.server.limits import Limits
from gateway.server.refusals import BadRequest, BodyTooLarge

#: chunk-size [ chunk-ext ] CRLF (RFC 9112 §7.1). No space after a bare size, no control bytes in an extension.
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15}+)(?:[ \t]*+;[\t -~\x80-\xff]*+)?\r\n")
_TRAILER = re.compile(rb"^[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t -~\x80-\xff]*+\r\n", re.MULTILINE)
_MAX_SIZE_LINE = 1024
_MAX_OVERHEAD_BYTES = 16 * 1024

_SIZE_LINE, _DATA, _DATA_END, _TRAILERS, _ENDED = range(5)


class Sized:
    """A body with a Content-Length."""

    __slots__ = ("left",)

    def __init__(self, length: int) -> None:
        self.left: int | None = length

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        left = self.left or 0
        self.left = max(left - len(data), 0)
        if len(data) < left:
            return data, None
        if len(data) == left:
            return data, b""
        return data[:left], data[left:]


class Chunked:
    """A chunked body. Extensions and trailers are checked, bounded and dropped (RFC 9112 §7.1.1, §7.1.2).

    Extensions of many small chunks could cost us far more than they cost the sender; as in Go's net/http, what a
    size line has beyond 16 bytes and twice its chunk adds up, and ends the request above 16 kB.
    """

    __slots__ = ("_chunk_left", "_limits", "_overhead", "_pending", "_phase", "_total", "left")

    def __init__(self, limits: Limits) -> None:
        self.left: int | None = None  # nobody knows
        self._limits = limits
        self._phase = _SIZE_LINE
        self._pending = b""  # the beginning of a line, or of the trailers
        self._chunk_left = 0
        self._total = 0
        self._overhead = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Raises BadRequest or BodyTooLarge."""
        if self._pending:
            data, self._pending = self._pending + data, b""
        pieces: list[bytes] = []
        at = 0
        while at < len(data):
            if self._phase == _DATA:
                piece = data[at : at + self._chunk_left]
                pieces.append(piece)
                read = len(piece)
                self._chunk_left -= read
                if not self._chunk_left:
                    self._phase = _DATA_END
            elif self._phase == _SIZE_LINE:
                read = self._size_line(data, at)
            elif self._phase == _DATA_END:
                read = self._data_end(data, at)
            else:
                read = self._trailers(data, at)
            at += read
            if self._phase == _ENDED:
                return b"".join(pieces), data[at:]
            if not read:
                self._pending = data[at:]
                break
        return b"".join(pieces), None

    def _size_line(self, data: bytes, at: int) -> int:
        line = _SIZE.match(data, at)
        if line is None:
            if len(data) - at > _MAX_SIZE_LINE or b"\n" in data[at:]:
                raise BadRequest("A chunk size is malformed.")
            return 0
        read = line.end() - at
        size = int(line[1], 16)
        self._overhead = max(self._overhead + read - 16 - 2 * size, 0)
        if read > _MAX_SIZE_LINE or self._overhead > _MAX_OVERHEAD_BYTES:
            raise BadRequest("The chunk extensions are longer than this gateway accepts.")
        self._total += size
        if 0 < self._limits.max_body_bytes < self._total:
            raise BodyTooLarge("The request body is larger than this gateway accepts.")
        self._chunk_left = size
        self._phase = _DATA if size else _TRAILERS
        return read

    def _data_end(self, data: bytes, at: int) -> int:
        end = data[at : at + 2]
        if end == b"\r\n":
            self._phase = _SIZE_LINE
        elif end == b"\r":
            return 0
        else:
            raise BadRequest("A chunk is not as long as it says.")
        return 2

    def _trailers(self, data: bytes, at: int) -> int:
        if data.startswith(b"\r\n", at):
            self._phase = _ENDED
            return 2
        most = self._limits.max_trailer_bytes
        end = data.find(b"\r\n\r\n", at, at + most)
        if end < 0:
            if len(data) - at >= most:
                raise BadRequest("The trailer section is longer than this gateway accepts.")
            return 0
        count = data.count(b"\n", at, end + 2)
        if count > self._limits.max_headers:
            raise BadRequest("The trailer section has more fields than this gateway accepts.")
        if len(_TRAILER.findall(data, at, end + 2)) != count:
            raise BadRequest("A trailer field is malformed.")
        self._phase = _ENDED
        return end + 4 - at
