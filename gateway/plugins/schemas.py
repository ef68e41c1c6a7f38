"""What a request must look like: JSON Schema 2020-12 for a body, and for the texts that parameters are.

References lead only into the same document: nothing is fetched. Patterns are of the linear kind (no look-around, no
back references), since they meet what strangers send. `format` counts. Schemas are compiled when a setting is made, and
what compiles them is loaded with the first: 4 MB that most workers never need.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from gateway.plugins import bodies
from gateway.proxy import headers, query
from gateway.proxy.exchange import Exchange

if TYPE_CHECKING:
    from jsonschema_rs import Registry

MAX_ERRORS = 100
Problem = dict[str, str]
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,99})(?:\.[0-9]{1,99})?(?:[eE][+-]?[0-9]{1,2})?")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,99})")


def document_of(text: str) -> Any:
    """Of JSON or YAML. Raises ValueError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        import yaml

        try:
            return yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError):
            raise ValueError("This is neither JSON nor YAML.") from None


def registry_of(name: str, document: Any) -> Registry:
    """In it, `$ref` finds parts of `document` as `name#/pointer`. Raises ValueError."""
    import jsonschema_rs

    try:
        return jsonschema_rs.Registry([(name, document)], draft=jsonschema_rs.Draft202012)
    except jsonschema_rs.ReferencingError as error:
        raise ValueError(str(error)) from None


class Schema:
    """A compiled one. Raises ValueError for a schema that is none."""

    def __init__(self, schema: Any, registry: Registry | None = None) -> None:
        if not isinstance(schema, dict | bool):
            raise ValueError("A JSON Schema is an object, or true or false.")
        import jsonschema_rs

        try:
            self._validator = jsonschema_rs.Draft202012Validator(
                schema, registry=registry, validate_formats=True, offline=True, mask="The value",
                pattern_options=jsonschema_rs.RegexOptions(),
            )  # fmt: skip
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
            where = "/".join(map(str, getattr(error, "instance_path", ())))
            raise ValueError(f"This is no JSON Schema that can be used: at '#/{where}': {error.message}.") from None

    def problems(self, value: Any) -> list[tuple[str, str]]:
        """(JSON pointer, sentence) of at most MAX_ERRORS. What was sent is not repeated in them."""
        try:
            if self._validator.is_valid(value):
                return []
            found = islice(self._validator.iter_errors(value), MAX_ERRORS)
            return [(_pointer(error.instance_path), error.message + ".") for error in found]
        except ValueError:  # too deep for it, or text with half a character
            return [("#", "The value is nested too deeply, or has text that is no Unicode.")]


def _pointer(path: list[Any]) -> str:
    return "#" + "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


@dataclass(frozen=True, slots=True)
class Parameter:
    """`kinds`: the types its text may stand for; `items`: those of a list's texts, None if it is no list."""

    place: str
    name: str
    required: bool
    schema: Schema
    kinds: frozenset[str]
    items: frozenset[str] | None
    explode: bool

    def problems(self, exchange: Exchange, captures: dict[str, str]) -> list[Problem]:
        texts = self._texts(exchange, captures)
        if not texts:
            return [self._problem("It is required.")] if self.required else []
        if self.items is not None:
            if not self.explode:
                texts = [part for text in texts for part in text.split(",")]
            value: Any = [_value(text, self.items) for text in texts]
        elif len(texts) > 1:
            return [self._problem("It may be there only once.")]
        else:
            value = _value(texts[0], self.kinds)
        return [self._problem(text) for _, text in self.schema.problems(value)]

    def _texts(self, exchange: Exchange, captures: dict[str, str]) -> list[str]:
        if self.place == "path":
            return [captures[self.name]] if self.name in captures else []
        name = self.name.encode()
        if self.place == "query":
            found = query.get_all(exchange.query, name)
        elif self.place == "header":
            found = headers.get_all(exchange.headers, name.lower())
        else:
            cookie = headers.cookie(exchange.headers, name)
            found = [] if cookie is None else [cookie]
        return [text.decode(errors="replace") for text in found]

    def _problem(self, text: str) -> Problem:
        return {"in": self.place, "name": self.name, "detail": text}


def parameter_of(place: str, name: str, required: bool, schema: Any, compiled: Schema, explode: bool) -> Parameter:
    """`schema` with its own reference followed, to see which types a text may stand for. Raises ValueError."""
    kinds = _kinds(schema)
    if "object" in kinds:
        raise ValueError(f"The parameter '{name}': objects in parameters cannot be checked.")
    items = _kinds(schema.get("items", {})) if "array" in kinds else None
    return Parameter(place, name, required, compiled, kinds, items, explode)


def _kinds(schema: Any) -> frozenset[str]:
    named = schema.get("type", ()) if isinstance(schema, dict) else ()
    return frozenset([named] if isinstance(named, str) else named)


def _value(text: str, kinds: frozenset[str]) -> Any:
    """What the text stands for; itself, if it stands for nothing else: the schema says what is wrong with it then."""
    if kinds & {"integer", "number"} and _INTEGER.fullmatch(text):
        return int(text)
    if "number" in kinds and _NUMBER.fullmatch(text):
        return float(text)
    if "boolean" in kinds and text in ("true", "false"):
        return text == "true"
    return text


@dataclass(frozen=True, slots=True)
class Operation:
    """`media` None: bodies are not looked at. A media type without a schema is let through as it is."""

    parameters: tuple[Parameter, ...]
    media: dict[str, Schema | None] | None
    body_required: bool

    def parameter_problems(self, exchange: Exchange, captures: dict[str, str]) -> list[Problem]:
        return [problem for parameter in self.parameters for problem in parameter.problems(exchange, captures)]

    def takes(self, media: str) -> bool:
        return self.media is None or self._key(media) is not None

    def schema_for(self, media: str) -> Schema | None:
        key = None if self.media is None else self._key(media)
        return None if key is None or self.media is None or not bodies.is_json(media) else self.media[key]

    def _key(self, media: str) -> str | None:
        for key in (media, media.partition("/")[0] + "/*", "*/*"):
            if self.media is not None and key in self.media:
                return key
        return None
