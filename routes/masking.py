"""Secrets of the configuration: an upstream's client key, and of plugins' configs the fields that are pydantic's
SecretStr, or whose JSON Schema says `writeOnly`. A reference to a secret (`${env:NAME}`) is none: it is shown.

Wherever such a row is shown, stored in the audit trail or handed out, a stand-in is in the secret's place. It is of the
secret's own making (keyed by SECRET_KEY), so one that is sent back is known again wherever its row has moved, and two
versions show that a secret has changed. It stands for secrets of the same row only, and only where a secret
belongs: nobody can have one shown by writing its stand-in elsewhere.

Of a plugin that is not installed nobody knows what is secret: every text in its config is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from django.utils.crypto import salted_hmac
from pydantic_core import PydanticSerializationError, to_jsonable_python

from gateway.plugins import references
from gateway.plugins.base import PluginConfig
from routes.catalogue import registry
from routes.document import setting_key
from routes.problems import Path, Problem, pointer

MASK = "••••••••"
_STAND_IN = re.compile(rf"{MASK}[0-9a-f]{{16}}")
UNKNOWN = "This stands for a secret that is not stored here. Write the secret itself."
UPSTREAM_SECRETS = ("tls_client_key",)
_DEEPEST = 8  # a shape may hold itself

Place = tuple[str, ...]  # names, and "*" for any item of a list or value of a map
Leaf = Callable[[Any, bool, Path], Any]  # (value, whether it is secret, where)
Faults = list[tuple[Path, str]]


def mask(plugin: str, config: Any) -> Any:
    """A copy with stand-ins, by which `unmask` knows the secrets again."""
    return _mapped(config, _places(plugin), lambda value, secret, _: stand_in(value) if secret else value)


def hidden(plugin: str, config: Any) -> Any:
    """A copy to look at only."""
    return _mapped(config, _places(plugin), _hide)


def shown(config: PluginConfig) -> dict[str, Any]:
    """What a plugin works with, defaults included, to look at only."""
    try:
        plain = config.model_dump(mode="json", warnings=False)
    except PydanticSerializationError:  # holds a reference where it could not be looked up (`routes.configs`)
        fields = {name: getattr(config, name) for name in type(config).model_fields}
        plain = to_jsonable_python(fields, fallback=str)
    values: dict[str, Any] = _mapped(plain, _places_in(type(config)), _hide)
    return values


def unmask(plugin: str, config: Any, stored: Any) -> tuple[Any, Faults]:
    """A copy with the stored secrets where their stand-ins are; and the places of stand-ins for nothing, with why.

    `stored`: what the very setting holds now, of the same plugin; else nothing.
    """
    known: dict[str, Any] = {}
    faults: Faults = []
    places = _places(plugin)

    def learn(value: Any, secret: bool, _: Path) -> None:
        if secret:
            known[stand_in(value)] = value

    def put_back(value: Any, secret: bool, at: Path) -> Any:
        if not is_stand_in(value):
            return value
        if not secret or value not in known:
            faults.append((at, UNKNOWN))
        return known.get(value) if secret else value

    _mapped(stored, places, learn)
    return _mapped(config, places, put_back), faults


def with_secrets(plugin: str, config: Any, change: Callable[[Any, bool], Any]) -> Any:
    """A copy with every leaf put through `change`, which is told whether it is a secret."""
    return _mapped(config, _places(plugin), lambda value, secret, _: change(value, secret))


def document_with_secrets(document: Mapping[str, Any], change: Callable[[Any, bool], Any]) -> dict[str, Any]:
    """Of a document that compiled."""
    full = dict(document)
    if "plugins" in full:
        full["plugins"] = [
            {**entry, "config": with_secrets(entry["name"], entry["config"], change)} if entry.get("config") else entry
            for entry in full["plugins"]
        ]
    if "upstreams" in full:
        full["upstreams"] = [
            {**entry, **{name: change(entry[name], True) for name in UPSTREAM_SECRETS if entry.get(name)}}
            for entry in full["upstreams"]
        ]
    return full


def mask_entry(section: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a row as a document has it. Most have no secrets."""
    if section == "plugins":
        return {**entry, "config": mask(entry["name"], entry["config"])}
    if section == "upstreams":
        return {**entry, **{name: stand_in(entry[name]) for name in UPSTREAM_SECRETS if entry.get(name)}}
    return dict(entry)


def unmask_upstream(entry: Mapping[str, Any], stored: Mapping[str, Any]) -> tuple[dict[str, Any], Faults]:
    """As `unmask`. `stored`: what the very upstream holds now; else nothing."""
    full, faults = dict(entry), Faults()
    for name in UPSTREAM_SECRETS:
        if is_stand_in(value := entry.get(name)):
            if value == stand_in(stored.get(name, "")):
                full[name] = stored[name]
            else:
                faults.append(((name,), UNKNOWN))
    return full, faults


