"""The writes of one request: one transaction, one version, and every fault at its place in the body.

    with editing(request, comment="…") as edit:
        edit.create(Routes(), body, at=())

Faults are gathered while the block runs and raised at its end, so that a client learns all of them at once: as 422
when something is wrong by itself, as 409 when it only does not fit the rest. Either way nothing has happened.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.exceptions import PermissionDenied
from pydantic import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.api.etags import etag, matches
from gateway.api.permissions import model_permission
from gateway.api.problems import Conflict, Fault, Invalid, Path, PreconditionFailed, pointer, shape_faults
from routes import services
from routes.api.resources import Names, Resource
from routes.parts import Part
from routes.problems import CompileError, Problem, Row
from routes.reading import address

#: How long `?wait=1` waits for the workers.
WAIT_S = 5.0


class Places:
    """Where in the request's body each row stands, so that a problem of the configuration finds its place there."""

    def __init__(self) -> None:
        self._rows: dict[Row, tuple[Path, Part]] = {}

    def put(self, row: Row, at: Path, entry: Part) -> None:
        self._rows[row[:2]] = at, entry

    def fault(self, problem: Problem) -> Fault:
        if problem.row[:2] not in self._rows:
            return Fault(str(problem))
        at, entry = self._rows[problem.row[:2]]
        return Fault(problem.message, pointer((*at, *_part(problem.row[2:], entry), *problem.field)))


def _part(part: Row, entry: Part) -> Path:
    """A target or an upstream of a row, by its place among the others."""
    if not part:
        return ()
    kind, name = part
    members = getattr(entry, kind, ())
    index = next((i for i, member in enumerate(members) if _called(member) == name), None)
    return (kind,) if index is None else (kind, index)


def _called(member: Any) -> str:
    return member.name if hasattr(member, "name") else address(member.host, member.port)


class Edit:
    def __init__(self, request: Request) -> None:
        self.request = request
        self.names = Names()
        self.places = Places()
        self.faults: list[Fault] = []
        self.conflicts: list[Fault] = []
        self.said: list[str] = []
        self.change: services.Change

    def create(self, resource: Resource[Any], raw: Any, at: Path = ()) -> Any:
        """The new row, or None if something is wrong with it."""
        self._allow(resource, "add")
        return self._write(resource, raw, None, at)

    def update(
        self, resource: Resource[Any], row: Any, raw: Any, at: Path = (), *, partial: bool, if_match: str | None = None
    ) -> Any:
        """Raises PreconditionFailed."""
        self._allow(resource, "change")
        self._match(resource, row, if_match)
        if partial:
            if not isinstance(raw, dict):
                self.faults.append(Fault("An object with the fields to change.", pointer(at)))
                return None
            raw = {**resource.writable(row), **raw}
        return self._write(resource, raw, row, at)

    def delete(self, resource: Resource[Any], row: Any, at: Path = (), *, if_match: str | None = None) -> None:
        """Raises PreconditionFailed."""
        self._allow(resource, "delete")
        self._match(resource, row, if_match)
        if reason := resource.blocked(row):
            self.conflicts.append(Fault(reason, pointer(at)))
            return
        pk = row.pk
        self.said.append(f"Deleted {row._meta.verbose_name} {row}.")
        row.delete()
        row.pk = pk
        resource.forget(row, self.names)

    def _write(self, resource: Resource[Any], raw: Any, row: Any, at: Path) -> Any:
        try:
            entry = resource.shape.model_validate(raw)
        except ValidationError as error:
            self.faults += shape_faults(error, at)
            return None
        faults = [Fault(text, pointer((*at, *path))) for path, text in resource.faults(entry, row)]
        conflicts = [Fault(text, pointer((*at, *path))) for path, text in resource.conflicts(entry, row, self.names)]
        self.faults += faults
        self.conflicts += conflicts
        if faults or conflicts:
            return None
        done = "Added" if row is None else "Changed"
        row = resource.write(entry, row, self.names)
        self.places.put(row.row, at, entry)
        self.said.append(f"{done} {row._meta.verbose_name} {row}.")
        return row

    def _allow(self, resource: Resource[Any], action: str) -> None:
        permission = model_permission(resource.model, action)
        if not self.request.user.has_perm(permission):
            raise PermissionDenied(f"You lack the permission {permission}.")

    def _match(self, resource: Resource[Any], row: Any, wanted: str | None) -> None:
        if wanted is not None and not matches(wanted, etag(resource.represent(row)), weak=False):
            raise PreconditionFailed()

    def finish(self) -> None:
        if self.faults:
            raise Invalid(errors=[*self.faults, *self.conflicts])
        if self.conflicts:
            raise Conflict(errors=self.conflicts)
        self.change.comment = self.change.comment or _short(self.said)


@contextmanager
def editing(request: Request, *, comment: str = "") -> Iterator[Edit]:
    edit = Edit(request)
    try:
        with services.change(author=request.user, source="api", comment=comment) as edit.change:
            yield edit
            edit.finish()
    except CompileError as error:
        raise Conflict(
            "The configuration would not work like this.", [edit.places.fault(problem) for problem in error.problems]
        ) from error


def tell(response: Response, change: services.Change) -> Response:
    """What became of an edit, in the answer's header fields."""
    if change.version is not None:
        response["X-Config-Version"] = str(change.version.number)
    else:
        response["X-Config-Draft"] = "broken" if change.remaining else "waiting"
    return response


def _short(said: list[str]) -> str:
    return " ".join(said) if len(said) <= 3 else f"{' '.join(said[:2])} And {len(said) - 2} more."
