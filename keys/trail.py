"""The audit trail: who changed what, when, from what to what. Django's LogEntry keeps it, Django admin shows it.

`keys.services` and `routes.services` write it, so that every door does: dashboard, Django admin, admin API. They are
told an Author: a user, or the name of somebody who is none (at a shell), of whom LogEntry can hold nothing.

A message is Django's own list of `{"added"|"changed"|"deleted": {…}}` with `before` and `after` (field → plain value)
inside; whatever reads only Django's words still can.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.contrib.contenttypes.models import ContentType
from django.db.models import Model
from django.http import HttpRequest

if TYPE_CHECKING:
    from django.contrib.admin.models import LogEntry

#: LogEntry's action flags. It is asked for when it is needed: a proxy node has no Django admin, and nobody to tell of.
ADDITION, CHANGE, DELETION = 1, 2, 3
#: Neither secrets nor what changes by itself.
UNTOLD = frozenset({"id", "digest", "password", "created_at", "updated_at", "last_used_at", "last_login"})
PASSWORDS = ("password", "usable_password")
_FLAGS = {"added": ADDITION, "changed": CHANGE, "deleted": DELETION}

Author = AbstractBaseUser | AnonymousUser | str


def name_of(author: Author) -> str:
    return author if isinstance(author, str) else author.get_username()


def user_id_of(author: Author) -> int | None:
    return None if isinstance(author, str) else author.pk


def added_record(author: Author, row: Model) -> None:
    _record(author, row, added(values(row)))


def changed_record(author: Author, row: Model, before: Mapping[str, Any], said: str = "") -> None:
    """`before`: the row's `values` then. Nothing, if they are the same."""
    message = changed(before, values(row), said)
    if message[0]["changed"]["fields"]:
        _record(author, row, message)


def said_record(author: Author, row: Model, before: Mapping[str, Any], said: str) -> None:
    """Of a change that the values do not tell."""
    _record(author, row, changed(before, values(row), said))


def deleted_record(author: Author, row: Model) -> None:
    """Before it is gone."""
    _record(author, row, deleted(row, values(row)))


def _record(author: Author, row: Model, message: list[Any]) -> None:
    if (user_id := user_id_of(author)) is not None:
        save([entry(user_id, type(row), row.pk, str(row), message)])


def entry(user_id: int, model: type[Model] | None, pk: Any, called: str, message: list[Any]) -> LogEntry:
    """Not saved yet. What it is about comes first in the message; a first step that names a thing is about a part.
    `model` None: it is about no row."""
    kind, about = next(iter(message[0].items()))
    of_part = "object" in about and about["object"] != called
    return log_entry()(
        user_id=user_id,
        content_type=ContentType.objects.get_for_model(model) if model is not None else None,
        object_id=str(pk) if model is not None else None,
        object_repr=called[:200],
        action_flag=CHANGE if of_part else _FLAGS[kind],
        change_message=json.dumps(message),
    )


def log_entry() -> type[LogEntry]:
    return apps.get_model("admin", "LogEntry")


def save(entries: Iterable[LogEntry]) -> None:
    """One statement. Inside the transaction of what it tells of."""
    log_entry().objects.bulk_create(entries)


def added(after: Mapping[str, Any]) -> list[Any]:
    return [{"added": {"after": dict(after)}}]


def changed(before: Mapping[str, Any], after: Mapping[str, Any], said: str = "") -> list[Any]:
    """Only what differs. `said`: what was done, where that is more than the change of a field."""
    fields = [name for name in after if after[name] != before.get(name)]
    step: dict[str, Any] = {
        "fields": fields,
        "before": {name: before.get(name) for name in fields},
        "after": {name: after[name] for name in fields},
    }
    return [{"changed": {**step, **({"said": said} if said else {})}}]


def deleted(row: Model, before: Mapping[str, Any]) -> list[Any]:
    return [{"deleted": {"name": str(row._meta.verbose_name), "object": str(row), "before": dict(before)}}]


def values(row: Model) -> dict[str, Any]:
    fields = [field for field in row._meta.concrete_fields if field.name not in UNTOLD]
    return {field.name: plain(getattr(row, field.name)) for field in fields}


def plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case date() | datetime():
            return value.isoformat()
        case Model() | bytes() | memoryview():
            return str(value)
    return [plain(item) for item in value] if hasattr(value, "__iter__") else str(value)


class Audited:
    """Mixin for a ModelAdmin: every entry has the values before and after."""

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        if add:
            return added(values(form.instance))
        names = [name for name in form.changed_data if not name.startswith(PASSWORDS)]
        before = {name: plain(_initial(form, name)) for name in names}
        said = "Changed the password." if len(names) < len(form.changed_data) else ""
        return changed(before, {name: plain(form.cleaned_data.get(name)) for name in names}, said)

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        for row in queryset:
            told = deleted(row, values(row))
            log_entry().objects.log_actions(user_id(request), [row], DELETION, told, single_object=True)


def user_id(request: HttpRequest) -> int:
    assert request.user.pk is not None  # the admin site lets nobody else in
    return request.user.pk


def _initial(form: Any, name: str) -> Any:
    """What stood there, as the form's own field understands it: a foreign key's id is a row."""
    value = form.get_initial_for_field(form.fields[name], name)
    related = hasattr(form.fields[name], "queryset") and not hasattr(value, "__iter__")
    return form.fields[name].to_python(value) if related and value is not None else value


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened, for people: a sentence, and (field, before, after) as text."""

    words: str
    fields: list[tuple[str, str, str]]


def steps(entry: LogEntry) -> Iterator[Step]:
    try:
        message = json.loads(entry.change_message)
    except ValueError:
        message = None
    if not isinstance(message, list) or not message:
        yield Step(entry.change_message if message is None and entry.change_message else entry.get_change_message(), [])
        return
    for part in message:
        for kind, about in part.items():
            before, after = about.get("before") or {}, about.get("after") or {}
            names = [*after, *(name for name in before if name not in after)]
            rows = [(name, text(before.get(name)), text(after.get(name))) for name in names]
            yield Step(_words(kind, about), [row for row in rows if row[1] != row[2]])


def _words(kind: str, about: Mapping[str, Any]) -> str:
    if about.get("said"):
        return str(about["said"])
    thing = f" {about['name']} “{about['object']}”" if "object" in about else ""
    fields = "" if kind != "changed" or about.get("before") else " " + ", ".join(map(str, about.get("fields", [])))
    if kind == "changed" and not about.get("fields"):
        return f"Saved{thing} without a change."
    return f"{kind.capitalize()}{fields}{thing}."


def text(value: Any) -> str:
    if value in (None, "", [], {}):
        return ""
    if isinstance(value, list) and all(isinstance(item, str | int) for item in value):
        return "\n".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
