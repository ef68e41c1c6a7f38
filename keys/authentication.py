"""A token of the admin API as a way in: `Authorization: Bearer hgt_…`."""

from __future__ import annotations

from typing import Any

from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from keys import services
from keys.models import AdminToken


class TokenAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[Any, AdminToken] | None:
        """None without an Authorization field: then the session may count."""
        field = get_authorization_header(request)
        if not field:
            return None
        scheme, _, text = field.decode("latin-1").partition(" ")
        token = services.token_find(text.strip()) if scheme.lower() == "bearer" else None
        if token is None:
            raise AuthenticationFailed("This token does not count: unknown, expired or revoked.")
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="hydragate"'
