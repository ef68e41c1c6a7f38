"""Traces of requests: which plugins decided, what each said, how long it took."""

from __future__ import annotations

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from dashboard import traces
from dashboard.api import examples, living
from dashboard.rollcall import RedisAway
from gateway.api.lists import check_parameters
from gateway.api.problems import RedisUnavailable
from gateway.api.views import ApiView

_SEES = ("dashboard.view_usagerow", "routes.view_route", "routes.view_pluginsetting")


class TracesBegin(ApiView):
    permissions = {"POST": _SEES}

    @extend_schema(
        summary="Trace the next requests",
        request=living.TraceWrite,
        responses={201: living.TraceBegun},
        examples=[OpenApiExample("The next ten of a route", {"route": "users"}, request_only=True)],
    )
    def post(self, request: Request) -> Response:
        """Every worker keeps the next requests that fit, with each plugin's access and response hook and the time it
        took, until there are `requests` of them or `seconds` are over. It ends a trace that runs. While none runs,
        requests pay nothing for it."""
        check_parameters(request, ())
        given = living.TraceWrite.model_validate(request.data)
        wish = traces.Wish(given.route, given.consumer, given.client_ip, given.requests, given.seconds)
        try:
            begun = traces.begin(wish)
        except RedisAway as error:
            raise RedisUnavailable(str(error)) from error
        body = {"id": begun.id, "until": begun.until, "workers": begun.workers, "silent": begun.silent}
        return Response(body, 201, headers={"Location": f"{request.path}/{begun.id}"})


class TraceRead(ApiView):
    permissions = {"GET": _SEES, "HEAD": _SEES}

    @extend_schema(
        summary="Read a trace",
        responses=living.Trace,
        examples=[examples.answer("One request", examples.TRACE)],
    )
    def get(self, request: Request, ref: str) -> Response:
        """What the workers have kept of it so far. It is known until another trace begins or the worker ends."""
        check_parameters(request, ())
        try:
            found = traces.found(ref)
        except RedisAway as error:
            raise RedisUnavailable(str(error)) from error
        if found is None:
            raise NotFound("There is no trace of this id: another one was begun since, or its workers have ended.")
        return Response({"id": found.id, "running": found.running, "items": found.items, "silent": found.silent})
