"""API keys, under their consumer's path and all together: by prefix or by id.

A secret leaves in one answer, the one to the request that made it, and is kept nowhere: not in the trail, and not for
the `Idempotency-Key` either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from django.db import transaction
from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.api.idempotency import idempotent
from gateway.api.lists import Filter, Listing, page_of
from gateway.api.problems import Conflict, Fault, Invalid
from gateway.api.views import ApiView
from keys import services
from keys.api import consumers, rows, shapes
from keys.models import ApiKey, Consumer

#: (request, secret) → language → a ready call. What knows the routes stands above and given to `keys.api.urls`.
KeySnippets = Callable[[Request, str], Mapping[str, str]]


def represent(row: ApiKey) -> dict[str, Any]:
    own = {name: getattr(row, name) for name in shapes.KeyRead.model_fields if name != "consumer"}
    return shapes.KeyRead(**own, consumer=row.consumer.username).model_dump()


def find(ref: str) -> ApiKey:
    return rows.find(_KEYS.all(), "prefix", ref.rstrip("…"))


_KEYS = ApiKey.objects.select_related("consumer")
_FILTERS = (Filter("prefix"), rows.STATE, rows.EXPIRES, rows.UNUSED)
_SECRET = ("secret", "snippets")
_EXAMPLE = {"name": "billing job", "expires_at": "2030-01-31T12:00:00Z"}


class _Issuing(ApiView):
    """`snippets` comes from `keys.api.urls`."""

    model = ApiKey
    snippets: KeySnippets | None = None

    def issued(self, request: Request, key: ApiKey, secret: str) -> Response:
        assert self.snippets is not None
        state = represent(key)
        headers = {**rows.ONCE, "Location": rows.url(request, "key", key), "ETag": rows.tag(state)}
        body = {**state, "secret": secret, "snippets": dict(self.snippets(request, secret))}
        return Response(body, 201, headers=headers)

    def make(self, request: Request, consumer: Consumer, given: shapes.KeyOfConsumerWrite) -> Response:
        key, secret = services.key_create(
            consumer, name=given.name, scopes=given.scopes, expires_at=given.expires_at, by=request.user
        )
        return self.issued(request, key, secret)


class Keys(_Issuing):
    listing = Listing(
        ordering=("created_at", "prefix", "name"),
        filters=(
            Filter("consumer", "consumer__username__iexact", description="Of this consumer, by username."),
            Filter("consumer_id", "consumer__id", "integer", description="Of this consumer, by id."),
            *_FILTERS,
        ),
        search=("prefix", "name", "consumer__username"),
    )

    @extend_schema(summary="List keys", parameters=listing.parameters, responses=page_of(shapes.KeyRead))
    def get(self, request: Request) -> Response:
        """List keys: prefix, owner, state, expiry, last use. Never a secret."""
        return self.listing.answer(request, _KEYS.all(), represent)

    @extend_schema(
        summary="Make a key for a consumer",
        request=shapes.KeyWrite,
        responses={201: shapes.KeyIssued},
        examples=[OpenApiExample("For a job", {"consumer_id": 7, **_EXAMPLE}, request_only=True)],
    )
    @idempotent(without=_SECRET)
    def post(self, request: Request) -> Response:
        """Make a key for a consumer. The answer is the only one with the secret."""
        given = shapes.KeyWrite.model_validate(request.data)
        consumer = Consumer.objects.filter(pk=given.consumer_id).first()
        if consumer is None:
            raise Invalid(errors=[Fault("There is no such consumer.", "/consumer_id")])
        return self.make(request, consumer, given)


class KeysOfConsumer(_Issuing):
    listing = Listing(ordering=("created_at", "prefix", "name"), filters=_FILTERS, search=("prefix", "name"))

    @extend_schema(summary="List a consumer's keys", parameters=listing.parameters, responses=page_of(shapes.KeyRead))
    def get(self, request: Request, ref: str) -> Response:
        """List a consumer's keys."""
        return self.listing.answer(request, _KEYS.filter(consumer=consumers.find(ref)), represent)

    @extend_schema(
        summary="Make a key for this consumer",
        request=shapes.KeyOfConsumerWrite,
        responses={201: shapes.KeyIssued},
        examples=[OpenApiExample("For a job", _EXAMPLE, request_only=True)],
    )
    @idempotent(without=_SECRET)
    def post(self, request: Request, ref: str) -> Response:
        """Make a key for this consumer. The answer is the only one with the secret."""
        consumer = consumers.find(ref)
        return self.make(request, consumer, shapes.KeyOfConsumerWrite.model_validate(request.data))


class KeyOne(ApiView):
    model = ApiKey

    @extend_schema(summary="One key", responses=shapes.KeyRead)
    def get(self, request: Request, ref: str) -> Response:
        """One key, by prefix or id, without its secret."""
        return rows.show(represent(find(ref)))

    @extend_schema(
        summary="Change a key",
        request=shapes.KeyPatch,
        responses=shapes.KeyRead,
        examples=[OpenApiExample("A later end", {"expires_at": "2031-01-31T12:00:00Z"}, request_only=True)],
    )
    def patch(self, request: Request, ref: str) -> Response:
        """Change name, scopes or expiry. An expiry that has passed ends the key."""
        given = shapes.KeyPatch.model_validate(request.data)
        return rows.change(request, lambda: find(ref), represent, rows.setting(request, given))


class KeyRotate(_Issuing):
    permissions = {"POST": ("keys.add_apikey", "keys.change_apikey")}

    @extend_schema(
        summary="Rotate a key",
        request=shapes.RotateWrite,
        responses={201: shapes.KeyIssued},
        examples=[OpenApiExample("An hour for both", {"overlap_s": 3600}, request_only=True)],
    )
    @idempotent(without=_SECRET)
    def post(self, request: Request, ref: str) -> Response:
        """Make a successor with the same consumer, name, scopes and lifetime; the old key ends after the overlap."""
        given = shapes.RotateWrite.model_validate(request.data)
        with transaction.atomic():
            old = rows.locked(find(ref))
            rows.check(request, represent(old))
            overlap = timedelta(seconds=given.overlap_s)
            try:
                new, secret = services.key_rotate(old, overlap=overlap, by=request.user)
            except services.KeyNotLive as error:
                raise Conflict(str(error)) from None
        return self.issued(request, new, secret)


class KeyRevoke(ApiView):
    model = ApiKey
    permissions = {"POST": ("keys.change_apikey",)}

    @extend_schema(
        summary="Revoke a key",
        request=shapes.RevokeWrite,
        responses=shapes.KeyRead,
        examples=[OpenApiExample("Leaked", {"reason": "laptop lost"}, request_only=True)],
    )
    def post(self, request: Request, ref: str) -> Response:
        """Refuse this key from now on, for good. Once more changes nothing."""
        given = shapes.RevokeWrite.model_validate(request.data)

        def revoke(key: ApiKey) -> ApiKey:
            return services.key_revoke(key, by=request.user, reason=given.reason)

        return rows.change(request, lambda: find(ref), represent, revoke)
