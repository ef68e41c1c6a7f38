"""What consumers, keys and tokens share: how one is found, shown, added and changed, with ETag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from django.db import IntegrityError, transaction
from django.db.models import Model, Q, QuerySet
from django.urls import reverse
from django.utils import timezone
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.api.etags import check_match, etag
from gateway.api.lists import Filter
from gateway.api.problems import Conflict
from keys import services
from keys.api.shapes import Given
from keys.models import STATES, in_state

Row = TypeVar("Row", bound=Model)
State = dict[str, Any]

#: For an answer with a secret.
ONCE = {"Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class StateFilter(Filter):
    def condition(self, text: str) -> Q:
        if text not in STATES:
            raise ValueError(f"One of {', '.join(STATES)}.")
        return in_state(text, timezone.now())


STATE = StateFilter("state", choices=STATES, description="What it is now.")
EXPIRES = Filter("expires_before", "expires_at__lt", "time", description="Ends before this moment.")
UNUSED = Filter("used_before", "last_used_at__lt", "time", description="Last used before this moment.")


def find(found: QuerySet[Row], by: str, ref: str) -> Row:
    """By what people call it, else by id. Raises NotFound."""
    called = list(found.filter(**{by: ref})[:2]) if "\0" not in ref else []
    if not called and ref.isascii() and ref.isdecimal() and len(ref) <= 18:
        called = list(found.filter(pk=int(ref)))
    if len(called) != 1:
        kind = str(found.model._meta.verbose_name)
        raise NotFound(
            f"Several have this prefix: name the {kind} by its id." if called else f"There is no such {kind}."
        )
    return called[0]


def show(state: State) -> Response:
    return Response(state, headers={"ETag": tag(state)})


def tag(state: State) -> str:
    return etag(_lasting(state))


def check(request: Request, state: State) -> None:
    """Raises PreconditionFailed."""
    check_match(request, _lasting(state))


def _lasting(state: State) -> State:
    """Without what moves by mere use: else nobody could ever change a busy key."""
    return {name: value for name, value in state.items() if name != "last_used_at"}


def add(request: Request, row: Model, represent: Callable[[Any], State], place: str) -> Response:
    try:
        state = represent(services.added(row, by=request.user))
    except IntegrityError:
        raise Conflict("Another request has just taken this name.") from None
    return Response(state, 201, headers={"Location": url(request, place, row), "ETag": tag(state)})


def change(
    request: Request, find_row: Callable[[], Row], represent: Callable[[Any], State], step: Callable[[Row], Row]
) -> Response:
    """Under a lock: `step` changes and saves the row it is given, and returns it."""
    try:
        with transaction.atomic():
            row = locked(find_row())
            check(request, represent(row))
            after = represent(step(row))
    except IntegrityError:
        raise Conflict("Another request has just taken this name.") from None
    return show(after)


def locked(row: Row) -> Row:
    """As it is now; nobody else changes it before the transaction ends. Raises NotFound."""
    manager: Any = type(row)._default_manager
    current: Row | None = manager.select_for_update(of=("self",)).filter(pk=row.pk).first()
    if current is None:
        raise NotFound()
    return current


def setting(request: Request, given: Given) -> Callable[[Row], Row]:
    """A step that sets the given fields."""

    def step(row: Row) -> Row:
        return services.changed(row, given.fields, by=request.user)

    return step


def url(request: Request, place: str, row: Model) -> str:
    return request.build_absolute_uri(reverse(f"v1:{place}", args=[row.pk]))
