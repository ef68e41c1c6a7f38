"""Open WebSockets: a list over all workers, and closing one or many."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from dashboard import websockets
from dashboard.api import examples, living
from dashboard.api.asked import Parameter, read
from dashboard.rollcall import RedisAway
from dashboard.websockets import Closed, Place, Wish
from gateway.api.lists import DEFAULT_LIMIT, MAX_LIMIT, check_parameters
from gateway.api.problems import BadQuery, Fault, RedisUnavailable
from gateway.api.views import ApiView

_SEES, _ENDS = ("dashboard.view_usagerow",), ("dashboard.view_usagerow", "routes.change_route")
_MAX_LIMIT = MAX_LIMIT - 1  # each worker tells of one more, so that it is known whether there is another page


class WebSockets(ApiView):
    permissions = {"GET": _SEES, "HEAD": _SEES}
    parameters = (
        Parameter("route", "text", "Of this route, by name or id."),
        Parameter("consumer", "text", "Of this consumer, by name or id."),
        Parameter("node", "text", "On this node."),
        Parameter("limit", "integer", f"Most items on a page. Default: {DEFAULT_LIMIT}.", high=_MAX_LIMIT),
        Parameter("cursor", "text", "From `next`: where the page before ended."),
    )

    @extend_schema(
        summary="List open WebSockets",
        parameters=[parameter.schema() for parameter in parameters],
        responses=living.WebSocketPage,
        examples=[examples.answer("One of a consumer", examples.WEBSOCKETS)],
    )
    def get(self, request: Request) -> Response:
        """WebSockets that are open now, on all workers of all nodes, newest first. Workers are asked at this moment;
        those that did not answer within half a second are named in `silent`, and theirs are missing."""
        asked = read(request, self.parameters)
        wish = Wish(route=asked["route"] or "", consumer=asked["consumer"] or "", node=asked["node"] or "")
        limit = asked["limit"] or DEFAULT_LIMIT
        try:
            found = websockets.listed(wish, limit=limit, before=_place(asked["cursor"]))
        except RedisAway as error:
            raise RedisUnavailable(str(error)) from error
        link = None
        if found.older is not None:
            query = urlencode({**request.query_params.dict(), "cursor": str(found.older)})
            link = f"{request.build_absolute_uri(request.path)}?{query}"
        response = Response({"items": found.items, "next": link, "count": found.count, "silent": found.silent})
        if link:
            response["Link"] = f'<{link}>; rel="next"'
        return response


class _Closing(ApiView):
    permissions = {"POST": _ENDS}

    def close(self, request: Request, wish: Wish, given: living.WebSocketClose) -> Closed:
        try:
            return websockets.close(wish, code=given.code, reason=given.reason, author=request.user)
        except RedisAway as error:
            raise RedisUnavailable(str(error)) from error


class WebSocketClose(_Closing):
    @extend_schema(
        summary="Close a WebSocket",
        request=living.WebSocketClose,
        responses=living.WebSocketsClosed,
        examples=[OpenApiExample("A maintenance", {"code": 1012, "reason": "Back at noon."}, request_only=True)],
    )
    def post(self, request: Request, ref: str) -> Response:
        """Close one, by its id. Client and upstream are told the code and the reason; a client that does not answer
        within a second is cut off."""
        check_parameters(request, ())
        given = living.WebSocketClose.model_validate(request.data)
        closed = self.close(request, Wish(id=ref), given)
        if not closed.count:
            silent = f" No answer came from {', '.join(closed.silent)}." if closed.silent else ""
            raise NotFound(f"There is no open WebSocket with this id.{silent}")
        return _answer(closed)


class WebSocketsClose(_Closing):
    @extend_schema(
        summary="Close many WebSockets",
        request=living.WebSocketsClose,
        responses=living.WebSocketsClosed,
        examples=[OpenApiExample("All of a consumer", {"consumer": "bob", "code": 1008}, request_only=True)],
    )
    def post(self, request: Request) -> Response:
        """Close all of a route, of a consumer or on a node; what is given holds together. `items` tells of up to 500 of
        each worker."""
        check_parameters(request, ())
        given = living.WebSocketsClose.model_validate(request.data)
        return _answer(self.close(request, Wish(route=given.route, consumer=given.consumer, node=given.node), given))


def _answer(closed: Closed) -> Response:
    body: dict[str, Any] = {"count": closed.count, "items": closed.items, "silent": closed.silent}
    return Response(body)


def _place(text: str | None) -> Place | None:
    if text is None:
        return None
    place = Place.parse(text)
    if place is None:
        raise BadQuery(errors=[Fault("This cursor is not one of this list.", parameter="cursor")])
    return place
