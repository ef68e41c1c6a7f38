"""Tokens of this API. Whoever is no superuser sees and makes only tokens of their own: a token is worth its user's
permissions.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.api.idempotency import idempotent
from gateway.api.lists import Filter, Listing, page_of
from gateway.api.problems import Fault, Invalid
from gateway.api.views import ApiView
from keys import services
from keys.api import rows, shapes
from keys.models import AdminToken


def represent(row: AdminToken) -> dict[str, Any]:
    own = {name: getattr(row, name) for name in shapes.TokenRead.model_fields if name != "user"}
    return shapes.TokenRead(**own, user=row.user.get_username()).model_dump()


class _Managing(ApiView):
    model = AdminToken
    scopes = dict.fromkeys(("GET", "HEAD", "POST", "PATCH"), "admin")

    @property
    def me(self) -> User:
        assert isinstance(self.request.user, User)  # nobody else gets past the permissions
        return self.request.user

    def tokens(self) -> QuerySet[AdminToken]:
        return services.tokens_managed_by(self.me).select_related("user")

    def find(self, ref: str) -> AdminToken:
        return rows.find(self.tokens(), "prefix", ref.rstrip("…"))


class Tokens(_Managing):
    listing = Listing(
        ordering=("created_at", "prefix", "name"),
        filters=(Filter("user", "user__username"), Filter("prefix"), rows.STATE, rows.EXPIRES, rows.UNUSED),
        search=("prefix", "name", "user__username"),
    )

    @extend_schema(summary="List tokens", parameters=listing.parameters, responses=page_of(shapes.TokenRead))
    def get(self, request: Request) -> Response:
        """List tokens. Never a secret."""
        return self.listing.answer(request, self.tokens(), represent)

    @extend_schema(
        summary="Make a token",
        request=shapes.TokenWrite,
        responses={201: shapes.TokenIssued},
        examples=[OpenApiExample("To deploy", {"name": "deploy pipeline", "scopes": ["write"]}, request_only=True)],
    )
    @idempotent(without=("secret",))
    def post(self, request: Request) -> Response:
        """Make a token. The answer is the only one with the secret."""
        given = shapes.TokenWrite.model_validate(request.data)
        wanted = given.user or self.me.get_username()
        owner = services.token_owners_for(self.me).filter(username=wanted).first()
        if owner is None:
            raise Invalid(errors=[Fault("There is no such user, or not for you.", "/user")])
        token, secret = services.token_create(
            owner, name=given.name, scopes=given.scopes, expires_at=given.expires_at, by=self.me
        )
        state = represent(token)
        headers = {**rows.ONCE, "Location": rows.url(request, "token", token), "ETag": rows.tag(state)}
        return Response({**state, "secret": secret}, 201, headers=headers)


class TokenOne(_Managing):
    @extend_schema(summary="One token", responses=shapes.TokenRead)
    def get(self, request: Request, ref: str) -> Response:
        """One token, by prefix or id, without its secret."""
        return rows.show(represent(self.find(ref)))

    @extend_schema(
        summary="Change a token",
        request=shapes.TokenPatch,
        responses=shapes.TokenRead,
        examples=[OpenApiExample("Only reading", {"scopes": ["read"]}, request_only=True)],
    )
    def patch(self, request: Request, ref: str) -> Response:
        """Change name, scopes or expiry."""
        given = shapes.TokenPatch.model_validate(request.data)
        return rows.change(request, lambda: self.find(ref), represent, rows.setting(request, given))


class TokenRevoke(_Managing):
    permissions = {"POST": ("keys.change_admintoken",)}

    @extend_schema(
        summary="Revoke a token",
        request=shapes.RevokeWrite,
        responses=shapes.TokenRead,
        examples=[OpenApiExample("Leaked", {"reason": "laptop lost"}, request_only=True)],
    )
    def post(self, request: Request, ref: str) -> Response:
        """Refuse this token from the next request on, for good. Once more changes nothing."""
        given = shapes.RevokeWrite.model_validate(request.data)

        def revoke(token: AdminToken) -> AdminToken:
            return services.token_revoke(token, by=request.user, reason=given.reason)

        return rows.change(request, lambda: self.find(ref), represent, revoke)
