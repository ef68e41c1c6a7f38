"""The schema and its readers, Swagger UI and Redoc, served from the sidecar package: no foreign host."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path, re_path
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe
from drf_spectacular.renderers import OpenApiJsonRenderer2, OpenApiYamlRenderer2
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.api.permissions import ScopeAndModel
from gateway.api.views import ApiView, Nowhere

# Both write style attributes at run time, and Redoc searches in a worker made from a blob. No inline script.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self'; connect-src 'self'; worker-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'"
)


class Schema(SpectacularAPIView, ApiView):
    """Needs a token or a session, but no permission on any model."""

    permission_classes = [ScopeAndModel]
    permissions = {"GET": (), "HEAD": ()}
    renderer_classes = [OpenApiJsonRenderer2, OpenApiYamlRenderer2]

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        response: Response = super().get(request, *args, **kwargs)
        return response


def _page(template: str) -> Any:
    @require_safe
    @login_required
    @ensure_csrf_cookie
    def page(request: HttpRequest) -> HttpResponse:
        response = render(request, template)
        response["Content-Security-Policy"] = POLICY
        return response

    return page


urlpatterns = [
    path("schema", Schema.as_view(), name="schema"),
    path("docs", _page("api/swagger.html"), name="docs"),
    path("redoc", _page("api/redoc.html"), name="redoc"),
]
#: Everything else; comes last.
nowhere = re_path("", Nowhere.as_view(), name="nowhere")
