"""Upstreams, targets, routes and plugin settings: lists and rows of the working copy."""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.api.etags import etag
from gateway.api.idempotency import idempotent
from gateway.api.lists import check_parameters, page_of
from gateway.api.permissions import SAFE
from gateway.api.problems import BadQuery, Fault
from gateway.api.views import ApiView
from routes import services
from routes.api import examples
from routes.api.edit import WAIT_S, editing, tell
from routes.api.resources import Resource, Routes, Settings, Targets, Upstreams
from routes.api.shapes import (
    DiscoveryRead,
    RouteRead,
    RouteWrite,
    SettingRead,
    SettingWrite,
    TargetRead,
    TargetWrite,
    UpstreamRead,
    UpstreamWrite,
)
from routes.health import Healths

WAIT = OpenApiParameter(
    "wait", str, enum=["0", "1"], description="1: answer when all workers serve the version, in `X-Config-Applied`."
)


class ConfigView(ApiView):
    """Of the configuration: whoever writes may wait until the workers serve it."""

    parameters: ClassVar[tuple[str, ...]] = ()  # of safe methods, where they are no list

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if request.method not in SAFE and request.method in self.allowed_methods:
            check_parameters(request, ("wait", *self.parameters))
            self.wait = flag(request, "wait")

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        if getattr(self, "wait", False) and "X-Config-Version" in response:
            report = services.wait_applied(int(response["X-Config-Version"]), WAIT_S)
            response["X-Config-Applied"] = f"{report.applied}/{report.total}"
            response["X-Config-Applied-Ms"] = f"{report.ms:.0f}"
        return response


def flag(request: Request, name: str) -> bool:
    """`?name=1`. Raises BadQuery."""
    text = request.query_params.get(name, "0")
    if text not in ("0", "1"):
        raise BadQuery(errors=[Fault("0 or 1.", parameter=name)])
    return text == "1"


class Rows(ConfigView):
    resource: ClassVar[Resource[Any]]

    def resource_for(self, **kwargs: Any) -> Resource[Any]:
        return self.resource

    def get(self, request: Request, **kwargs: Any) -> Response:
        resource = self.resource_for(**kwargs)
        return resource.listing.answer(request, resource.rows(), resource.represent)

    @idempotent()
    def post(self, request: Request, **kwargs: Any) -> Response:
        with editing(request) as edit:
            resource = self.resource_for(**kwargs)
            row = edit.create(resource, request.data)
            shown = resource.represent(resource.rows().get(pk=row.pk)) if row else None
        response = Response(shown, 201, headers={"ETag": etag(shown)})
        response["Location"] = f"{request.path}/{row.pk}"
        return tell(response, edit.change)


class Row(ConfigView):
    resource: ClassVar[Resource[Any]]

    def resource_for(self, **kwargs: Any) -> Resource[Any]:
        return self.resource

    def get(self, request: Request, ref: str, **kwargs: Any) -> Response:
        check_parameters(request, ())
        resource = self.resource_for(**kwargs)
        return Response(resource.represent(resource.find(ref)))

    def put(self, request: Request, ref: str, **kwargs: Any) -> Response:
        return self._update(request, ref, partial=False, **kwargs)

    def patch(self, request: Request, ref: str, **kwargs: Any) -> Response:
        return self._update(request, ref, partial=True, **kwargs)

    def _update(self, request: Request, ref: str, *, partial: bool, **kwargs: Any) -> Response:
        wanted = request.headers.get("If-Match")
        with editing(request) as edit:
            resource = self.resource_for(**kwargs)
            row = edit.update(resource, resource.find(ref), request.data, partial=partial, if_match=wanted)
            shown = resource.represent(resource.rows().get(pk=row.pk)) if row else None
        return tell(Response(shown, headers={"ETag": etag(shown)}), edit.change)

    def delete(self, request: Request, ref: str, **kwargs: Any) -> Response:
        with editing(request) as edit:
            resource = self.resource_for(**kwargs)
            edit.delete(resource, resource.find(ref), if_match=request.headers.get("If-Match"))
        return tell(Response(status=204), edit.change)


def described(resource: type[Resource[Any]], read: Any, write: Any, example: Any, *, one: str) -> tuple[Any, Any]:
    """Decorators for the list and the row of a resource: what OpenAPI says about them."""
    sent = OpenApiExample("write", example, request_only=True)
    ref = OpenApiParameter("ref", str, OpenApiParameter.PATH, description=f"Name or id of the {one}.")
    many = extend_schema_view(
        get=extend_schema(
            summary=f"List {resource.kind}", parameters=resource.listing.parameters, responses=page_of(read)
        ),
        post=extend_schema(
            summary=f"Create a {one}", parameters=[WAIT], request=write, responses={201: read}, examples=[sent]
        ),
    )
    row = extend_schema_view(
        get=extend_schema(summary=f"Show a {one}", parameters=[ref], responses=read),
        put=extend_schema(
            summary=f"Replace a {one}", parameters=[ref, WAIT], request=write, responses=read, examples=[sent]
        ),
        patch=extend_schema(summary=f"Change a {one}", parameters=[ref, WAIT], request=write, responses=read),
        delete=extend_schema(
            summary=f"Delete a {one}", parameters=[ref, WAIT], responses={204: OpenApiResponse(description="Gone.")}
        ),
    )
    return many, row


_upstreams, _upstream = described(Upstreams, UpstreamRead, UpstreamWrite, examples.UPSTREAM, one="upstream")
_targets, _target = described(Targets, TargetRead, TargetWrite, examples.TARGET, one="target")
_routes, _route = described(Routes, RouteRead, RouteWrite, examples.ROUTE, one="route")
_settings, _setting = described(Settings, SettingRead, SettingWrite, examples.SETTING, one="plugin setting")


@_upstreams
class UpstreamRows(Rows):
    model, resource = Upstreams.model, Upstreams()


@_upstream
class UpstreamRow(Row):
    model, resource = Upstreams.model, Upstreams()


class UpstreamDiscovery(ConfigView):
    model = Upstreams.model

    @extend_schema(
        summary="Show what discovery found",
        parameters=[OpenApiParameter("ref", str, OpenApiParameter.PATH, description="Name or id of the upstream.")],
        responses=DiscoveryRead,
    )
    def get(self, request: Request, ref: str) -> Response:
        check_parameters(request, ())
        found = Healths().discovery(Upstreams().find(ref))
        shown = {"type": "none", "source": "", "state": "none", "error": "", "refreshed_at": None, "nodes": 0}
        targets: list[dict[str, Any]] = []
        if found is not None:
            shown = {"type": found.kind} | {name: getattr(found, name) for name in list(shown)[1:]}
            targets = [
                {"address": one.address, "weight": one.weight, "priority": one.priority, "state": one.health.state}
                for one in found.targets
            ]
        return Response({**shown, "targets": targets})


def targets_of(upstream: str) -> Resource[Any]:
    return Targets(Upstreams().find(upstream))


@_targets
class TargetRows(Rows):
    model = Targets.model

    def resource_for(self, **kwargs: Any) -> Resource[Any]:
        return targets_of(kwargs["upstream"])


@_target
class TargetRow(Row):
    model = Targets.model

    def resource_for(self, **kwargs: Any) -> Resource[Any]:
        return targets_of(kwargs["upstream"])


@_route
class RouteRow(Row):
    model, resource = Routes.model, Routes()


@_settings
class SettingRows(Rows):
    model, resource = Settings.model, Settings()


@_setting
class SettingRow(Row):
    model, resource = Settings.model, Settings()
