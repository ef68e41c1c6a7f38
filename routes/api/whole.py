"""`POST /routes`: a route, or a file of routes, each with its targets, authentication and limit beside it.

    routes:
      - name: example-api
        path: /api/v1/*
        methods: [GET, POST]
        targets: [{url: "http://localhost:3000", weight: 100}]
        auth: {type: key}
        rate_limit: {requests: 1000, window: 1m}

becomes an upstream, a route and two plugin settings, in one version. Whatever is not needed may be left out; a route
may also name `upstreams` that are there already.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import urlsplit

from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_view
from pydantic import ConfigDict, Field, JsonValue, RootModel, ValidationError, WithJsonSchema, field_validator
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.api.etags import etag
from gateway.api.formats import JsonParser
from gateway.api.idempotency import idempotent
from gateway.api.lists import page_of
from gateway.api.problems import Fault, Path, pointer, shape_faults
from routes import syntax
from routes.api import examples
from routes.api.edit import Edit, editing, tell
from routes.api.formats import YAML_PARSERS
from routes.api.resources import Routes, Settings, Upstreams
from routes.api.shapes import RouteRead, RouteWrite, TargetWrite
from routes.api.views import WAIT, Rows
from routes.catalogue import references, registry
from routes.compile import config_problems
from routes.document import Conditional
from routes.parts import Part


class TargetUrl(Part):
    url: str = Field(max_length=1000, json_schema_extra={"pattern": r"^https?://[^\x00-\x20/?#@]+/?$"})
    """`http://host:port` or `https://host`."""
    weight: int = Field(100, ge=0, le=65535)


class Authentication(Part):
    """All but `type` is the plugin's own config."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    type: str = Field(max_length=100)
    """`key` for key-auth, `jwt` for jwt, and so on for each plugin that finds out who calls."""


class RateLimit(Part):
    requests: int = Field(ge=1)
    window: Annotated[str, WithJsonSchema({"type": "string", "pattern": r"^[0-9]{1,9}[smhd]$"})] | int
    """Seconds, or `90s`, `1m`, `2h`, `1d`."""


class Attached(Part):
    name: str = Field(min_length=1, max_length=100)
    """The plugin's."""
    config: dict[str, JsonValue] = {}
    when: Conditional = {}
    """Which requests it is for. Empty: every one."""
    dry_run: bool = False
    """Refuse nobody; say what would have been refused."""


class RouteWhole(RouteWrite):
    path: str = Field("", max_length=1000, json_schema_extra={"anyOf": [{"const": ""}, syntax.PATH_SCHEMA]})
    """One more of `paths`."""
    targets: list[TargetUrl] = Field([], max_length=1000)
    """Makes an upstream of the route's own name."""
    auth: Authentication | None = None
    rate_limit: RateLimit | None = None
    plugins: list[Attached] = Field([], max_length=50)
    """Settings of other plugins for this route."""

    @field_validator("path")
    @classmethod
    def _is_path(cls, path: str) -> str:
        return syntax.path(path) if path else path


class RouteFile(Part):
    routes: list[RouteWhole] = Field(min_length=1, max_length=1000)


class RouteBody(RootModel[RouteWhole | RouteFile]):
    """One route, or a file of routes."""


class RoutesRead(Part):
    routes: list[RouteRead]


class RoutesDone(RootModel[RouteRead | RoutesRead]):
    """As the request: one route, or `routes`."""


def create(edit: Edit, raw: Any, at: Path) -> Any:
    """The route's row, or None if something is wrong with any part of it."""
    try:
        whole = RouteWhole.model_validate(raw)
    except ValidationError as error:
        edit.faults += shape_faults(error, at)
        return None
    upstream, settings = _upstream(edit, whole, at), list(_settings(edit, whole, at))
    branches = [branch.model_dump() for branch in whole.upstreams]
    if upstream is not None:
        if edit.create(Upstreams(), upstream, at) is None:
            return None
        branches.append({"name": whole.name})
    route = whole.model_dump(include=set(RouteWrite.model_fields)) | {"upstreams": branches}
    if whole.path:
        route["paths"] = [whole.path, *whole.paths]
    row = edit.create(Routes(), route, at)
    if row is not None:
        for place, setting in settings:
            edit.create(Settings(), {**setting, "route": whole.name}, (*at, *place))
    return row


