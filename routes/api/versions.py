"""Versions: list, show, diff, publish, roll back; and the configuration as one document."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.api.formats import JsonParser, JsonRenderer
from gateway.api.idempotency import idempotent
from gateway.api.lists import Filter, Listing, check_parameters, page_of
from gateway.api.problems import Conflict, Fault, Invalid
from routes import masking, portable, selectors, services
from routes.api.formats import YAML_PARSERS, YamlRenderer
from routes.api.resources import is_id
from routes.api.shapes import Comment, ConfigFile, Diff, Replaced, Version, VersionSummary
from routes.api.views import WAIT, ConfigView, flag
from routes.difference import RowChange, changes, difference
from routes.models import ConfigVersion
from routes.problems import CompileError

_PUBLISH = "routes.publish_config"
_EDIT = ("routes.change_upstream", "routes.change_route", "routes.change_pluginsetting")
_REF = OpenApiParameter("ref", str, OpenApiParameter.PATH, description="A version's number, or `live`.")


def summary(version: ConfigVersion) -> dict[str, Any]:
    names = ("number", "live", "digest", "author", "source", "comment")
    parent = version.parent.number if version.parent else None
    return {name: getattr(version, name) for name in names} | {"parent": parent, "created_at": version.created_at}


def find(ref: str) -> ConfigVersion:
    """By number, or `live`. Raises NotFound."""
    rows = ConfigVersion.objects.select_related("parent").defer("parent__document")
    wanted = {"live": True} if ref == "live" else {"number": int(ref)} if is_id(ref) else {"pk": None}
    version = rows.filter(**wanted).first()
    if version is None:
        raise NotFound("Nothing was published yet." if ref == "live" else f"There is no version '{ref}'.")
    return version


class VersionRows(ConfigView):
    model = ConfigVersion
    listing = Listing(
        ordering=("-number", "created_at"),
        filters=(Filter("author"), Filter("source"), Filter("live", kind="boolean")),
        search=("comment", "author"),
    )

    @extend_schema(
        summary="List versions, newest first", parameters=listing.parameters, responses=page_of(VersionSummary)
    )
    def get(self, request: Request) -> Response:
        rows = ConfigVersion.objects.select_related("parent").defer("document", "parent__document")
        return self.listing.answer(request, rows, summary)


class VersionRow(ConfigView):
    model = ConfigVersion

    @extend_schema(summary="Show a version with its document", parameters=[_REF], responses=Version)
    def get(self, request: Request, ref: str) -> Response:
        check_parameters(request, ())
        version = find(ref)
        return Response({**summary(version), "document": masking.mask_document(version.document)})


class VersionDiff(ConfigView):
    model = ConfigVersion

    @extend_schema(
        summary="What a version changed",
        description="`ref` may be `draft`, the working copy: what publishing would change.",
        parameters=[
            _REF,
            OpenApiParameter("against", str, description="A number or `live`. Default: the version before it."),
        ],
        responses=Diff,
    )
    def get(self, request: Request, ref: str) -> Response:
        check_parameters(request, ("against",))
        if ref == "draft":
            number, document, before = None, selectors.working_document(), _find_or_none("live")
        else:
            version = find(ref)
            number, document, before = version.number, version.document, version.parent
        if against := request.query_params.get("against"):
            before = find(against)
        old = masking.mask_document(before.document) if before else {}
        new = masking.mask_document(document)
        return Response(
            {
                "number": number,
                "against": before.number if before else None,
                "lines": difference(before.document if before else {}, document),
                "changes": [_change(change) for change in changes(old, new)],
            }
        )


def _change(change: RowChange) -> dict[str, Any]:
    fields = {name: {"before": before, "after": after} for name, (before, after) in change.fields.items()}
    return {"section": change.section, "name": change.name, "change": change.kind, "fields": fields}


def _find_or_none(ref: str) -> ConfigVersion | None:
    try:
        return find(ref)
    except NotFound:
        return None


class Publish(ConfigView):
    permissions = {"POST": (_PUBLISH,)}
    scopes = {"POST": "admin"}

    @extend_schema(
        summary="Publish the working copy",
        description="Needed where GATEWAY_AUTOPUBLISH is off. The live version, if nothing has changed.",
        parameters=[WAIT],
        request=Comment,
        responses=VersionSummary,
    )
    @idempotent()
    def post(self, request: Request) -> Response:
        comment = Comment.model_validate(request.data).comment
        with telling_problems():
            version = services.publish(author=request.user, source="api", comment=comment)
        return _answer(version)


class Rollback(ConfigView):
    permissions = {"POST": (_PUBLISH,)}
    scopes = {"POST": "admin"}

    @extend_schema(
        summary="Publish an old version again",
        description="The working copy becomes equal to it; drafts are lost.",
        parameters=[_REF, WAIT],
        request=Comment,
        responses=VersionSummary,
    )
    @idempotent()
    def post(self, request: Request, ref: str) -> Response:
        comment = Comment.model_validate(request.data).comment
        number = find(ref).number
        with telling_problems():
            version = services.rollback(number, author=request.user, comment=comment)
        return _answer(version)


class Config(ConfigView):
    permissions = {"GET": ("routes.view_configversion",), "POST": (_PUBLISH, *_EDIT)}
    scopes = {"POST": "admin"}
    parser_classes = [JsonParser, *YAML_PARSERS]
    renderer_classes = [JsonRenderer, YamlRenderer]
    parameters = ("dry_run", "comment")

    @extend_schema(
        summary="The whole configuration as one document",
        description="Without ids and without defaults, so that it moves between gateways. Secrets are masked; a masked "
        "secret sent back stands for the one that is stored.",
        parameters=[OpenApiParameter("version", str, description="A number or `live`. Default: the working copy.")],
        responses={(200, "application/json"): dict, (200, "application/yaml"): dict},
    )
    def get(self, request: Request) -> Response:
        check_parameters(request, ("version",))
        ref = request.query_params.get("version")
        document = find(ref).document if ref else selectors.working_document()
        try:
            return Response(portable.to_file(masking.mask_document(document)))
        except CompileError as error:
            raise Conflict("The working copy has rows that are not sound.", _faults(error)) from error

    @extend_schema(
        summary="Replace the whole configuration",
        description="Rows are met by name; what the document does not name is deleted. One version.",
        parameters=[
            OpenApiParameter("dry_run", str, enum=["0", "1"], description="1: say what would change, change nothing."),
            OpenApiParameter("comment", str, description="Why, for the history."),
            WAIT,
        ],
        request={"application/json": ConfigFile, "application/yaml": ConfigFile},
        responses={(200, "application/json"): Replaced, (200, "application/yaml"): Replaced},
    )
    @idempotent()
    def post(self, request: Request) -> Response:
        dry_run = flag(request, "dry_run")
        comment = request.query_params.get("comment", "")
        author = request.user
        try:
            done = services.replace(request.data, author=author, source="api", comment=comment, dry_run=dry_run)
        except CompileError as error:
            raise Invalid(errors=_faults(error)) from error
        number = done.version.number if done.version else None
        response = Response({"version": number, "differences": done.differences})
        if number is not None:
            response["X-Config-Version"] = str(number)
        return response


@contextmanager
def telling_problems() -> Iterator[None]:
    """Of the configuration as it is: nothing in the body is to blame."""
    try:
        yield
    except CompileError as error:
        faults = [Fault(str(problem)) for problem in error.problems]
        raise Conflict("This configuration cannot go live.", faults) from error


def _answer(version: ConfigVersion) -> Response:
    return Response(summary(version), headers={"X-Config-Version": str(version.number)})


def _faults(error: CompileError) -> list[Fault]:
    return [Fault(problem.message if problem.pointer else str(problem), problem.pointer) for problem in error.problems]
