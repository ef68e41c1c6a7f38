"""`POST /bulk`: many changes, one transaction, one version; all of them or none."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema
from pydantic import ValidationError
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.api.formats import JsonParser
from gateway.api.idempotency import idempotent
from gateway.api.problems import Fault, Invalid, pointer, shape_faults
from routes.api import examples
from routes.api.edit import Edit, editing, tell
from routes.api.formats import YAML_PARSERS
from routes.api.resources import RESOURCES
from routes.api.shapes import Bulk, BulkDone, Operation
from routes.api.views import WAIT, ConfigView


class BulkView(ConfigView):
    permissions = {"POST": ()}  # each operation asks for its own
    parser_classes = [JsonParser, *YAML_PARSERS]

    @extend_schema(
        summary="Create, update and delete many rows in one version",
        description="Operations run in order, so a route may lead to an upstream created before it.",
        parameters=[WAIT],
        request={"application/json": Bulk, "application/yaml": Bulk},
        responses=BulkDone,
        examples=[OpenApiExample("bulk", examples.BULK, request_only=True)],
    )
    @idempotent()
    def post(self, request: Request) -> Response:
        try:
            bulk = Bulk.model_validate(request.data)
        except ValidationError as error:
            raise Invalid(errors=shape_faults(error)) from error
        with editing(request, comment=bulk.comment) as edit:
            rows = [_run(edit, operation, index) for index, operation in enumerate(bulk.operations)]
        results = [
            {"op": operation.op, "resource": operation.resource, "id": row.pk, "name": str(row)}
            for operation, row in zip(bulk.operations, rows, strict=True)
        ]
        return tell(Response({"results": results}), edit.change)


def _run(edit: Edit, operation: Operation, index: int) -> Any:
    resource, at = RESOURCES[operation.resource], ("operations", index)
    if operation.op == "create":
        return edit.create(resource, operation.value, (*at, "value"))
    try:
        row = resource.find(operation.ref)
    except NotFound as error:
        edit.conflicts.append(Fault(str(error.detail), pointer((*at, "ref"))))
        return None
    wanted = operation.if_match or None
    if operation.op == "delete":
        edit.delete(resource, row, at, if_match=wanted)
        return row
    return edit.update(resource, row, operation.value, (*at, "value"), partial=True, if_match=wanted)
