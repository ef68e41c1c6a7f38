"""What differs between two documents, by rows: for a person who is about to publish, import or roll back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from routes.document import SECTIONS, PluginEntry, RouteEntry, setting_key
from routes.parts import Part
from routes.upstreams import UpstreamEntry

_SHAPES: dict[str, type[Part]] = {"upstreams": UpstreamEntry, "routes": RouteEntry, "plugins": PluginEntry}

Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class RowChange:
    """`fields` of a changed row: each with its value before and after. Empty for a row that came or went."""

    section: str
    name: str
    kind: Literal["added", "removed", "changed"]
    fields: Mapping[str, tuple[Any, Any]]

    def __str__(self) -> str:
        sign = {"added": "+", "removed": "-", "changed": "~"}[self.kind]
        line = f'{sign} {self.section}["{self.name}"]'
        return f"{line}: {', '.join(self.fields)}" if self.fields else line


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[RowChange]:
    """By section, then by name."""
    return [
        change for section in SECTIONS for change in _changes(section, _rows(before, section), _rows(after, section))
    ]


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """One line for each row: `+ routes["users"]`, `- …`, `~ routes["users"]: paths, priority`."""
    return [str(change) for change in changes(before, after)]


def _changes(section: str, before: Rows, after: Rows) -> Iterator[RowChange]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is None:
            yield RowChange(section, name, "added", {})
        elif new is None:
            yield RowChange(section, name, "removed", {})
        elif changed := {
            field: (was, new[field]) for field in new if new[field] != (was := old.get(field, _default(section, field)))
        }:
            yield RowChange(section, name, "changed", changed)


def _default(section: str, field: str) -> Any:
    """Of a field that the older document does not know yet."""
    known = _SHAPES[section].model_fields.get(field)
    return known.get_default() if known is not None and not known.is_required() else None


def _rows(document: Mapping[str, Any], section: str) -> Rows:
    return {_name(section, entry): entry for entry in document.get(section, [])}


def _name(section: str, entry: Mapping[str, Any]) -> str:
    name: str = entry["name"]
    return setting_key(name, entry["route"], entry["upstream"], entry["consumer"]) if section == "plugins" else name
