"""Usernames with passwords, under their consumer's path: by username or id. A password goes in and never comes out.

No `Idempotency-Key` here: it would keep a fast digest of the password.
"""

from __future__ import annotations

from typing import Any

from django.db import IntegrityError, transaction
from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.api.lists import Listing, page_of
from gateway.api.problems import Conflict
from gateway.api.views import ApiView
from keys import services
from keys.api import consumers, rows, shapes
from keys.models import BasicCredential


def represent(row: BasicCredential) -> dict[str, Any]:
    return shapes.BasicRead.model_validate(row).model_dump()


def find(ref: str, name: str) -> BasicCredential:
    return rows.find(BasicCredential.objects.filter(consumer=consumers.find(ref)), "username", name)


class BasicsOfConsumer(ApiView):
    model = BasicCredential
    listing = Listing(ordering=("username", "created_at"), filters=(), search=("username",))

    @extend_schema(
        summary="List a consumer's basic credentials", parameters=listing.parameters,
        responses=page_of(shapes.BasicRead),
    )  # fmt: skip
    def get(self, request: Request, ref: str) -> Response:
        """List a consumer's usernames for basic-auth."""
        found = BasicCredential.objects.filter(consumer=consumers.find(ref))
        return self.listing.answer(request, found, represent)

    @extend_schema(
        summary="Make a basic credential",
        request=shapes.BasicWrite,
        responses={201: shapes.BasicRead},
        examples=[OpenApiExample("A login", {"username": "alice", "password": "a long one"}, request_only=True)],
    )
    def post(self, request: Request, ref: str) -> Response:
        """Make a username and password for this consumer."""
        consumer = consumers.find(ref)
        given = shapes.BasicWrite.model_validate(request.data)
        try:
            with transaction.atomic():
                row = services.basic_create(consumer, **given.model_dump(), by=request.user)
        except IntegrityError:
            raise Conflict("Another request has just taken this name.") from None
        state = represent(row)
        place = request.build_absolute_uri(f"{request.path}/{row.pk}")
        return Response(state, 201, headers={"Location": place, "ETag": rows.tag(state)})


class BasicOne(ApiView):
    model = BasicCredential

    @extend_schema(summary="One basic credential", responses=shapes.BasicRead)
    def get(self, request: Request, ref: str, name: str) -> Response:
        """One username of a consumer, by itself or by id, without its password."""
        return rows.show(represent(find(ref, name)))

    @extend_schema(
        summary="Change a basic credential",
        request=shapes.BasicPatch,
        responses=shapes.BasicRead,
        examples=[OpenApiExample("Another password", {"password": "a longer one"}, request_only=True)],
    )
    def patch(self, request: Request, ref: str, name: str) -> Response:
        """Change username or password. The old password is refused within two seconds."""
        given = shapes.BasicPatch.model_validate(request.data)

        def step(row: BasicCredential) -> BasicCredential:
            return services.basic_change(row, **given.fields, by=request.user)

        return rows.change(request, lambda: find(ref, name), represent, step)

    @extend_schema(summary="Delete a basic credential", responses={204: None})
    def delete(self, request: Request, ref: str, name: str) -> Response:
        """Refuse this username from now on."""
        with transaction.atomic():
            row = rows.locked(find(ref, name))
            rows.check(request, represent(row))
            services.basic_delete(row, by=request.user)
        return Response(status=204)
