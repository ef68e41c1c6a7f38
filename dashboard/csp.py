"""Content-Security-Policy of all that the control plane answers. No page of ours ever asks another host for anything.

Our own pages run no inline script, no inline style and no eval. Django admin's theme cannot live without two of them:
Alpine compiles expressions it finds in attributes, and the theme's colours stand in a `<style>`. A view that needs
something else sets the header itself.
"""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

HEADER = "Content-Security-Policy"
_ALWAYS = (
    "default-src 'self'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; "
)
STRICT = _ALWAYS + "script-src 'self'; style-src 'self'"
ADMIN = _ALWAYS + "script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'"


class ContentSecurityPolicy:
    """Middleware. Traffic that comes here (runserver, a test client) is not ours to add headers to."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self._get_response(request)
        if request.path.startswith("/admin/"):
            response.setdefault(HEADER, ADMIN)
        elif request.path.startswith(("/dashboard/", "/docs/")):
            response.setdefault(HEADER, STRICT)
        return response
