"""The trail: who changed what, when, from what to what. Django's LogEntry, so that Django admin shows it too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import Model

from gateway.api.formats import JsonRenderer

State = Mapping[str, Any] | None
_OURS = ("id", "created_at", "updated_at")


def entry(user: Any, row: Model, *, before: State, after: State, pk: Any = None) -> LogEntry:
    """Not saved yet. `before` is None for what was added, `after` for what was deleted; no secrets in either.

    `pk`: of a row that is deleted already.
    """
    called: dict[str, Any] = {"name": str(row._meta.verbose_name), "object": str(row)}
    if before is None:
        flag, message = ADDITION, {"added": {**called, "after": after}}
    elif after is None:
        flag, message = DELETION, {"deleted": {**called, "before": before}}
    else:
        changed = [name for name in after if name not in _OURS and after[name] != before.get(name)]
        flag, message = (
            CHANGE,
            {
                "changed": {
                    "fields": changed,
                    "before": {name: before.get(name) for name in changed},
                    "after": {name: after[name] for name in changed},
                }
            },
        )
    return LogEntry(
        user=user,
        content_type=ContentType.objects.get_for_model(row),
        object_id=str(pk or row.pk),
        object_repr=str(row)[:200],
        action_flag=flag,
        change_message=JsonRenderer().render([message]).decode(),
    )


def record(entries: Iterable[LogEntry]) -> None:
    """One statement. Inside the transaction of what it tells of."""
    LogEntry.objects.bulk_create(list(entries))
