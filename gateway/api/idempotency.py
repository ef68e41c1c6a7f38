"""`Idempotency-Key` on creates: the same request again gets the answer of the first, and creates nothing.

The answer is kept in PostgreSQL, in the transaction that created: a crash between the two is not possible. Failures are
not kept, for they changed nothing. Kept for 24 hours, for the user and path it was sent to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import wraps
from typing import Any

from django.db import connection, transaction
from django.db.models.functions import Now
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.api.formats import JsonRenderer
from gateway.api.models import KeptAnswer
from gateway.api.problems import BadQuery, Fault, Invalid

KEPT = timedelta(hours=24)
HEADER = "Idempotency-Key"
_KEPT_HEADERS = ("Location", "ETag", "X-Config-Version")
Handler = Callable[..., Response]


def idempotent(*, without: Sequence[str] = ()) -> Callable[[Handler], Handler]:
    """For a `post` method. `without`: fields of the answer that must not be kept, such as a secret; a repeated request
    gets them as null.
    """

    def decorate(handler: Handler) -> Handler:
        @wraps(handler)
        def post(self: Any, request: Request, *args: Any, **kwargs: Any) -> Response:
            key = request.headers.get(HEADER)
            if key is None:
                return handler(self, request, *args, **kwargs)
            if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
                raise BadQuery(errors=[Fault("From 1 to 255 printable ASCII characters.", parameter=HEADER)])
            return _once(key, request, without, lambda: handler(self, request, *args, **kwargs))

        post.idempotent = True  # type: ignore[attr-defined]  # the schema tells of the header
        return post

    return decorate


def _once(key: str, request: Request, without: Sequence[str], handle: Callable[[], Response]) -> Response:
    place = {"user_id": request.user.pk, "path": request.path[:500], "key": key}
    digest = _digest(request)
    with transaction.atomic():
        _lock(str(place))
        KeptAnswer.objects.filter(created_at__lt=Now() - KEPT).delete()
        kept = KeptAnswer.objects.filter(**place).first()
        if kept is None:
            response = handle()
            if response.status_code < 300:
                headers = {name: response[name] for name in _KEPT_HEADERS if name in response}
                body = response.data
                if without:
                    body = {**body, **dict.fromkeys(without)}
                KeptAnswer.objects.create(
                    **place,
                    request_digest=digest,
                    status=response.status_code,
                    headers=headers,
                    body=JsonRenderer().render(body).decode(),
                )
            return response
    if kept.request_digest != digest:
        raise Invalid(
            "This idempotency key was used with another request.", [Fault("Use a new key.", parameter=HEADER)]
        )
    return Response(json.loads(kept.body), kept.status, headers={**kept.headers, "Idempotency-Replayed": "true"})


def _digest(request: Request) -> str:
    query = request.META.get("QUERY_STRING", "")
    head = f"{request.content_type}\n{query}\n".encode()
    return hashlib.sha256(head + request._request.body).hexdigest()


def _lock(place: str) -> None:
    """Two equal requests at the same time: the second waits for the first, then gets its answer."""
    number = int.from_bytes(hashlib.sha256(place.encode()).digest()[:8], signed=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number])
