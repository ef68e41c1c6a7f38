"""request-validation: lets only requests through that look as a JSON Schema or an OpenAPI document says.

Phases   access
Fails    400 `request_invalid` with every error listed; 404 `operation_unknown`, 405 `method_unknown`; 413
         `body_too_large`; 415 `media_type_refused`
Compare  Kong's request-validator (same field names; schemas are JSON Schema 2020-12, and OpenAPI 3.1 is ours)
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from gateway.plugins import bodies, openapi
from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.schemas import MAX_ERRORS, Operation, Problem, Schema, document_of, parameter_of
from gateway.proxy.errors import BodyTooLarge, Reject
from gateway.proxy.exchange import Exchange


def _schema(text: str) -> str:
    if text:
        Schema(document_of(text))
    return text


SchemaText = Annotated[str, StringConstraints(max_length=262_144), AfterValidator(_schema)]


class ParameterConfig(PluginConfig):
    in_: Literal["path", "query", "header", "cookie"] = Field(alias="in")
    """Where it stands. In the path: a parameter of the route's path."""
    name: str = Field(min_length=1, max_length=128)
    """Its name."""
    required: bool = False
    """Refuse requests without it."""
    explode: bool = True
    """A list is written by repeating the parameter. Off: in one, with commas."""
    schema_: SchemaText = Field("{}", alias="schema")
    """JSON Schema 2020-12 as JSON or YAML. Texts that look like the number or boolean its `type` asks for are one."""


class RequestValidationConfig(PluginConfig):
    body_schema: SchemaText = ""
    """JSON Schema 2020-12 of the body, as JSON or YAML. Empty: bodies are not looked at."""
    body_required: bool = True
    """With body_schema: refuse requests without a body, unless they are GET, HEAD, OPTIONS or DELETE."""
    allowed_content_types: tuple[Annotated[str, StringConstraints(max_length=128, to_lower=True)], ...] = Field(
        ("application/json",), max_length=32
    )
    """With body_schema: media types that a body may have; others get 415. Only JSON is checked against the schema."""
    parameter_schema: tuple[ParameterConfig, ...] = Field((), max_length=100)
    """What path, query, header fields and cookies must look like."""
    openapi: Annotated[str, StringConstraints(max_length=1_048_576)] = ""
    """An OpenAPI 3.1 document as JSON or YAML, in the place of the fields above. References leave it for nowhere."""
    openapi_prefix: str = Field("", max_length=1024)
    """What stands before the document's paths in a request's. Empty: the path of the document's first server."""
    max_body_bytes: int = Field(1_048_576, ge=1, le=104_857_600)
    """Largest body that is read and checked, before and after decoding; above it 413."""
    verbose_response: bool = True
    """List the errors in the answer. Off: the answer only says that there are some."""

    @model_validator(mode="after")
    def _fits_together(self) -> RequestValidationConfig:
        if bool(self.openapi) == bool(self.body_schema or self.parameter_schema):
            raise ValueError("Give body_schema or parameter_schema, or else openapi.")
        if self.openapi:
            openapi.document(self.openapi, self.openapi_prefix)
        else:
            _operation(self)
        return self


def _operation(config: RequestValidationConfig) -> Operation:
    schemas = [document_of(entry.schema_) for entry in config.parameter_schema]
    parameters = [
        parameter_of(entry.in_, entry.name, entry.required, schema, Schema(schema), entry.explode)
        for entry, schema in zip(config.parameter_schema, schemas, strict=True)
    ]
    if not config.body_schema:
        return Operation(tuple(parameters), None, False)
    body = Schema(document_of(config.body_schema))
    return Operation(tuple(parameters), dict.fromkeys(config.allowed_content_types, body), config.body_required)


class RequestValidation(Plugin):
    name = "request-validation"
    Config = RequestValidationConfig
    config: RequestValidationConfig

    def __init__(self, config: RequestValidationConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._document = openapi.document(config.openapi, config.openapi_prefix) if config.openapi else None
        self._operation = None if config.openapi else _operation(config)

    async def access(self, exchange: Exchange) -> None:
        operation, captures, bodiless = self._found(exchange)
        problems = operation.parameter_problems(exchange, captures)
        if operation.media is not None:
            problems += await self._body_problems(exchange, operation, bodiless)
        if problems:
            exchange.detail = f"request-validation: {len(problems)} errors"
            error = Reject(400, "request_invalid", "This request is not as the API wants it.")
            if self.config.verbose_response:
                error.errors = problems[:MAX_ERRORS]
            raise error

    def _found(self, exchange: Exchange) -> tuple[Operation, dict[str, str], bool]:
        """And whether the method is one that needs no body, whatever the setting says."""
        if self._operation is not None:
            bodiless = exchange.method in ("GET", "HEAD", "OPTIONS", "DELETE")
            return self._operation, exchange.path_params, bodiless
        assert self._document is not None
        found = self._document.find(exchange.path)
        if found is None:
            raise Reject(404, "operation_unknown", "The API has no such path.")
        operations, captures = found
        operation = operations.get(exchange.method)
        if operation is None and exchange.method == "HEAD":
            operation = operations.get("GET")
        if operation is None:
            allow = ((b"allow", ", ".join(operations).encode()),)
            raise Reject(405, "method_unknown", "The API has no such method for this path.", headers=allow)
        return operation, captures, False

    async def _body_problems(self, exchange: Exchange, operation: Operation, bodiless: bool) -> list[Problem]:
        body = await bodies.request_body(exchange, self.config.max_body_bytes)
        if not body:
            needed = operation.body_required and not bodiless
            return [{"pointer": "#", "detail": "A body is required."}] if needed else []
        media = bodies.media_type(exchange.headers)
        if not operation.takes(media):
            raise Reject(415, "media_type_refused", "The API takes no body of this media type here.")
        schema = operation.schema_for(media)
        if schema is None:
            return []
        try:
            value = bodies.parsed(bodies.decoded(body, exchange.headers, self.config.max_body_bytes))
        except bodies.TooLarge as error:
            raise BodyTooLarge(str(error)) from error
        except bodies.Unreadable as error:
            return [{"pointer": "#", "detail": str(error)}]
        return [{"pointer": pointer, "detail": text} for pointer, text in schema.problems(value)]
