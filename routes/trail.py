"""What an edit of the working copy did to each row, for the audit trail: read off the documents before and after.

So an entry says all of it, inline rows and what a form's clean-up made of the text included. Rows are met by id: one
with another name is the same row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db.models import Model

from keys import trail
from routes.document import PluginEntry
from routes.models import PluginSetting, Route, Target, Upstream
from routes.widgets import masked

Key = tuple[str, int]
Rows = dict[Key, dict[str, Any]]
_IDS = ("id", "consumer_id")
_KINDS = {"upstreams": "upstream", "routes": "route", "plugins": "plugin"}


def rows(document: Mapping[str, Any]) -> Rows:
    return {
        (section, entry["id"]): {name: value for name, value in entry.items() if name not in _IDS}
        for section in _KINDS
        for entry in document.get(section, [])
    }


def key_of(row: Model) -> Key:
    """Where the document has it; a target is a part of its upstream."""
    match row:
        case Target():
            return "upstreams", row.upstream_id
        case Upstream():
            return "upstreams", row.pk
        case Route():
            return "routes", row.pk
        case PluginSetting():
            return "plugins", row.pk
    raise TypeError(f"{row!r} is no row of the configuration.")


def message(before: Rows, after: Rows, own: Key) -> list[Any]:
    """Of one entry: first what became of its own row, then of the others that the edit changed."""
    keys = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key)) or [own]
    return [_step(key, before.get(key), after.get(key), key == own) for key in sorted(keys, key=lambda key: key != own)]


def only(before: Rows, after: Rows, own: Key) -> list[Any]:
    """Of one row among several that an action changed."""
    return [_step(own, before.get(own), after.get(own), True)]


def told(key: Key, entry: Mapping[str, Any]) -> dict[str, Any]:
    """As the trail may keep it: without secrets."""
    shown = dict(entry)
    if key[0] == "plugins":
        shown["config"] = masked(shown["name"], shown["config"])
    return shown


def _step(key: Key, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, own: bool) -> dict[str, Any]:
    old, new = told(key, before or {"name": "", "config": {}}), told(key, after or {"name": "", "config": {}})
    called = {} if own else {"name": _KINDS[key[0]], "object": _called(key, after or before or {})}
    if before is None and after is not None:
        return {"added": {**called, "after": new}}
    if after is None and before is not None:
        return {"deleted": {**called, "before": old}}
    return {"changed": {**called, **trail.changed(old, new)[0]["changed"]}}


def _called(key: Key, entry: Mapping[str, Any]) -> str:
    return PluginEntry.model_validate(entry).key if key[0] == "plugins" else str(entry["name"])
