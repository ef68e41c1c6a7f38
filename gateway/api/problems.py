"""What an error of the admin API looks like: `application/problem+json` (RFC 9457), always.

    {"type": "/docs/api#invalid", "title": "Invalid", "status": 422, "code": "invalid", "detail": "…",
     "errors": [{"pointer": "/routes/0/paths/1", "field": "paths", "detail": "…"}]}

| status | code                  | when                                                                     |
|--------|-----------------------|--------------------------------------------------------------------------|
| 400    | malformed             | the body is no JSON or YAML, or a query parameter cannot be read         |
| 401    | unauthorized          | no token or session, or one that does not count                          |
| 403    | forbidden             | the token's scopes or the user's permissions do not suffice              |
| 404    | not_found             | no such path or row                                                      |
| 405    | method_not_allowed    |                                                                          |
| 406    | not_acceptable        | `Accept` names nothing we have                                           |
| 409    | conflict              | sound in itself, but does not fit what is there                          |
| 412    | precondition_failed   | the row has changed since (`If-Match`)                                   |
| 413    | too_large             |                                                                          |
| 415    | unsupported_media_type|                                                                          |
| 422    | invalid               | the body says something that cannot be; every fault at its pointer       |
| 500    | internal_error        | our fault; the log has the reason                                        |
| 503    | database_unavailable  | PostgreSQL is away                                                       |
| 503    | redis_unavailable     | Redis is away, over which workers are asked                              |
| 503    | store_unavailable     | Redis is away, without which workers would not hear of a purge           |
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import (
    NON_FIELD_ERRORS,
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
)
from django.core.exceptions import ValidationError as ModelInvalid
from django.db import InterfaceError, OperationalError
from django.http import Http404
from pydantic import ValidationError as ShapeInvalid
from rest_framework import exceptions
from rest_framework.response import Response

CONTENT_TYPE = "application/problem+json"
logger = logging.getLogger("gateway.api")
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: in the body at `pointer` (RFC 6901; "" is all of it), or in the named parameter."""

    detail: str
    pointer: str = ""
    parameter: str = ""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        if self.parameter:
            yield "parameter", self.parameter
        else:
            names = [part for part in self.pointer.split("/") if part and not part.isdecimal()]
            yield "pointer", self.pointer
            yield "field", names[-1] if names else ""
        yield "detail", self.detail


class ApiError(exceptions.APIException):
    """An answer that is not a success. `errors` say where; `detail` says it as one sentence."""

    status_code = 400
    default_code = "malformed"
    default_detail = "The request cannot be read."

    def __init__(self, detail: str = "", errors: Iterable[Fault] = ()) -> None:
        super().__init__(detail or self.default_detail)
        self.errors = tuple(errors)


class BadQuery(ApiError):
    default_detail = "A parameter cannot be read."


class Invalid(ApiError):
    status_code = 422
    default_code = "invalid"
    default_detail = "The body says something that cannot be."


class Conflict(ApiError):
    status_code = 409
    default_code = "conflict"
    default_detail = "This does not fit what is there already."


class PreconditionFailed(ApiError):
    status_code = 412
    default_code = "precondition_failed"
    default_detail = "This has changed since you read it. Read it again."


class RedisUnavailable(ApiError):
    status_code = 503
    default_code = "redis_unavailable"
    default_detail = "Redis is not available. Try again shortly."


class _TooLarge(ApiError):
    status_code = 413
    default_code = "too_large"
    default_detail = "The body is larger than the admin API takes."


class _Unavailable(ApiError):
    status_code = 503
    default_code = "database_unavailable"
    default_detail = "PostgreSQL is not available. Traffic is served; try again shortly."


class StoreUnavailable(ApiError):
    status_code = 503
    default_code = "store_unavailable"
    default_detail = "Redis is not available, so workers would not hear of it. Try again shortly."


class _Internal(ApiError):
    status_code = 500
    default_code = "internal_error"
    default_detail = "The admin API failed. Its log has the reason."


def pointer(path: Iterable[str | int]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def shape_faults(error: ShapeInvalid, at: Path = ()) -> list[Fault]:
    """Of a pydantic shape that did not fit, `at` being its place in the body."""
    faults = []
    for fault in error.errors():
        reason = fault.get("ctx", {}).get("error")
        detail = str(reason) if isinstance(reason, ValueError) else fault["msg"]
        if fault["type"] == "missing":
            detail = "This field is required."
        elif fault["type"] == "extra_forbidden":
            detail = "There is no such field."
        faults.append(Fault(detail, pointer((*at, *fault["loc"]))))
    return faults


def model_faults(error: ModelInvalid, at: Path = ()) -> list[Fault]:
    """Of Django's own ValidationError, as `full_clean` raises it."""
    if not hasattr(error, "error_dict"):
        return [Fault(message, pointer(at)) for message in error.messages]
    return [
        Fault(message, pointer(at if field == NON_FIELD_ERRORS else (*at, field)))
        for field, messages in error.message_dict.items()
        for message in messages
    ]


def handle(error: Exception, context: Mapping[str, Any]) -> Response:
    """DRF's EXCEPTION_HANDLER: whatever went wrong becomes a problem, never a page and never a trace."""
    translated = _translated(error)
    if translated.status_code >= 500:
        logger.error("%s %s failed", context["request"].method, context["request"].path, exc_info=error)
    code = _CODES.get(translated.status_code, translated.default_code)
    errors = translated.errors if isinstance(translated, ApiError) else ()
    body: dict[str, Any] = {
        "type": f"/docs/api#{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": translated.status_code,
        "code": code,
        "detail": str(translated.detail),
    }
    if errors:
        body["errors"] = [dict(fault) for fault in errors]
    headers = {"Cache-Control": "no-store"}
    if challenge := getattr(translated, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    if wait := getattr(translated, "wait", None):
        headers["Retry-After"] = str(int(wait))
    return Response(body, translated.status_code, headers=headers, content_type=CONTENT_TYPE)


_CODES = {
    400: "malformed", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed",
    406: "not_acceptable", 415: "unsupported_media_type", 429: "throttled",
}  # fmt: skip


def _translated(error: Exception) -> exceptions.APIException:
    match error:
        case exceptions.ValidationError():
            return Invalid(errors=_serializer_faults(error.detail))
        case exceptions.APIException():
            return error
        case ShapeInvalid():
            return Invalid(errors=shape_faults(error))
        case ModelInvalid():
            return Invalid(errors=model_faults(error))
        case Http404():
            return exceptions.NotFound()
        case PermissionDenied():
            return exceptions.PermissionDenied(*error.args)
        case RequestDataTooBig():
            return _TooLarge()
        case SuspiciousOperation():
            return ApiError()
        case OperationalError() | InterfaceError():
            return _Unavailable()
    return _Internal()


def _serializer_faults(detail: Any, at: Path = ()) -> list[Fault]:
    if isinstance(detail, Mapping):
        parts = [((*at, key) if key != "non_field_errors" else at, value) for key, value in detail.items()]
    elif isinstance(detail, list) and any(isinstance(value, Mapping) for value in detail):
        parts = [((*at, index), value) for index, value in enumerate(detail)]
    else:
        return [Fault(str(text), pointer(at)) for text in (detail if isinstance(detail, list) else [detail])]
    return [fault for place, value in parts for fault in _serializer_faults(value, place)]
