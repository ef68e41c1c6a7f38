"""OpenAPI 3.1: what spectacular cannot see by itself, added in one place for every operation.

The problems each may answer with, the headers for locking and idempotency, the ways to authenticate, pydantic shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from drf_spectacular.contrib.pydantic import PydanticExtension
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema as SpectacularSchema
from drf_spectacular.plumbing import ResolvedComponent
from pydantic.json_schema import model_json_schema

from gateway.api.idempotency import HEADER
from gateway.api.problems import CONTENT_TYPE

STORABLE = r"^[^\x00]*$"


class ShapeExtension(PydanticExtension):
    """A pydantic model as it is written in a request, or as it is answered: defaults are optional only in the first."""

    priority = 1

    def map_serializer(self, auto_schema: Any, direction: str) -> Any:
        mode = "validation" if direction == "request" else "serialization"
        template = "#/components/schemas/{model}"
        schema = model_json_schema(self.target, ref_template=template, mode=mode)  # type: ignore[arg-type]
        if direction == "request":
            _make_storable(schema)
        for name, part in schema.pop("$defs", {}).items():
            component = ResolvedComponent(name=name, type=ResolvedComponent.SCHEMA, object=name, schema=part)
            auto_schema.registry.register_on_missing(component)
        return schema


def _make_storable(schema: Any) -> None:
    """No text may hold NUL, which PostgreSQL cannot keep; those with a pattern of their own do not."""
    if isinstance(schema, list):
        for part in schema:
            _make_storable(part)
    elif isinstance(schema, dict):
        if schema.get("type") == "string" and not {"pattern", "enum", "const", "format", "anyOf"} & schema.keys():
            schema["pattern"] = STORABLE
        for part in list(schema.values()):
            _make_storable(part)


class TokenScheme(OpenApiAuthenticationExtension):
    target_class = "keys.authentication.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "A token of the admin API, `hgt_…`."}


class SessionScheme(OpenApiAuthenticationExtension):
    target_class = "gateway.api.authentication.SessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {
            "type": "apiKey",
            "in": "cookie",
            "name": "sessionid",
            "description": "A login of the dashboard; unsafe methods also need `X-CSRFToken`.",
        }


class AutoSchema(SpectacularSchema):
    """Adds `x-` notes that `complete` turns into parameters: spectacular's hook sees no views."""

    def get_operation(self, *args: Any, **kwargs: Any) -> Any:
        operation = super().get_operation(*args, **kwargs)
        handler = getattr(self.view, self.method.lower(), None)
        if operation is not None and getattr(handler, "idempotent", False):
            operation["x-idempotent"] = True
        return operation

    def get_operation_id(self) -> str:
        words = self.path.removeprefix("/admin/v1/").replace("{", "by/").replace("}", "")
        return "_".join([self.method.lower(), *words.replace("-", "_").split("/")])

    def get_tags(self) -> list[str]:
        return [self.path.removeprefix("/admin/v1/").split("/")[0]]


_PROBLEM = {
    "type": "object",
    "description": "RFC 9457.",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "errors": {"type": "array", "items": {"$ref": "#/components/schemas/Fault"}},
    },
    "example": {
        "type": "/docs/api#invalid",
        "title": "Invalid",
        "status": 422,
        "code": "invalid",
        "detail": "The body says something that cannot be.",
        "errors": [{"pointer": "/paths/0", "field": "paths", "detail": "'users' must start with '/' …"}],
    },
}
_FAULT = {
    "type": "object",
    "required": ["detail"],
    "properties": {
        "pointer": {"type": "string", "description": "Where in the body (RFC 6901)."},
        "field": {"type": "string", "description": "The last name of the pointer."},
        "parameter": {"type": "string", "description": "The query parameter or header, where it is not the body."},
        "detail": {"type": "string"},
    },
}
_TEXT = {"type": "string"}
_MEANINGS = {
    "400": "A parameter or the body cannot be read.",
    "401": "No token or session that counts.",
    "403": "Scopes or permissions do not suffice.",
    "404": "What the request names is not there.",
    "406": "`Accept` names nothing we have.",
    "409": "Sound in itself, but does not fit what is there.",
    "412": "Changed since it was read.",
    "413": "The body is too large.",
    "415": "The body's type is not one we read.",
    "422": "Every fault of the body, at its pointer.",
    "503": "PostgreSQL is not available, or Redis where workers are asked.",
}


def complete(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Spectacular's postprocessing hook."""
    result["components"].setdefault("schemas", {}).update(Problem=_PROBLEM, Fault=_FAULT)
    for path, methods in result["paths"].items():
        for method, operation in methods.items():
            responses = operation["responses"]
            for status in _statuses(method, "requestBody" in operation):
                content = {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
                responses.setdefault(status, {"description": _MEANINGS[status], "content": content})
            if method == "patch":
                _make_partial(operation, result["components"]["schemas"])
            if "requestBody" in operation and _wants_fields(operation["requestBody"], result["components"]["schemas"]):
                operation["requestBody"]["required"] = True
            if method == "get":
                responses["304"] = {"description": "As it was when the ETag of `If-None-Match` was given."}
            idempotent = operation.pop("x-idempotent", False)
            operation.setdefault("parameters", []).extend(_headers(path, method, idempotent))
    return result


def _make_partial(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """A PATCH takes any of the fields, and those it leaves out keep their values: no defaults."""
    for content in operation.get("requestBody", {}).get("content", {}).values():
        name = content["schema"].get("$ref", "").rpartition("/")[2]
        if name not in schemas or name.endswith("Patch"):
            continue
        whole = schemas[name]
        fields = {
            field: {k: v for k, v in part.items() if k != "default"} for field, part in whole["properties"].items()
        }
        partial = {key: value for key, value in whole.items() if key not in ("required", "anyOf")}
        schemas[f"{name}Patch"] = partial | {"title": f"{name}Patch", "properties": fields}
        content["schema"] = {"$ref": f"#/components/schemas/{name}Patch"}


def _wants_fields(body: dict[str, Any], schemas: dict[str, Any]) -> bool:
    """Whether none of the shapes a body may have is empty: spectacular does not look into `anyOf`."""

    def wants(schema: dict[str, Any]) -> bool:
        schema = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
        return bool(schema.get("required")) or ("anyOf" in schema and all(map(wants, schema["anyOf"])))

    return all(wants(content["schema"]) for content in body["content"].values())


def _statuses(method: str, has_body: bool) -> Iterator[str]:
    yield from ("400", "401", "403", "404", "406", "409", "503")
    if method != "get":
        yield from ("413", "422")
    if method in ("put", "patch", "delete"):
        yield "412"
    if has_body:
        yield "415"


def _headers(path: str, method: str, idempotent: bool) -> Iterator[dict[str, Any]]:
    if method == "get":
        yield _header("If-None-Match", "An ETag: 304 if nothing has changed.")
    elif method in ("put", "patch", "delete") and "{" in path:
        yield _header("If-Match", "The ETag of what was read: 412 if it has changed since.")
    elif idempotent:
        limits = {"minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"}
        yield _header(HEADER, "The same key and body again within 24 hours: the first answer, nothing created.", limits)


def _header(name: str, description: str, limits: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": _TEXT | (limits or {}),
    }
