"""The tables of fields in docs/plugins/*.md, made from the Configs. `python -m gateway.plugins.reference` renews them.

A test compares every page with what this would write, so a field cannot change without its page.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.environment import PLUGINS
from gateway.plugins.registry import Registry

PAGES = Path(__file__).resolve().parents[2] / "docs" / "plugins"
_BETWEEN = re.compile(r"(?<=<!-- fields -->\n).*?(?=<!-- /fields -->)", re.DOTALL)
_BOUNDS = {
    "minimum": "≥ {}", "maximum": "≤ {}", "maxLength": "at most {} characters",
    "minItems": "at least {}", "maxItems": "at most {}",
}  # fmt: skip


def renewed(page: str, schema: dict[str, Any]) -> str:
    """The page with its table as the schema has it. Raises ValueError for a page without the place for one."""
    table = "".join(f"{line}\n" for line in _table(schema))
    changed, places = _BETWEEN.subn(lambda _: table, page)
    if places != 1:
        raise ValueError("A plugin's page has one `<!-- fields -->` line, and one `<!-- /fields -->` line after it.")
    return changed


def _table(schema: dict[str, Any]) -> Iterator[str]:
    yield "| field | type | default | meaning |"
    yield "|---|---|---|---|"
    for path, field, required in _fields(schema, schema, ""):
        default = "required" if required else f"`{_yaml(field['default'])}`" if "default" in field else ""
        meaning = " ".join(field["description"].split()).replace("|", "\\|")
        yield f"| `{path}` | {_type(field, schema)} | {default} | {meaning} |"


def _fields(part: dict[str, Any], schema: dict[str, Any], above: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Every field, a group's own after the group. A group's default says nothing its fields do not say."""
    for name, field in part["properties"].items():
        path, inner = above + name, _target(field, schema)
        is_group = "properties" in inner
        shown = {key: value for key, value in field.items() if key != "default"} if is_group else field
        yield path, shown, name in part.get("required", ())
        items = _target(inner.get("items", {}), schema)
        if is_group:
            yield from _fields(inner, schema, f"{path}.")
        elif "properties" in items:
            yield from _fields(items, schema, f"{path}[].")


def _target(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = schema["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
    return found


def _type(field: dict[str, Any], schema: dict[str, Any]) -> str:
    inner = _target(field, schema)
    if "anyOf" in inner:
        kinds = [_type(choice, schema) for choice in inner["anyOf"] if choice.get("type") != "null"]
        return " or ".join(kinds)
    if "enum" in inner:
        return ", ".join(f"`{value}`" for value in inner["enum"])
    bounds = [text.format(inner[key]) for key, text in _BOUNDS.items() if key in inner]
    if inner["type"] == "array":
        return "; ".join([f"list of {_type(inner['items'], schema)}", *bounds])
    return ", ".join([inner["type"], *bounds])


def _yaml(value: object) -> str:
    """A default as one would write it in YAML."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list() | tuple():
            return f"[{', '.join(_yaml(item) for item in value)}]"
        case "":
            return '""'
    return str(value)


def main() -> None:
    registry = Registry.load(PLUGINS)
    for name in registry.names:
        page = PAGES / f"{name}.md"
        page.write_text(renewed(page.read_text(), registry.schema(name)))
        sys.stdout.write(f"{page}\n")


if __name__ == "__main__":
    main()
