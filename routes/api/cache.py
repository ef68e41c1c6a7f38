"""`POST /cache/purge`: answers that response-cache keeps are no longer used, by any worker of any node."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.api.lists import check_parameters
from gateway.api.problems import Conflict, Fault, StoreUnavailable
from gateway.api.views import ApiView
from gateway.plugins.purges import Purge
from routes import purging
from routes.api import examples
from routes.api.shapes import PurgeDone, PurgeWrite
from routes.models import Route


class CachePurge(ApiView):
    permissions = {"POST": ("routes.change_route",)}

    @extend_schema(
        summary="Purge kept answers by URL, prefix or tag",
        request=PurgeWrite,
        responses=PurgeDone,
        examples=[OpenApiExample("a tag and a path", examples.PURGE, request_only=True)],
    )
    def post(self, request: Request, **kwargs: Any) -> Response:
        check_parameters(request, ())
        wanted = PurgeWrite.model_validate(request.data)
        route = Route.objects.filter(name=wanted.route).first() if wanted.route else None
        if wanted.route and route is None:
            raise Conflict(errors=[Fault(f"There is no route '{wanted.route}'.", "/route")])
        purges = _purges(wanted, route.pk if route else 0)
        try:
            told = wanted.model_dump(exclude_defaults=True, exclude={"route"})
            purging.purge(purges, author=request.user, route=route, wanted=told)
        except purging.StoreUnavailable as error:
            raise StoreUnavailable() from error
        return Response({"purged": len(purges)})


def _purges(wanted: PurgeWrite, route: int) -> list[Purge]:
    if wanted.everything:
        return [Purge("all", route=route)]
    return [
        *(purging.purge_of("url", url, route) for url in wanted.urls),
        *(purging.purge_of("prefix", url, route) for url in wanted.prefixes),
        *(Purge("tag", tag, route=route) for tag in wanted.tags),
    ]
