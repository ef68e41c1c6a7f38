"""Secrets in configs of plugins: fields whose JSON Schema says `writeOnly` (as pydantic's SecretStr does).

Answers show MASK in their place; MASK in a request stands for what is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from gateway.plugins.base import PluginConfig
from gateway.plugins.registry import Registry
from routes.catalogue import registry
from routes.document import setting_key

MASK = "********"
_Place = tuple[str, ...]  # names, and "*" for any item of a list or value of a map


def mask(plugin: str, config: Mapping[str, Any]) -> dict[str, Any]:
    masked: dict[str, Any] = dict(config)
    for place in _secret_places(registry(), plugin):
        masked = _replaced(masked, place, lambda _: MASK)
    return masked


def unmask(plugin: str, config: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """The config with what is stored wherever MASK stands."""
    full: dict[str, Any] = dict(config)
    for place in _secret_places(registry(), plugin):
        full = _restored(full, stored, place)
    return full


def mask_document(document: Mapping[str, Any]) -> dict[str, Any]:
    plugins = [{**entry, "config": mask(entry["name"], entry["config"])} for entry in document.get("plugins", [])]
    return {**document, "plugins": plugins}


def unmask_document(document: Any, stored: Mapping[str, Any]) -> Any:
    """A document from outside; what is not sound in it is passed on as it is."""
    if not isinstance(document, Mapping) or not isinstance(document.get("plugins"), list):
        return document
    configs = {_key(entry): entry["config"] for entry in stored["plugins"]}
    entries = [
        {**entry, "config": unmask(entry["name"], entry["config"], configs.get(_key(entry), {}))}
        if isinstance(entry, Mapping)
        and isinstance(entry.get("config"), Mapping)
        and isinstance(entry.get("name"), str)
        else entry
        for entry in document["plugins"]
    ]
    return {**document, "plugins": entries}


def _key(entry: Mapping[str, Any]) -> str:
    return setting_key(*(str(entry.get(name) or "") for name in ("name", "route", "upstream", "consumer")))


def _secret_places(plugins: Registry, name: str) -> tuple[_Place, ...]:
    return _places_in(plugins[name].Config) if name in plugins else ()


@lru_cache(maxsize=256)
def _places_in(config: type[PluginConfig]) -> tuple[_Place, ...]:
    schema = config.model_json_schema()
    return tuple(_find(schema, schema.get("$defs", {}), ()))


def _find(schema: Mapping[str, Any], shapes: Mapping[str, Any], place: _Place) -> list[_Place]:
    if len(place) > 8:  # a shape may hold itself
        return []
    if reference := schema.get("$ref"):
        schema = shapes[reference.rpartition("/")[2]]
    if schema.get("writeOnly") or schema.get("format") == "password":
        return [place]
    found: list[_Place] = []
    for name, part in schema.get("properties", {}).items():
        found += _find(part, shapes, (*place, name))
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), Mapping):
            found += _find(schema[keyword], shapes, (*place, "*"))
    for option in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        found += _find(option, shapes, place)
    return found


def _replaced(value: Any, place: _Place, new: Any) -> Any:
    if not place:
        return new(value) if value not in (None, "") else value
    head, rest = place[0], place[1:]
    if isinstance(value, Mapping):
        return {k: _replaced(part, rest, new) if head in (k, "*") else part for k, part in value.items()}
    if isinstance(value, list) and head == "*":
        return [_replaced(part, rest, new) for part in value]
    return value


def _restored(value: Any, stored: Any, place: _Place) -> Any:
    if not place:
        return stored if value == MASK and stored is not None else value
    head, rest = place[0], place[1:]
    if isinstance(value, Mapping):
        old = stored if isinstance(stored, Mapping) else {}
        return {k: _restored(part, old.get(k), rest) if head in (k, "*") else part for k, part in value.items()}
    if isinstance(value, list) and head == "*":
        known = stored if isinstance(stored, list) else []
        return [_restored(part, known[i] if i < len(known) else None, rest) for i, part in enumerate(value)]
    return value
