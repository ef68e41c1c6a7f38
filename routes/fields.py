"""The fields of a plugin's config as a form needs them, made from its JSON Schema, and the way there and back.

    fields = fields_of(RateLimitingConfig)
    texts = texts_of(fields, {"limits": [{"limit": 5, "window": "1m"}], "by": "ip"})
    # {"limits.0": "", "limits.0.limit": "5", "limits.0.window": "1m", "by": "ip", …}
    config_of(fields, texts)  # the config again

Texts are flat, as a browser sends them: a dotted path (that of `ConfigProblems`) → what stands in the form. An empty
text leaves the field out, so that the plugin's default holds; `<path>~said` keeps what a config said in so many words
and no text can (`null`, `[]`, a switch at its default). Reading never fails: what is no number stays text, and the
plugin's own rules say what is wrong with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel

Kind = Literal["text", "number", "switch", "choice", "lines", "group", "rows", "secret", "json", "area"]
Texts = dict[str, str]
Schema = Mapping[str, Any]

SAID = "~said"
LINE = 4096  # characters; texts that may be longer have lines: documents, certificates, keys
_NOTHING: tuple[Any, ...] = (None, "", [], {})


@dataclass(frozen=True, slots=True)
class Field:
    """`default` None: none to speak of. `numeric`: text that reads as a number is one. `fields`: of a group or row."""

    name: str
    kind: Kind
    help: str = ""
    required: bool = False
    default: Any = None
    low: float | None = None
    high: float | None = None
    integer: bool = False
    numeric: bool = False
    max_length: int | None = None
    choices: tuple[Any, ...] = ()
    fields: tuple[Field, ...] = ()

    @property
    def label(self) -> str:
        return self.name.replace("_", " ").capitalize()


@lru_cache(maxsize=128)
def fields_of(config: type[BaseModel]) -> tuple[Field, ...]:
    """In the order of the Config. Made once for each: a list of settings asks for every row."""
    schema = config.model_json_schema(mode="validation")
    return _fields(schema, schema.get("$defs", {}))


def texts_of(fields: tuple[Field, ...], config: Mapping[str, Any], path: str = "") -> Texts:
    texts: Texts = {}
    for field in fields:
        place = path + field.name
        said = field.name in config
        value = config.get(field.name)
        found = _texts(field, place, value if said else (field.default if field.kind == "switch" else None))
        if said and (
            isinstance(value, bool) if field.kind == "switch" else value in _NOTHING and not any(found.values())
        ):
            found[place + SAID] = json.dumps(value)
        texts |= found
    return texts


def config_of(fields: tuple[Field, ...], texts: Mapping[str, str], path: str = "") -> dict[str, Any]:
    config = {}
    for field in fields:
        place = path + field.name
        said, value = _read(field, place, texts)
        if said:
            config[field.name] = value
    return config


def can_say(fields: tuple[Field, ...], config: object) -> bool:
    """Whether a form of these fields gives back this very config."""
    if not isinstance(config, Mapping):
        return False
    again = config_of(fields, texts_of(fields, config))
    return json.dumps(again, sort_keys=True) == json.dumps(config, sort_keys=True)


def shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _fields(schema: Schema, shapes: Schema) -> tuple[Field, ...]:
    required = schema.get("required", ())
    return tuple(_field(name, part, shapes, name in required) for name, part in schema.get("properties", {}).items())


def _field(name: str, schema: Schema, shapes: Schema, required: bool = False) -> Field:
    kinds = [_resolved(part, shapes) for part in schema.get("anyOf", [schema])]
    kinds = [part for part in kinds if part.get("type") != "null"]
    names = {part.get("type") for part in kinds}
    if names <= {"string", "number", "integer"} and len(kinds) > 1:
        kind: dict[str, Any] = {"kind": "text", "numeric": "string" not in names or len(names) > 1}
    else:
        kind = _kind(kinds[0], shapes) if len(kinds) == 1 else {"kind": "json"}
    return Field(
        name=name, help=schema.get("description", "").replace("\n", " "), required=required,
        default=schema.get("default"), **kind,
    )  # fmt: skip


def _kind(schema: Schema, shapes: Schema) -> dict[str, Any]:
    if "enum" in schema or "const" in schema:
        return {"kind": "choice", "choices": tuple(schema.get("enum", [schema.get("const")]))}
    match schema.get("type"):
        case "boolean":
            return {"kind": "switch"}
        case "integer" | "number" as kind:
            low, high = schema.get("minimum"), schema.get("maximum")
            return {"kind": "number", "numeric": True, "integer": kind == "integer", "low": low, "high": high}
        case "string":
            secret = bool(schema.get("writeOnly")) or schema.get("format") == "password"
            longest = schema.get("maxLength")
            return {"kind": "secret" if secret else "area" if (longest or 0) > LINE else "text", "max_length": longest}
        case "array" if "items" in schema and "prefixItems" not in schema:
            return _list(_resolved(schema["items"], shapes), shapes)
        case "object" if "properties" in schema:
            return {"kind": "group", "fields": _fields(schema, shapes)}
    return {"kind": "json"}


def _list(item: Schema, shapes: Schema) -> dict[str, Any]:
    if item.get("type") == "object" and "properties" in item:
        return {"kind": "rows", "fields": _fields(item, shapes)}
    if item.get("type") in ("string", "integer", "number"):
        return {"kind": "lines", "numeric": item["type"] != "string", "choices": tuple(item.get("enum", ()))}
    return {"kind": "json"}


def _resolved(schema: Schema, shapes: Schema) -> Schema:
    return shapes[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _texts(field: Field, place: str, value: Any) -> Texts:
    """Of a value that may be anything: what does not fit the field shows somehow, and reads as something else."""
    match field.kind:
        case "group" if isinstance(value, Mapping):
            return texts_of(field.fields, value, place + ".")
        case "group":
            return texts_of(field.fields, {}, place + ".")
        case "rows" if isinstance(value, list) and all(isinstance(row, Mapping) for row in value):
            texts: Texts = {}
            for index, row in enumerate(value):
                texts |= {f"{place}.{index}": "", **texts_of(field.fields, row, f"{place}.{index}.")}
            return texts
        case "rows":
            return {}
        case "switch":
            return {place: "on"} if value is True else {}
        case "lines" if isinstance(value, list):
            return {place: "\n".join(map(shown, value))}
        case "json" if value is not None:
            return {place: json.dumps(value, indent=2, ensure_ascii=False)}
    return {place: "" if value is None else shown(value)}


def _read(field: Field, place: str, texts: Mapping[str, str]) -> tuple[bool, Any]:
    """(whether the config says it, what)."""
    value: Any
    match field.kind:
        case "switch":
            value = place in texts
            return place + SAID in texts or value != field.default, value
        case "group":
            value = config_of(field.fields, texts, place + ".")
        case "rows":
            value = [config_of(field.fields, texts, f"{place}.{index}.") for index in _indices(place, texts)]
        case "lines":
            lines = [line.strip() for line in texts.get(place, "").splitlines()]
            value = [_number(line) if field.numeric else line for line in lines if line]
        case _:
            value = _value(field, texts.get(place, ""))
    if value in _NOTHING:
        return _said(texts.get(place + SAID))
    return True, value


def _said(text: str | None) -> tuple[bool, Any]:
    try:
        return (False, None) if text is None else (True, json.loads(text))
    except ValueError:
        return False, None


def _value(field: Field, text: str) -> Any:
    if field.kind == "choice":
        return next((choice for choice in field.choices if shown(choice) == text), text)
    if field.kind == "json":
        try:
            return json.loads(text) if text.strip() else ""
        except ValueError:
            return text
    if field.kind == "area":
        return text.replace("\r\n", "\n")
    text = re.sub(r"[\r\n]", "", text)  # as browsers do in a field of one line
    return _number(text) if field.numeric else text


def _number(text: str) -> Any:
    if re.fullmatch(r"\s*-?[0-9]{1,30}\s*", text):
        return int(text)
    return float(text) if re.fullmatch(r"\s*-?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?\s*", text) else text


def _indices(place: str, texts: Mapping[str, str]) -> list[int]:
    rows = re.compile(re.escape(place) + r"\.([0-9]{1,4})")
    return sorted({int(found[1]) for found in map(rows.fullmatch, texts) if found})
