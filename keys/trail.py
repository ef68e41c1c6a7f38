"""The audit trail of Django admin: who changed what, when, from what to what. Django's LogEntry keeps it.

A message is Django's own list of `{"added"|"changed"|"deleted": {…}}` with `before` and `after` (field → plain value)
inside, as the admin API writes it too; whatever reads only Django's words still can.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from django.contrib.admin.models import DELETION, LogEntry
from django.db.models import Model
from django.http import HttpRequest

#: Neither secrets nor what changes by itself.
UNTOLD = frozenset({"id", "digest", "password", "created_at", "updated_at", "last_used_at", "last_login"})
PASSWORDS = ("password", "usable_password")


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
            LogEntry.objects.log_actions(user_id(request), [row], DELETION, told, single_object=True)


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