def mask_document(document: Mapping[str, Any]) -> dict[str, Any]:
    sections = [section for section in ("upstreams", "plugins") if section in document]
    return {**document, **{section: [mask_entry(section, row) for row in document[section]] for section in sections}}


def unmask_document(document: Any, stored: Mapping[str, Any]) -> tuple[Any, list[Problem]]:
    """A document from outside; what is not sound in it is passed on as it is."""
    if not isinstance(document, Mapping):
        return document, []
    full, problems = dict(document), list[Problem]()
    for section, unmasked in (("upstreams", _unmasked_upstream), ("plugins", _unmasked_setting)):
        if not isinstance(entries := document.get(section), list):
            continue
        known = {_key(section, entry): entry for entry in stored.get(section, ())}
        full[section] = [*entries]
        for index, entry in enumerate(entries):
            if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
                continue
            key = _key(section, entry)
            full[section][index], faults = unmasked(entry, known.get(key))
            for path, message in faults:
                problems.append(Problem((section, key), path, message, pointer((section, index, *path))))
    return full, problems


def _unmasked_upstream(entry: Mapping[str, Any], stored: Mapping[str, Any] | None) -> tuple[dict[str, Any], Faults]:
    return unmask_upstream(entry, stored or {})


def _unmasked_setting(entry: Mapping[str, Any], stored: Mapping[str, Any] | None) -> tuple[dict[str, Any], Faults]:
    if "config" not in entry:
        return dict(entry), []
    config, faults = unmask(entry["name"], entry["config"], stored["config"] if stored else {})
    return {**entry, "config": config}, [(("config", *path), message) for path, message in faults]


def is_stand_in(value: Any) -> bool:
    return isinstance(value, str) and _STAND_IN.fullmatch(value) is not None


def _hide(value: Any, secret: bool, _: Path) -> Any:
    return MASK if secret and not references.is_one(value) else value


def stand_in(secret: Any) -> str:
    """Nothing for an empty text; a reference for itself."""
    if secret == "" or references.is_one(secret):
        return str(secret)
    return f"{MASK}{salted_hmac('routes.masking', json.dumps(secret, sort_keys=True)).hexdigest()[:16]}"


def _key(section: str, entry: Mapping[str, Any]) -> str:
    if section == "upstreams":
        return str(entry["name"])
    return setting_key(*(str(entry.get(name) or "") for name in ("name", "route", "upstream", "consumer")))


def _mapped(value: Any, places: Iterable[Place] | None, leaf: Leaf, at: Path = ()) -> Any:
    """A copy with every leaf, and every secret whatever it is made of, put through `leaf`. `places` None: any text."""
    secret = isinstance(value, str) if places is None else () in (places := list(places))
    if secret and value not in (None, "", [], {}):
        return leaf(value, True, at)
    if isinstance(value, Mapping):
        return {name: _mapped(part, _below(places, str(name), "*"), leaf, (*at, name)) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(part, _below(places, "*"), leaf, (*at, index)) for index, part in enumerate(value)]
    return leaf(value, False, at)


def _below(places: Iterable[Place] | None, *heads: str) -> list[Place] | None:
    return None if places is None else [place[1:] for place in places if place and place[0] in heads]


def _places(name: str) -> tuple[Place, ...] | None:
    plugins = registry()
    return _places_in(plugins[name].Config) if name in plugins else None


@lru_cache(maxsize=256)
def _places_in(config: type[PluginConfig]) -> tuple[Place, ...]:
    found: set[Place] = set()
    for by_alias in (True, False):  # either may be what a config says
        schema = config.model_json_schema(by_alias=by_alias)
        found.update(_find(schema, schema.get("$defs", {}), ()))
    return tuple(sorted(found))


def _find(schema: Any, shapes: Mapping[str, Any], place: Place) -> Iterable[Place]:
    if not isinstance(schema, Mapping):
        return
    if schema.get("writeOnly") or schema.get("format") == "password" or len(place) > _DEEPEST:
        yield place
        return
    if reference := schema.get("$ref"):
        yield from _find(shapes[reference.rpartition("/")[2]], shapes, place)
    for name, part in schema.get("properties", {}).items():
        yield from _find(part, shapes, (*place, name))
    for keyword in ("items", "additionalProperties"):
        yield from _find(schema.get(keyword), shapes, (*place, "*"))
    for part in (*schema.get("prefixItems", ()), *schema.get("patternProperties", {}).values()):
        yield from _find(part, shapes, (*place, "*"))
    for option in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        yield from _find(option, shapes, place)
