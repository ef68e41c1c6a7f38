"""Why the HTTP/1.1 front refuses a request before any route is known.

GatewayError                       status  code
├── InternalError                  500     internal_error             the application raised, or gave no answer
├── BadRequest                     400     bad_request                (gateway.proxy.errors)
│   ├── BadPath                    400     bad_path                   (gateway.proxy.errors)
│   ├── BodyTooLarge               413     body_too_large             (gateway.proxy.errors)
│   ├── MethodRefused              405     method_not_allowed         CONNECT, TRACE
│   ├── RequestTimeout             408     request_timeout
│   ├── TargetTooLong              414     target_too_long
│   ├── ExpectationRefused         417     expectation_failed
│   ├── TooManyFromAddress         429     too_many_from_address
│   ├── HeadTooLarge               431     head_too_large
│   ├── CodingUnknown              501     transfer_coding_unknown
│   └── VersionRefused             505     http_version_not_supported
└── TooManyConnections             503     too_many_connections

These requests never become an exchange: they are counted through `Listener.on_refused` and leave no usage row.
"""

from __future__ import annotations

from http import HTTPStatus
from uuid import uuid4

from gateway.proxy.errors import BadPath, BadRequest, BodyTooLarge, GatewayError, problem

__all__ = [
    "BadPath", "BadRequest", "BodyTooLarge", "CodingUnknown", "ExpectationRefused", "GatewayError", "HeadTooLarge",
    "InternalError", "MethodRefused", "RequestTimeout", "TargetTooLong", "TooManyConnections", "TooManyFromAddress",
    "VersionRefused", "closing_answer", "status_line",
]  # fmt: skip


class InternalError(GatewayError):
    pass


class MethodRefused(BadRequest):
    status, code, title = 405, "method_not_allowed", "Method not allowed"
    detail = "CONNECT and TRACE are not served here."

    def __init__(self) -> None:
        super().__init__(headers=[(b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")])


class RequestTimeout(BadRequest):
    status, code, title = 408, "request_timeout", "Request timeout"
    detail = "The request did not arrive in time."


class TargetTooLong(BadRequest):
    status, code, title = 414, "target_too_long", "Request target too long"
    detail = "The request line is longer than this gateway accepts."


class ExpectationRefused(BadRequest):
    status, code, title = 417, "expectation_failed", "Expectation failed"
    detail = "Only 'Expect: 100-continue' can be met."


class TooManyFromAddress(BadRequest):
    status, code, title = 429, "too_many_from_address", "Too many connections from this address"
    detail = "This address has as many connections open as one may have. Close some, or use them for more requests."

    def __init__(self) -> None:
        super().__init__(headers=[(b"retry-after", b"1")])


class HeadTooLarge(BadRequest):
    status, code, title = 431, "head_too_large", "Request header fields too large"
    detail = "The request has more header fields, or longer ones, than this gateway accepts."


class CodingUnknown(BadRequest):
    status, code, title = 501, "transfer_coding_unknown", "Transfer coding not implemented"
    detail = "The only transfer coding accepted is 'chunked'."


class VersionRefused(BadRequest):
    status, code, title = 505, "http_version_not_supported", "HTTP version not supported"
    detail = "This listener speaks HTTP/1.1 and HTTP/1.0."


class TooManyConnections(GatewayError):
    status, code, title = 503, "too_many_connections", "Too many connections"
    detail = "This worker has no room for another connection. Try again shortly."

    def __init__(self) -> None:
        super().__init__(headers=[(b"retry-after", b"1")])


_STATUS_LINES: dict[int, bytes] = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}


def status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def closing_answer(error: GatewayError, date: bytes, *, bodiless: bool = False) -> bytes:
    """The whole answer for an error, as bytes. The connection ends with it. `date` is a whole field line."""
    status, headers, body = problem(error, uuid4().hex)
    fields = b"".join(b"%s: %s\r\n" % pair for pair in headers)
    head = status_line(status) + fields + date + b"connection: close\r\n\r\n"
    return head if bodiless else head + body
