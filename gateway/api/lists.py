"""Lists: filters, search, ordering, and pages by cursor.

A cursor says after which row to go on (its place in the ordering and its id), so rows that come or go meanwhile neither
repeat nor hide others, and page 1,000 costs as much as page 1.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, reduce
from operator import or_
from typing import Any, Literal
from urllib.parse import urlencode

from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.utils.dateparse import parse_datetime
from drf_spectacular.utils import OpenApiParameter
from pydantic import BaseModel, create_model
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.api.problems import BadQuery, Fault

DEFAULT_LIMIT, MAX_LIMIT = 50, 500
LARGEST = 2**63 - 1
_MAX_TEXT = 1_000
TEXT_SCHEMA = {"type": "string", "maxLength": _MAX_TEXT, "pattern": r"^[^\x00]*$"}
Kind = Literal["text", "boolean", "integer", "time"]


@dataclass(frozen=True, slots=True)
class Filter:
    """`?name=value`. `lookup` as in a queryset's `filter()`; `listed` for arrays (`tags__contains`)."""

    name: str
    lookup: str = ""
    kind: Kind = "text"
    listed: bool = False
    choices: Sequence[str] = ()
    description: str = ""

    def condition(self, text: str) -> Q:
        """Raises ValueError with a sentence."""
        value: Any = parse(text, self.kind)
        if self.choices and value not in self.choices:
            raise ValueError(f"One of {', '.join(self.choices)}.")
        return Q(**{self.lookup or self.name: [value] if self.listed else value})


def parse(text: str, kind: Kind) -> Any:
    """A query parameter's value. Raises ValueError with a sentence."""
    match kind:
        case "boolean":
            if text not in ("true", "false"):
                raise ValueError("true or false.")
            return text == "true"
        case "integer":
            if not re.fullmatch(r"-?[0-9]{1,19}", text) or not -LARGEST <= int(text) <= LARGEST:
                raise ValueError("A whole number of 64 bits.")
            return int(text)
        case "time":
            return _moment(text)
    if "\0" in text or len(text) > _MAX_TEXT:
        raise ValueError(f"Text of at most {_MAX_TEXT} characters without NUL.")
    return text


def _moment(text: str) -> datetime:
    """In UTC: PostgreSQL knows no zones as far from it as ISO 8601 does."""
    try:
        moment = parse_datetime(text)
        if moment is not None and moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError("A time with its zone, such as 2030-01-31T12:00:00Z.")


@dataclass(frozen=True, slots=True)
class Listing:
    """What may be asked of a list. The first of `ordering` is the default (`-name` reverses); fields are never NULL."""

    ordering: Sequence[str]
    filters: Sequence[Filter] = ()
    search: Sequence[str] = ()

    @property
    def parameters(self) -> list[OpenApiParameter]:
        return list(self._parameters())

    def answer(self, request: Request, rows: QuerySet[Any], represent: Callable[[Any], Any]) -> Response:
        """`{"items": [...], "next": url or null}`, and the `Link` field. Raises BadQuery."""
        query = _Query(request, self)
        found, last = query.page(rows)
        link = None
        if last is not None:
            parameters = {**request.query_params.dict(), "cursor": query.cursor_of(last)}
            link = f"{request.build_absolute_uri(request.path)}?{urlencode(parameters)}"
        response = Response({"items": [represent(row) for row in found], "next": link})
        if link:
            response["Link"] = f'<{link}>; rel="next"'
        return response

    def _parameters(self) -> Iterator[OpenApiParameter]:
        kinds: dict[Kind, Any] = {
            "text": TEXT_SCHEMA,
            "boolean": bool,
            "integer": {"type": "integer", "minimum": -LARGEST, "maximum": LARGEST},
            "time": datetime,
        }
        for item in self.filters:
            yield OpenApiParameter(
                item.name,
                str if item.choices else kinds[item.kind],
                enum=item.choices or None,
                description=item.description or "Filter.",
            )
        if self.search:
            yield OpenApiParameter("q", TEXT_SCHEMA, description=f"Search in {', '.join(map(_first, self.search))}.")
        words = [sign + name.lstrip("-") for name in self.ordering for sign in ("", "-")]
        yield OpenApiParameter("ordering", str, enum=words, description=f"Default `{self.ordering[0]}`; `-` reverses.")
        limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
        yield OpenApiParameter("limit", limit, description="Most items on a page.")
        yield OpenApiParameter("cursor", str, description="From `next`: where the page before ended.")


