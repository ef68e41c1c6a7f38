"""Consumers: by username, whatever its case, or by id."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.api.idempotency import idempotent
from gateway.api.lists import Filter, Listing, page_of
from gateway.api.problems import Conflict
from gateway.api.views import ApiView
from keys import services
from keys.api import rows, shapes
from keys.models import Consumer


def find(ref: str) -> Consumer:
    return rows.find(Consumer.objects.all(), "username__iexact", ref)


def represent(row: Consumer) -> dict[str, Any]:
    return shapes.ConsumerRead.model_validate(row).model_dump()


class Consumers(ApiView):
    model = Consumer
    listing = Listing(
        ordering=("username", "created_at", "updated_at"),
        filters=(
            Filter("username", "username__iexact"),
            Filter("custom_id"),
            Filter("group", "groups__contains", listed=True, description="Is in this group."),
            Filter("tag", "tags__contains", listed=True, description="Has this tag."),
            Filter("enabled", kind="boolean"),
        ),
        search=("username", "custom_id", "note"),
    )

    @extend_schema(summary="List consumers", parameters=listing.parameters, responses=page_of(shapes.ConsumerRead))
    def get(self, request: Request) -> Response:
        """List consumers."""
        return self.listing.answer(request, Consumer.objects.all(), represent)

    @extend_schema(
        summary="Make a consumer",
        request=shapes.ConsumerWrite,
        responses={201: shapes.ConsumerRead},
        examples=[OpenApiExample("A customer", {"username": "alice", "groups": ["gold"]}, request_only=True)],
    )
    @idempotent()
    def post(self, request: Request) -> Response:
        """Make a consumer."""
        given = shapes.ConsumerWrite.model_validate(request.data)
        return rows.add(request, Consumer(**given.model_dump()), represent, "consumer")


class ConsumerOne(ApiView):
    model = Consumer

    @extend_schema(summary="One consumer", responses=shapes.ConsumerRead)
    def get(self, request: Request, ref: str) -> Response:
        """One consumer, by username or id."""
        return rows.show(represent(find(ref)))

    @extend_schema(
        summary="Change a consumer",
        request=shapes.ConsumerPatch,
        responses=shapes.ConsumerRead,
        examples=[OpenApiExample("Refuse all its keys", {"enabled": False}, request_only=True)],
    )
    def patch(self, request: Request, ref: str) -> Response:
        """Change a consumer. Only the fields that are given change."""
        given = shapes.ConsumerPatch.model_validate(request.data)
        return rows.change(request, lambda: find(ref), represent, rows.setting(request, given))

    @extend_schema(summary="Delete a consumer and its keys", responses={204: None})
    def delete(self, request: Request, ref: str) -> Response:
        """Delete a consumer and its keys: for superusers, as usage will name ids that are gone. Better disable it."""
        if not request.user.is_superuser:
            raise PermissionDenied("Deleting consumers is for superusers. Disable it instead.")
        with transaction.atomic():
            row = rows.locked(find(ref))
            rows.check(request, represent(row))
            # Of the app above, which says by this foreign key what is for this consumer only.
            if count := row.plugin_settings.count():
                raise Conflict(f"Plugin settings are for this consumer ({count}). Delete them first.")
            services.consumer_delete(row, by=request.user)
        return Response(status=204)
