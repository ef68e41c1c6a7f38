"""Edits of a JSON value by JSON pointer (RFC 6901), and forms as objects: what body-transformer does to a body.

| word      | meaning                                                                             |
|-----------|-------------------------------------------------------------------------------------|
| `remove`  | what is there goes                                                                  |
| `move`    | what is at `from` goes to `to`, over what is there; objects on the way are made     |
| `replace` | the value, where there is one                                                       |
| `set`     | the value in any case; objects on the way are made                                  |
| `add`     | the value, where there is none; objects on the way are made                         |
| `append`  | the value as one more of the list that is there, or that is made                    |

They are applied in this order, and then a jq program (`gateway.plugins.programs`). What a pointer does not meet (a name
in a list or in a text, an index past the end) is left alone: an edit never fails. A value is JSON; what is no JSON is a
text, and a template in any case (`gateway.plugins.templates`): a place that nothing fills makes no edit, and `$(…)`
inside of JSON text is escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode

from pydantic import AfterValidator, Field, StringConstraints

from gateway.plugins import bodies, extras, programs, templates
from gateway.plugins.base import PluginConfig
from gateway.plugins.templates import Template
from gateway.proxy.exchange import Exchange

MAX_EDITS = 100
FORM = "application/x-www-form-urlencoded"
MAX_FIELDS = 10_000
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
_ABSENT = object()
_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))


def _pointer(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f"'{text}' is no JSON pointer to a part of the body: write `/name` or `/list/0/name`.")
    if re.search(r"~(?![01])", text):
        raise ValueError(f"'{text}': in a JSON pointer `~` is written `~0`, and `/` inside of a name `~1`.")
    return text


PointerText = Annotated[str, StringConstraints(min_length=1, max_length=1024), AfterValidator(_pointer)]


class Move(PluginConfig):
    from_: PointerText = Field(alias="from")
    """JSON pointer of what is moved."""
    to: PointerText
    """JSON pointer of its new place."""


class Value(PluginConfig):
    at: PointerText
    """JSON pointer."""
    value: Annotated[str, StringConstraints(max_length=16_384), AfterValidator(lambda text: _checked(text))]
    """JSON, such as `1`, `null`, `{"a": []}`; anything else is a text. Texts are templates: `$(consumer.username)`."""


class BodyEdits(PluginConfig):
    convert: Literal["none", "form_to_json", "json_to_form"] = "none"
    """`form_to_json`: a form becomes an object, before the edits. `json_to_form`: an object becomes a form, after."""
    remove: tuple[PointerText, ...] = Field((), max_length=MAX_EDITS)
    """JSON pointers of what goes."""
    move: tuple[Move, ...] = Field((), max_length=MAX_EDITS)
    """What gets another place or name."""
    replace: tuple[Value, ...] = Field((), max_length=MAX_EDITS)
    """Values, only where there is one."""
    set: tuple[Value, ...] = Field((), max_length=MAX_EDITS)
    """Values, whether there is one or not."""
    add: tuple[Value, ...] = Field((), max_length=MAX_EDITS)
    """Values, only where there is none."""
    append: tuple[Value, ...] = Field((), max_length=MAX_EDITS)
    """Values as one more of a list."""
    jq: Annotated[str, StringConstraints(max_length=16_384), AfterValidator(lambda text: _program(text))] = ""
    """A jq program that makes the body, after all other edits: `{id, total: (.items | map(.price) | add)}`. Needs an
    extra package."""

    @property
    def idle(self) -> bool:
        return self == BodyEdits()


class Change:
    """The edits, compiled. `gives`: the media type of what is made, if it is another."""

    def __init__(self, edits: BodyEdits) -> None:
        self.program = edits.jq
        self._from_form = edits.convert == "form_to_json"
        self._to_form = edits.convert == "json_to_form"
        self.gives = {"form_to_json": b"application/json", "json_to_form": FORM.encode(), "none": None}[edits.convert]
        self._remove = [_path(pointer) for pointer in edits.remove]
        self._move = [(_path(move.from_), _path(move.to)) for move in edits.move]
        self._values = [
            (put, _path(entry.at), _filler(entry.value))
            for word, put in _WORDS.items()
            for entry in getattr(edits, word)
        ]

    def takes(self, media: str) -> bool:
        return media == FORM if self._from_form else bodies.is_json(media)

    def made(self, body: bytes, exchange: Exchange) -> bytes:
        """Without the program. Raises Unreadable."""
        root = self._edited(body, exchange)
        return _to_form(root) if self._to_form else _written(root)

    def before_program(self, body: bytes, exchange: Exchange) -> bytes:
        """Raises Unreadable, but leaves it to jq where there is nothing to be done."""
        if not (self._remove or self._move or self._values or self._from_form):
            return body
        return _written(self._edited(body, exchange))

    def after_program(self, text: bytes) -> bytes:
        """Raises Unreadable."""
        return _to_form(bodies.parsed(text)) if self._to_form else text

    def _edited(self, body: bytes, exchange: Exchange) -> Any:
        values = [(put, path, fill(exchange)) for put, path, fill in self._values]
        root = {"": _of_form(body) if self._from_form else bodies.parsed(body)}  # so that the whole has a place, too
        for path in self._remove:
            _take(root, path)
        for source, target in self._move:
            if (moved := _take(root, source)) is not _ABSENT:
                _set(root, target, moved)
        for put, path, value in values:
            if value is not _ABSENT:
                put(root, path, value)
        return root[""]


def _program(text: str) -> str:
    if text:
        extras.check("jq", "A jq program")
        if fault := programs.fault(text):
            raise ValueError(fault)
    return text


def _written(value: Any) -> bytes:
    try:
        return _ENCODER.encode(value).encode()
    except RecursionError as error:
        raise bodies.Unreadable("It is nested too deeply.") from error
    except UnicodeEncodeError:  # half a character, which JSON can write and UTF-8 cannot
        return json.dumps(value, separators=(",", ":")).encode()


def _path(pointer: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in ("", *pointer.split("/")[1:])]


def _step(holder: Any, name: str) -> Any:
    if isinstance(holder, dict):
        return holder.get(name, _ABSENT)
    if isinstance(holder, list) and _INDEX.fullmatch(name) and int(name) < len(holder):
        return holder[int(name)]
    return _ABSENT


def _holder(root: dict[str, Any], path: list[str], *, made: bool) -> Any:
    """What holds the last part of the path."""
    holder: Any = root
    for name in path[:-1]:
        inner = _step(holder, name)
        if inner is _ABSENT and made and isinstance(holder, dict):
            inner = holder[name] = {}
        holder = inner
    return holder


def _take(root: dict[str, Any], path: list[str]) -> Any:
    holder = _holder(root, path, made=False)
    found = _step(holder, path[-1])
    if found is not _ABSENT:
        del holder[path[-1] if isinstance(holder, dict) else int(path[-1])]
    return found


def _set(root: dict[str, Any], path: list[str], value: Any) -> None:
    holder, name = _holder(root, path, made=True), path[-1]
    if isinstance(holder, dict):
        holder[name] = value
    elif isinstance(holder, list):
        if name == "-" or name == str(len(holder)):  # RFC 6901: the member after the last
            holder.append(value)
        elif _step(holder, name) is not _ABSENT:
            holder[int(name)] = value


def _replace(root: dict[str, Any], path: list[str], value: Any) -> None:
    if _step(_holder(root, path, made=False), path[-1]) is not _ABSENT:
        _set(root, path, value)


def _add(root: dict[str, Any], path: list[str], value: Any) -> None:
    if _step(_holder(root, path, made=False), path[-1]) is _ABSENT:
        _set(root, path, value)


def _append(root: dict[str, Any], path: list[str], value: Any) -> None:
    found = _step(_holder(root, path, made=False), path[-1])
    if isinstance(found, list):
        found.append(value)
    else:
        _set(root, path, [value] if found is _ABSENT else [found, value])


_WORDS: dict[str, Callable[[dict[str, Any], list[str], Any], None]] = {
    "replace": _replace, "set": _set, "add": _add, "append": _append,
}  # fmt: skip


def _json_of(text: str) -> Any:
    """What it says; _ABSENT if it is no JSON."""
    try:
        return bodies.parsed(text.encode())
    except (bodies.Unreadable, UnicodeEncodeError):
        return _ABSENT


def _checked(text: str) -> str:
    _filler(text)
    return text


def _filler(text: str) -> Callable[[Exchange], Any]:
    """A fresh value for each request: what one request's edits do to it must not be seen by the next."""
    value = _json_of(text)
    return _text_filler(text) if value is _ABSENT else _value_filler(value)