class _Query:
    """One request's parameters, read; every bad one is said at once."""

    def __init__(self, request: Request, listing: Listing) -> None:
        self.faults: list[Fault] = []
        self.conditions: list[Q] = []
        self.limit, self.order = DEFAULT_LIMIT, listing.ordering[0]
        self.after: tuple[Any, int] | None = None
        by_name = {item.name: item for item in listing.filters}
        known = [*by_name, *(["q"] if listing.search else []), "ordering", "limit", "cursor"]
        cursor = ""
        for name, texts in request.query_params.lists():
            text = texts[-1]
            try:
                if name in by_name:
                    self.conditions.append(by_name[name].condition(text))
                elif name == "q" and listing.search:
                    word = parse(text, "text")
                    self.conditions.append(
                        reduce(or_, (Q(**{f"{field}__icontains": word}) for field in listing.search))
                    )
                elif name == "ordering":
                    self.order = self._ordering(text, listing)
                elif name == "limit":
                    self.limit = self._limit(text)
                elif name == "cursor":
                    cursor = text
                else:
                    raise ValueError(f"There is no such parameter. There are: {', '.join(known)}.")
            except ValueError as error:
                self.faults.append(Fault(str(error), parameter=name))
        self._read_cursor(cursor)
        if self.faults:
            raise BadQuery(errors=self.faults)

    def page(self, rows: QuerySet[Any]) -> tuple[list[Any], Any]:
        """The rows, and the last of them if there are more."""
        field, sign = self.order.lstrip("-"), "-" if self.order.startswith("-") else ""
        rows = rows.filter(*self.conditions).order_by(self.order, f"{sign}pk")
        if self.after is not None:
            value, pk = self.after
            step = "lt" if sign else "gt"
            try:
                rows = rows.filter(Q(**{f"{field}__{step}": value}) | Q(**{field: value, f"pk__{step}": pk}))
            except (ValueError, TypeError, ValidationError):
                raise BadQuery(errors=[_BAD_CURSOR]) from None
        found = list(rows[: self.limit + 1])
        return found[: self.limit], found[self.limit - 1] if len(found) > self.limit else None

    def cursor_of(self, row: Any) -> str:
        value = getattr(row, self.order.lstrip("-"))
        text = json.dumps([self.order, value.isoformat() if isinstance(value, datetime) else value, row.pk])
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def _read_cursor(self, cursor: str) -> None:
        if not cursor:
            return
        try:
            padded = cursor + "=" * (-len(cursor) % 4)
            order, value, pk = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        except (ValueError, TypeError, binascii.Error):
            self.faults.append(_BAD_CURSOR)
            return
        plain = isinstance(value, (str, int)) and (not isinstance(value, str) or "\0" not in value)
        if order != self.order or type(pk) is not int or not plain:
            self.faults.append(_BAD_CURSOR)
        self.after = value, pk

    def _ordering(self, text: str, listing: Listing) -> str:
        names = [name.lstrip("-") for name in listing.ordering]
        if text.removeprefix("-") not in names:
            raise ValueError(f"One of {', '.join(names)}, with `-` before it for the reverse.")
        return text

    def _limit(self, text: str) -> int:
        limit: int = parse(text, "integer")
        if not 1 <= limit <= MAX_LIMIT:
            raise ValueError(f"From 1 to {MAX_LIMIT}.")
        return limit


_BAD_CURSOR = Fault("This cursor is not one of this list and ordering. Begin again without it.", parameter="cursor")


def check_parameters(request: Request, known: Iterable[str]) -> None:
    """For views that are no lists: refuses parameters nobody reads, so that a misspelt one is not silent."""
    known = list(known)
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        there_are = f"There are: {', '.join(known)}." if known else "There are none."
        raise BadQuery(errors=[Fault(f"There is no such parameter. {there_are}", parameter=name) for name in unknown])


def _first(lookup: str) -> str:
    return lookup.split("__")[0]


@cache
def page_of(shape: type[BaseModel]) -> type[BaseModel]:
    """The shape of `Listing.answer` for rows of a shape, for the schema."""
    fields: Any = {"items": (list[shape], ...), "next": (str | None, ...)}  # type: ignore[valid-type]
    return create_model(f"{shape.__name__.removesuffix('Read')}Page", **fields)
