"""Edits of header fields, shared by the transformers: what operators may write, and how it is applied.

The order is Kong's, with `set` added: remove, rename, replace, set, add, append.

| word      | meaning                                                                  |
|-----------|--------------------------------------------------------------------------|
| `remove`  | every field of that name goes                                            |
| `rename`  | `old:new`: values and places stay; what was called `new` goes            |
| `replace` | `name:value` if there is one by that name; repeats become one            |
| `set`     | `name:value` in any case; repeats become one                             |
| `add`     | `name:value` if there is none by that name                               |
| `append`  | `name:value` as one more                                                 |

Values are templates (`gateway.plugins.templates`), filled before the first edit is made: `remove` may take away what
`set` still reads. A value whose place has nothing to fill it, or that would bring control characters into a field, is
none: `set` and `replace` then take the field away, whoever wrote it, and `add` and `append` do nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from gateway.plugins import templates
from gateway.plugins.base import PluginConfig
from gateway.plugins.templates import Template
from gateway.proxy import headers
from gateway.proxy.exchange import Exchange

MAX_EDITS = 100
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 §5.6.2
_BLANKS = " \t"
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_CONTROL_BYTES = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def check_name(name: str, *, host: bool = False) -> str:
    """Raises ValueError unless a plugin may touch that field."""
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"'{name}' is no header name: letters, digits and -_.!#$%&'*+^`|~ only.")
    lowered = name.lower()
    if lowered.encode() in headers.HOP_BY_HOP or lowered == "content-length":
        raise ValueError(f"'{name}' belongs to the connection or the body's framing; the gateway alone writes it.")
    if lowered == "host" and not host:
        raise ValueError("'Host' can only be changed by the request-transformer's `set`.")
    return name


def check_pair(pair: str, *, host: bool = False) -> str:
    name, colon, value = pair.partition(":")
    if not colon:
        raise ValueError(f"'{pair}' lacks a ':': write `name:value`.")
    check_name(name.strip(_BLANKS), host=host)
    if _CONTROL.search(value):
        raise ValueError(f"The value of '{name}' holds control characters, such as a line break.")
    return pair


def check_request_pair(pair: str) -> str:
    """With a template for its value."""
    return templates.check(check_pair(pair), templates.REQUEST)


def check_host_pair(pair: str) -> str:
    """A pair that may also be `Host`."""
    return templates.check(check_pair(pair, host=True), templates.REQUEST)


def check_answer_pair(pair: str) -> str:
    return templates.check(check_pair(pair), templates.ANSWER)


def check_rename(pair: str) -> str:
    old, colon, new = pair.partition(":")
    if not colon:
        raise ValueError(f"'{pair}' lacks a ':': write `old:new`.")
    check_name(old.strip(_BLANKS))
    check_name(new.strip(_BLANKS))
    return pair


_Text = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class HeaderNames(PluginConfig):
    headers: tuple[Annotated[_Text, AfterValidator(check_name)], ...] = Field((), max_length=MAX_EDITS)
    """Names of header fields."""


class HeaderRenames(PluginConfig):
    headers: tuple[Annotated[_Text, AfterValidator(check_rename)], ...] = Field((), max_length=MAX_EDITS)
    """`old:new` for header fields."""


class HeaderPairs(PluginConfig):
    headers: tuple[Annotated[_Text, AfterValidator(check_request_pair)], ...] = Field((), max_length=MAX_EDITS)
    """`name:value` for header fields; the value is a template."""


class AnswerPairs(HeaderPairs):
    headers: tuple[Annotated[_Text, AfterValidator(check_answer_pair)], ...] = Field((), max_length=MAX_EDITS)
    """`name:value` for header fields; the value is a template."""


def split_pairs(pairs: Iterable[str]) -> list[tuple[str, str]]:
    """`name:value` texts as pairs without surrounding blanks."""
    halves = (pair.partition(":") for pair in pairs)
    return [(name.strip(_BLANKS), value.strip(_BLANKS)) for name, _, value in halves]


Templates = list[tuple[bytes, Template]]
Values = list[tuple[bytes, bytes | None]]


def templates_of(pairs: Iterable[tuple[str, str]]) -> Templates:
    return [(name.encode(), Template(value)) for name, value in pairs]


class FilledValues:
    """What `replace`, `set`, `add` and `append` write, in this order; ready where no template has to be filled."""

    def __init__(self, *words: Templates) -> None:
        self._words = words
        fixed = all(template.constant is not None for word in words for _, template in word)
        self._fixed = [[(name, template.constant) for name, template in word] for word in words] if fixed else None

    def fill(self, exchange: Exchange) -> list[Values]:
        if self._fixed is not None:
            return self._fixed
        return [[(name, template.fill(exchange)) for name, template in word] for word in self._words]


class HeaderEdits:
    """All edits of one setting, ready to be applied to a request's or an answer's fields."""

    def __init__(
        self,
        *,
        remove: HeaderNames,
        rename: HeaderRenames,
        replace: HeaderPairs,
        put: HeaderPairs,
        add: HeaderPairs,
        append: HeaderPairs,
    ) -> None:
        self._remove = frozenset(name.lower().encode() for name in remove.headers)
        self._rename = [(old.lower().encode(), new.lower().encode()) for old, new in split_pairs(rename.headers)]
        self._values = FilledValues(*(_fields(word) for word in (replace, put, add, append)))

    def apply(self, pairs: headers.Pairs, exchange: Exchange) -> None:
        replace, put, add, append = self._values.fill(exchange)
        if self._remove:
            pairs[:] = [pair for pair in pairs if pair[0] not in self._remove]
        for old, new in self._rename:
            if headers.get(pairs, old) is not None:
                pairs[:] = [(new if name == old else name, v) for name, v in pairs if name != new or old == new]
        for name, value in replace:
            if headers.get(pairs, name) is not None:
                _put(pairs, name, value)
        for name, value in put:
            _put(pairs, name, value)
        for name, value in add:
            if headers.get(pairs, name) is None:
                _append(pairs, name, value)
        for name, value in append:
            _append(pairs, name, value)


def _put(pairs: headers.Pairs, name: bytes, value: bytes | None) -> None:
    headers.remove(pairs, name)
    _append(pairs, name, value)


def _append(pairs: headers.Pairs, name: bytes, value: bytes | None) -> None:
    if value is not None and not _CONTROL_BYTES.search(value):
        pairs.append((name, value.strip(b" \t")))


def _fields(pairs: HeaderPairs) -> Templates:
    return templates_of((name.lower(), value) for name, value in split_pairs(pairs.headers))
