"""What the rows of the working copy have in common: checks, defaults and constraints made from a document's shape."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import models
from django.db.models import Q
from pydantic import ValidationError as ShapeError

from routes import syntax
from routes.parts import Part, bounds
from routes.problems import Path, Row, dotted
from routes.reading import explain


def bounded(table: str, shape: type[Part]) -> list[models.CheckConstraint]:
    return [
        models.CheckConstraint(
            condition=Q(**{f"{name}__gte": low, f"{name}__lte": high}),
            name=f"{table}_{name}_bounds",
            violation_error_message=f"{name}: from {low} to {high}.",
        )
        for name, (low, high) in bounds(shape).items()
    ]


def named(table: str) -> list[models.BaseConstraint]:
    """Uniqueness is checked at the end of a statement, so that a rollback may swap two names."""
    return [
        models.UniqueConstraint(fields=["name"], name=f"{table}_name_unique", deferrable=models.Deferrable.IMMEDIATE),
        models.CheckConstraint(
            condition=Q(name__regex=syntax.NAME),
            name=f"{table}_name_clean",
            violation_error_message="Letters, digits and . _ - only, at most 100.",
        ),
    ]


def default(shape: type[Part], name: str) -> Any:
    return shape.model_fields[name].default


def words(length: int = 255) -> ArrayField[list[str], list[str]]:
    return ArrayField(models.CharField(max_length=length), default=list, blank=True)


def field_errors(faults: list[tuple[Path, str]]) -> ValidationError:
    """Each fault at its field; deeper places are named in the sentence."""
    errors: dict[str, list[str]] = {}
    for path, message in faults:
        field, *rest = path or (NON_FIELD_ERRORS,)
        place = dotted(tuple(rest))
        named = any(isinstance(part, str) for part in rest)  # of an item of a list, the sentence quotes the text
        errors.setdefault(str(field), []).append(f"{place}: {message}" if named else message)
    return ValidationError(errors)


class ConfigRow(models.Model):
    """`shape` is the row's part of the document, without ids and related rows."""

    shape: ClassVar[type[Part]]

    class Meta:
        abstract = True

    def clean(self) -> None:
        """Check by the document's rules; take over the normal form (hosts in lower case, methods in upper)."""
        values = {name: getattr(self, name) for name in self.shape.model_fields}
        try:
            sound = self.shape.model_validate(values)
        except ShapeError as error:
            raise field_errors(explain(error)) from error
        for name in values:
            setattr(self, name, getattr(sound, name))

    @property
    def row(self) -> Row:
        """What a Problem calls this row."""
        raise NotImplementedError