def _value_filler(value: Any) -> Callable[[Exchange], Any]:
    if isinstance(value, str):
        return _text_filler(value)
    if isinstance(value, list):
        items = [_value_filler(item) for item in value]
        return lambda exchange: [one for fill in items if (one := fill(exchange)) is not _ABSENT]
    if isinstance(value, dict):
        fields = {name: _value_filler(item) for name, item in value.items()}
        return lambda exchange: {name: one for name, fill in fields.items() if (one := fill(exchange)) is not _ABSENT}
    return lambda exchange: value


def _text_filler(text: str) -> Callable[[Exchange], Any]:
    template = Template(text, templates.ANSWER)
    if template.constant is not None:
        constant = template.constant.decode()
        return lambda exchange: constant

    def fill(exchange: Exchange) -> Any:
        filled = template.fill(exchange)
        return _ABSENT if filled is None else filled.decode(errors="replace")

    return fill


def _of_form(body: bytes) -> dict[str, Any]:
    """Names that come more than once are lists. Raises Unreadable."""
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError as error:
        raise bodies.Unreadable("It is no form in UTF-8, or has too many fields.") from error
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name not in fields:
            fields[name] = value
        elif isinstance(fields[name], list):
            fields[name].append(value)
        else:
            fields[name] = [fields[name], value]
    return fields


def _to_form(value: Any) -> bytes:
    """Lists repeat the name. Raises Unreadable."""
    if not isinstance(value, dict):
        raise bodies.Unreadable("Only an object can become a form.")
    pairs = []
    for name, entry in value.items():
        for item in entry if isinstance(entry, list) else [entry]:
            if isinstance(item, dict | list):
                raise bodies.Unreadable("A form has no place for objects and lists inside of its fields.")
            pairs.append((name, item if isinstance(item, str) else json.dumps(item)))
    try:
        return urlencode(pairs).encode()
    except UnicodeEncodeError as error:
        raise bodies.Unreadable("It has text that is no Unicode.") from error
