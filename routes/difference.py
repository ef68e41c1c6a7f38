"""What differs between two documents, by rows: for a person who is about to publish, import or roll back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from routes.document import SECTIONS, setting_key

Rows = dict[str, dict[str, Any]]


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """One line for each row: `+ routes["users"]`, `- …`, `~ routes["users"]: paths, priority`."""
    return [line for section in SECTIONS for line in _lines(section, _rows(before, section), _rows(after, section))]


def _lines(section: str, before: Rows, after: Rows) -> Iterator[str]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is None:
            yield f'+ {section}["{name}"]'
        elif new is None:
            yield f'- {section}["{name}"]'
        elif changed := [field for field in new if new[field] != old.get(field)]:
            yield f'~ {section}["{name}"]: {", ".join(changed)}'


def _rows(document: Mapping[str, Any], section: str) -> Rows:
    return {_name(section, entry): entry for entry in document.get(section, [])}


def _name(section: str, entry: Mapping[str, Any]) -> str:
    name: str = entry["name"]
    return setting_key(name, entry["route"], entry["upstream"], entry["consumer"]) if section == "plugins" else name
