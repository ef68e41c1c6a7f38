"""Requests and answers in httpx's own types, made from what is checked already.

httpx copies and lower-cases every field, and parses a URL, when one is made: a tenth of what a request may cost here.
These are the same types with the same attributes; what the proxy path never asks for is made when somebody asks.
"""

from __future__ import annotations

from typing import Any

import httpx

from .errors import BadRequest, GatewayError
from .headers import Pairs

_BASE = httpx.URL("http://upstream")  # never used for addressing: the target's transport knows where it leads

BREAKS = "The request for the upstream holds a line break or space where none may be."

#: RFC 9110 §9.2.2.
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


class _NoBody(httpx.AsyncByteStream):
    def __aiter__(self) -> _NoBody:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


NO_BODY = _NoBody()


class PairHeaders(httpx.Headers):
    """Over pairs with names in lower case. `raw` is the list itself: not to be changed."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs, self._encoding = pairs, None

    @property
    def raw(self) -> Pairs:
        return super().raw if "_list" in self.__dict__ else self._pairs

    def __getattr__(self, name: str) -> Any:
        if name != "_list":
            raise AttributeError(name)
        self._list = [(key, key, value) for key, value in self._pairs]  # what httpx keeps, and may change
        return self._list


class UpstreamRequest(httpx.Request):
    """`method` in upper case; `pairs` is what `headers.raw` would be; `lines`, if known, what all of them but the first
    are on the wire (`lines_of`)."""

    url = _BASE

    def __init__(
        self, method: str, pairs: Pairs, stream: httpx.AsyncByteStream, extensions: dict[str, Any], lines: bytes = b""
    ) -> None:
        self.method, self.pairs, self.stream, self.extensions, self.lines = method, pairs, stream, extensions, lines

    def __getattr__(self, name: str) -> Any:
        if name != "headers":
            raise AttributeError(name)
        self.headers = PairHeaders(self.pairs)
        return self.headers


class UpstreamResponse(httpx.Response):
    """`stream` of the answer, `pairs` as in the request; after 101, `extensions["network_stream"]`."""

    _request = next_request = None
    is_closed = is_stream_consumed = False
    default_encoding = "utf-8"
    _num_bytes_downloaded = 0

    def __init__(
        self, status: int, pairs: Pairs, stream: httpx.AsyncByteStream, extensions: dict[str, Any] | None
    ) -> None:
        self.status_code, self.pairs, self.stream, self.extensions = status, pairs, stream, extensions or {}

    def __getattr__(self, name: str) -> Any:
        if name == "headers":
            self.headers = PairHeaders(self.pairs)
        elif name == "history":
            self.history: list[httpx.Response] = []
        else:
            raise AttributeError(name)
        return self.__dict__[name]


def lines_of(pairs: Pairs) -> bytes:
    """Fields as they are sent. A line break in a value would be another field, or another request: refused."""
    lines = b"\r\n".join([*map(b": ".join, pairs), b""])
    if lines.count(b"\n") != len(pairs) or lines.count(b"\r") != len(pairs):
        raise GatewayError(BREAKS)
    return lines


#: A body that is here already and not longer goes out with its head.
POSTED_BYTES = 16 * 1024


def at_once(body: object, most: int = POSTED_BYTES) -> bytes | None:
    """All of a body that is here already, is not longer, and of which nobody has read: then it is taken, and it can be
    sent without waiting for it. None from bodies that do not know, or have no `at_once` of their own."""
    take = getattr(body, "at_once", None)
    found: bytes | None = None if take is None else take(most)
    return found


def framed(body: bytes, length: int | None) -> bytes:
    """A whole body as it is sent, in one chunk if `length` is None. Raises BadRequest."""
    if length is None:
        return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    if len(body) != length:
        raise wrong_length()
    return body


def wrong_length() -> BadRequest:
    return BadRequest("The request body is not as long as its Content-Length says.")


def body_of(stream: object, pairs: Pairs) -> tuple[httpx.AsyncByteStream | None, int | None]:
    """The body to send and its length (None: in chunks)."""
    length, chunked = None, False
    for name, value in pairs:
        name = name.lower()
        if name == b"content-length":
            if length is not None or not value.isdigit():
                raise BadRequest("The request has a wrong or a second Content-Length.")
            length = int(value)
        elif name == b"transfer-encoding":
            chunked = True
    if chunked and length is not None:
        raise BadRequest("The request has both Content-Length and Transfer-Encoding.")
    if not length and not chunked:
        return None, 0
    return stream, length  # type: ignore[return-value]