def _upstream(edit: Edit, whole: RouteWhole, at: Path) -> dict[str, Any] | None:
    """What to create for `targets`."""
    targets, protocols = [], set()
    for index, target in enumerate(whole.targets):
        place = (*at, "targets", index, "url")
        try:
            protocol, host, port = _read_url(target.url)
            targets.append(TargetWrite(host=host, port=port, weight=target.weight).model_dump())
            protocols.add(protocol)
        except ValidationError as error:
            edit.faults += [Fault(fault.detail, pointer(place)) for fault in shape_faults(error)]
        except ValueError as error:
            edit.faults.append(Fault(str(error), pointer(place)))
    if len(protocols) > 1:
        edit.faults.append(Fault("All http or all https: an upstream speaks one of them.", pointer((*at, "targets"))))
    if whole.targets and whole.name in edit.names.upstreams:
        text = f"There is an upstream '{whole.name}' already: change that one, or name it in `upstreams`."
        edit.conflicts.append(Fault(text, pointer((*at, "targets"))))
        return None
    if not targets or len(protocols) > 1:
        return None
    return {"name": whole.name, "protocol": protocols.pop(), "targets": targets}


def _read_url(url: str) -> tuple[str, str, int]:
    """Protocol, host, port. Raises ValueError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # Python's words for it are not for people
        raise ValueError(f"'{url}' is not a URL such as http://host:port.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"'{url}' is not a URL such as http://host:port.")
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("A target is scheme, host and port only. To change the path, use `path_rewrite`.")
    return parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80)


def _settings(edit: Edit, whole: RouteWhole, at: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(place, fields) of each sound setting; the faults of the others are told in the words of the request."""
    wanted: list[tuple[Path, dict[str, Any]]] = []
    if whole.auth is not None:
        name = _authentication(whole.auth.type)
        if name is None:
            known = ", ".join(sorted(plugin.removesuffix("-auth") for plugin in _identifying())) or "none"
            text = f"There is no authentication '{whole.auth.type}' here. There are: {known}."
            edit.faults.append(Fault(text, pointer((*at, "auth", "type"))))
        else:
            wanted.append((("auth",), {"name": name, "config": dict(whole.auth.__pydantic_extra__ or {})}))
    if whole.rate_limit is not None:
        limit = {"limit": whole.rate_limit.requests, "window": whole.rate_limit.window}
        wanted.append((("rate_limit",), {"name": "rate-limiting", "config": {"limits": [limit]}}))
    for index, attached in enumerate(whole.plugins):
        wanted.append((("plugins", index), attached.model_dump()))
    for place, setting in wanted:
        faults = config_problems(setting["name"], setting["config"], registry(), references())
        edit.faults += [Fault(text, pointer((*at, *_said_at(place, path)))) for path, text in faults]
        if not faults:
            yield place, setting


def _said_at(place: Path, path: Path) -> Path:
    match place[0], path:
        case "auth", ("config", *rest):
            return (*place, *rest)
        case "rate_limit", (*_, "limit"):
            return (*place, "requests")
        case "rate_limit", (*_, "window"):
            return (*place, "window")
        case "rate_limit", _:
            return place
    return (*place, *path)


def _authentication(kind: str) -> str | None:
    """The plugin for a type: `key` and `key-auth` are key-auth, `jwt` is jwt."""
    return next((name for name in (kind, f"{kind}-auth") if name in _identifying()), None)


def _identifying() -> list[str]:
    plugins = registry()
    return [name for name in plugins.names if plugins[name].identifies]


_EXAMPLES = [
    OpenApiExample("a whole route", examples.ROUTE_WHOLE, request_only=True),
    OpenApiExample("a route to upstreams that are there", examples.ROUTE, request_only=True),
]


@extend_schema_view(
    get=extend_schema(summary="List routes", parameters=Routes.listing.parameters, responses=page_of(RouteRead)),
    post=extend_schema(
        summary="Create a route, or a file of routes",
        description="With `targets`, `auth`, `rate_limit` and `plugins`, the upstream and the plugin settings are "
        "created with it, in one version. Takes YAML too.",
        parameters=[WAIT],
        request={"application/json": RouteBody, "application/yaml": RouteBody},
        responses={201: RoutesDone},
        examples=_EXAMPLES,
    ),
)
class RouteRows(Rows):
    model, resource = Routes.model, Routes()
    parser_classes = [JsonParser, *YAML_PARSERS]

    @idempotent()
    def post(self, request: Request, **kwargs: Any) -> Response:
        body, resource = request.data, Routes()
        many = isinstance(body, dict) and "routes" in body
        with editing(request) as edit:
            rows = self._create_all(edit, body) if many else [create(edit, body, ())]
            found = resource.rows().in_bulk([row.pk for row in rows if row is not None])
            shown = [resource.represent(found[row.pk]) for row in rows if row is not None]
        if many:
            return tell(Response({"routes": shown}, 201), edit.change)
        response = Response(shown[0], 201, headers={"ETag": etag(shown[0])})
        response["Location"] = f"{request.path}/{shown[0]['id']}"
        return tell(response, edit.change)

    def _create_all(self, edit: Edit, body: Any) -> list[Any]:
        try:
            RouteFile.model_validate(body)
        except ValidationError as error:
            edit.faults += shape_faults(error)
            return []
        return [create(edit, raw, ("routes", index)) for index, raw in enumerate(body["routes"])]
