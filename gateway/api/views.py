"""The base of every view of the admin API, and the answer for paths that lead nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from django.db.models import Model
from django.urls import Resolver404, resolve
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from gateway.api.etags import etag, matches
from gateway.api.formats import JsonRenderer
from gateway.api.permissions import SAFE


class ApiView(APIView):
    """Names a `model`, whose view, add, change and delete permissions then decide, or `permissions` by method.

    `scopes` by method, where it is not `read` for GET and `write` for the rest.
    """

    model: ClassVar[type[Model] | None] = None
    permissions: ClassVar[Mapping[str, Sequence[str]]] = {}
    scopes: ClassVar[Mapping[str, str]] = {}
    http_method_names = ["get", "head", "post", "put", "patch", "delete"]  # OPTIONS would repeat the schema

    def perform_authentication(self, request: Request) -> None:
        """Reads the body first: the CSRF check looks into it, the idempotency key needs its bytes. Too large: 413."""
        if request.method not in SAFE:
            body = request._request.body
            request._request.META["CONTENT_LENGTH"] = str(len(body))  # DRF takes a chunked body for an empty one
        super().perform_authentication(request)

    def finalize_response(self, request: Any, response: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(response, "exception", False):
            request.accepted_renderer, request.accepted_media_type = JsonRenderer(), JsonRenderer.media_type
        response = super().finalize_response(request, response, *args, **kwargs)
        if isinstance(response, Response) and not response.exception:
            response.setdefault("Cache-Control", "private, no-cache")
            if response.data is not None and "ETag" not in response and request.method in SAFE:
                _tag(request, response)
        return response


def _tag(request: Request, response: Response) -> None:
    response["ETag"] = etag(response.data, response.accepted_renderer.media_type)
    seen = request.headers.get("If-None-Match")
    if seen is not None and response.status_code == 200 and matches(seen, response["ETag"], weak=True):
        response.status_code, response.data = 304, None


@extend_schema(exclude=True)
class Nowhere(ApiView):
    """Every other path. A slash at the end too many is forgiven: 308 keeps method and body."""

    permissions = dict.fromkeys(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"), ())

    def handle(self, request: Request, **kwargs: Any) -> Response:
        if request.path.endswith("/"):
            target = request.path.rstrip("/")
            query = request.META.get("QUERY_STRING", "")
            if _leads_somewhere(target):
                return Response(status=308, headers={"Location": f"{target}?{query}" if query else target})
        raise NotFound("There is nothing at this path.")

    get = post = put = patch = delete = handle


def _leads_somewhere(path: str) -> bool:
    try:
        return getattr(resolve(path).func, "cls", Nowhere) is not Nowhere
    except Resolver404:
        return False
