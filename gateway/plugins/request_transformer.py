"""request-transformer: changes header fields, query parameters and the path before the request goes upstream.

Phases   access
Fails    500 `plugin_failed` if the route's path has no parameter of a name that `path` uses
Compare  Kong's request-transformer (same shape; `set` and `path` are ours, `path` is its `replace.uri`; bodies stay)

Query parameters that no edit names keep the bytes the client wrote. See `gateway.plugins.edits` for the words' meaning.
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import quote

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.edits import (
    MAX_EDITS,
    HeaderEdits,
    HeaderNames,
    HeaderPairs,
    HeaderRenames,
    check_host_pair,
    split_pairs,
)
from gateway.proxy import query
from gateway.proxy.errors import PluginFailed
from gateway.proxy.exchange import Exchange

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_Text = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


def _query_pair(pair: str) -> str:
    name, colon, _ = pair.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"'{pair}' must be `name:value`.")
    return pair


def _query_rename(pair: str) -> str:
    old, colon, new = (part.strip() for part in pair.partition(":"))
    if not (old and colon and new):
        raise ValueError(f"'{pair}' must be `old:new`.")
    return pair


def _path(template: str) -> str:
    if not template:
        return template
    literal = _PARAMETER.sub("", template)
    if not template.startswith("/"):
        raise ValueError("The path must start with '/'.")
    if re.search(r"[\x00-\x20\x7f?#]", literal) or "*" in literal[:-1]:
        raise ValueError("The path holds no spaces, '?' or '#', and '*' only at its very end.")
    if "{" in literal or "}" in literal:
        raise ValueError("Braces stand around one parameter's name only, as in '/users/{id}'.")
    if re.search(r"%(?![0-9A-Fa-f]{2})", literal):
        raise ValueError("'%' must be followed by two hexadecimal digits.")
    return template


class Names(HeaderNames):
    querystring: tuple[_Text, ...] = Field((), max_length=MAX_EDITS)
    """Names of query parameters."""


class Renames(HeaderRenames):
    querystring: tuple[Annotated[_Text, AfterValidator(_query_rename)], ...] = Field((), max_length=MAX_EDITS)
    """`old:new` for query parameters."""


class Pairs(HeaderPairs):
    querystring: tuple[Annotated[_Text, AfterValidator(_query_pair)], ...] = Field((), max_length=MAX_EDITS)
    """`name:value` for query parameters, plain text: encoding is ours."""


class SetPairs(Pairs):
    headers: tuple[Annotated[_Text, AfterValidator(check_host_pair)], ...] = Field((), max_length=MAX_EDITS)
    """`name:value` for header fields; `Host` is allowed here."""


class RequestTransformerConfig(PluginConfig):
    remove: Names = Names()
    """What goes."""
    rename: Renames = Renames()
    """`old:new`: keeps values and places. What was called `new` goes."""
    replace: Pairs = Pairs()
    """`name:value`, only where there is one by that name."""
    set: SetPairs = SetPairs()
    """`name:value`, whether there is one by that name or not."""
    add: Pairs = Pairs()
    """`name:value`, only where there is none by that name."""
    append: Pairs = Pairs()
    """`name:value` as one more, whatever there is."""
    path: Annotated[str, StringConstraints(max_length=2048), AfterValidator(_path)] = ""
    """The path sent upstream, `/v2/users/{id}`: parameters of the route's path, and a final `*` for what its `/*`
    matched. It replaces the route's own rewriting. Empty: no change."""

    @model_validator(mode="after")
    def _does_something(self) -> RequestTransformerConfig:
        if self == RequestTransformerConfig.model_construct():
            raise ValueError("Nothing to do: give at least one edit.")
        return self


class RequestTransformer(Plugin):
    name = "request-transformer"
    Config = RequestTransformerConfig
    config: RequestTransformerConfig

    def __init__(self, config: RequestTransformerConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._headers = HeaderEdits(
            remove=config.remove,
            rename=config.rename,
            replace=config.replace,
            put=config.set,
            add=config.add,
            append=config.append,
        )
        self._query = _QueryEdits(config)
        self._path = quote(config.path, safe="!$&'()*+,;=:@/%{}")

    def access(self, exchange: Exchange) -> None:
        self._headers.apply(exchange.headers)
        before = exchange.query if exchange.upstream_query is None else exchange.upstream_query
        if (after := self._query.apply(before)) != before:
            exchange.upstream_query = after
        if self._path:
            exchange.upstream_path = self._filled(exchange)

    def _filled(self, exchange: Exchange) -> bytes:
        """Parameters are decoded text and are encoded again, slashes too; the tail is in its wire form already."""

        def parameter(match: re.Match[str]) -> str:
            try:
                return quote(exchange.path_params[match[1]], safe="", errors="surrogateescape")
            except KeyError:
                exchange.detail = f"request-transformer: the route's path has no parameter '{match[1]}'"
                raise PluginFailed from None

        if self._path.endswith("*"):
            literal = self._path[:-1].removesuffix("/")
            return (_PARAMETER.sub(parameter, literal) + exchange.path_tail).encode() or b"/"
        return _PARAMETER.sub(parameter, self._path).encode()


class _QueryEdits:
    def __init__(self, config: RequestTransformerConfig) -> None:
        self._remove = frozenset(name.encode() for name in config.remove.querystring)
        self._rename = _encoded(config.rename.querystring)
        self._replace, self._put = _encoded(config.replace.querystring), _encoded(config.set.querystring)
        self._add, self._append = _encoded(config.add.querystring), _encoded(config.append.querystring)

    def apply(self, wire: bytes) -> bytes:
        if self._remove:
            wire = query.without(wire, self._remove)
        for old, new in self._rename:
            wire = query.rename(wire, old, new)
        for name, value in self._replace:
            wire = query.put(wire, name, value) if query.has(wire, name) else wire
        for name, value in self._put:
            wire = query.put(wire, name, value)
        for name, value in self._add:
            wire = wire if query.has(wire, name) else query.append(wire, name, value)
        for name, value in self._append:
            wire = query.append(wire, name, value)
        return wire


def _encoded(pairs: tuple[str, ...]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in split_pairs(pairs)]
