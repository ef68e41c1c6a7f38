"""request-transformer: changes header fields, query parameters, path and method before the request goes upstream.

Phases   access
Fails    400 `bad_request` if `path` cannot be filled from this request; 500 `plugin_failed` if the route's path has no
         parameter of a name that `path` uses
Compare  Kong's request-transformer (same shape, `http_method` and templates; `set` and `path` are ours, `path` is its
         `replace.uri`; bodies: body-transformer)

Query parameters that no edit names keep the bytes the client wrote. See `gateway.plugins.edits` for the words' meaning.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import quote, quote_from_bytes

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from gateway.plugins import templates
from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.edits import (
    MAX_EDITS,
    FilledValues,
    HeaderEdits,
    HeaderNames,
    HeaderPairs,
    HeaderRenames,
    check_host_pair,
    split_pairs,
    templates_of,
)
from gateway.plugins.templates import Template
from gateway.proxy import query
from gateway.proxy.errors import BadRequest, PluginFailed
from gateway.proxy.exchange import Exchange
from gateway.proxy.paths import climbs, is_plain

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_Text = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


def _query_pair(pair: str) -> str:
    name, colon, _ = pair.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"'{pair}' must be `name:value`.")
    return templates.check(pair, templates.REQUEST)


def _query_rename(pair: str) -> str:
    old, colon, new = (part.strip() for part in pair.partition(":"))
    if not (old and colon and new):
        raise ValueError(f"'{pair}' must be `old:new`.")
    return pair


def _path(template: str) -> str:
    if not template:
        return template
    templates.check(template, templates.REQUEST)
    if "$$(" in template:
        raise ValueError("The path holds no plain `$(`.")
    literal = _PARAMETER.sub("", templates.around(template))
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
    """`name:value` for query parameters, plain text: encoding is ours. The value is a template."""


class SetPairs(Pairs):
    headers: tuple[Annotated[_Text, AfterValidator(check_host_pair)], ...] = Field((), max_length=MAX_EDITS)
    """`name:value` for header fields; the value is a template. `Host` is allowed here."""


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
    matched; templates, too. It replaces the route's own rewriting. Empty: no change."""
    http_method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] | None = None
    """The method sent upstream. None: the client's. A HEAD stays one: whoever sends it wants no body."""

    @model_validator(mode="after")
    def _does_something(self) -> RequestTransformerConfig:
        if self == RequestTransformerConfig.model_construct():
            raise ValueError("Nothing to do: give at least one edit.")
        return self


class RequestTransformer(Plugin):
    name = "request-transformer"
    Config = RequestTransformerConfig
    config: RequestTransformerConfig
    refuses = False

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
        self._path = _PathTemplate(config.path) if config.path else None

    def access(self, exchange: Exchange) -> None:
        path = self._path.fill(exchange) if self._path is not None else None  # all templates see what came
        before = exchange.query if exchange.upstream_query is None else exchange.upstream_query
        after = self._query.apply(before, exchange)
        self._headers.apply(exchange.headers, exchange)
        if after != before:
            exchange.upstream_query = after
        if path is not None:
            exchange.upstream_path = path
        if self.config.http_method is not None and exchange.method != "HEAD":
            exchange.upstream_method = self.config.http_method


class _PathTemplate:
    """Parameters and what fills a template are text and are encoded, slashes too; the tail is in its wire form already.

    Nothing that a client sends makes a dot segment of it: a path must not climb out of where the operator put it.
    """

    def __init__(self, path: str) -> None:
        self._tail = path.endswith("*")
        literal = path[:-1].removesuffix("/") if self._tail else path
        self._pieces: list[str | Template] = []
        end = 0
        for place in templates.PLACE.finditer(literal):
            self._pieces += [_quoted(literal[end : place.start()]), Template(place[0])]
            end = place.end()
        self._pieces.append(_quoted(literal[end:]))

    def fill(self, exchange: Exchange) -> bytes:
        path = "".join(
            self._parameters(piece, exchange) if isinstance(piece, str) else self._value(piece, exchange)
            for piece in self._pieces
        )
        filled = (path + exchange.path_tail if self._tail else path).encode() or b"/"
        if len(self._pieces) > 1 and not is_plain(filled) and climbs(filled):
            raise BadRequest("What this request fills into the path sent upstream would leave its place there.")
        return filled

    def _parameters(self, piece: str, exchange: Exchange) -> str:
        def parameter(match: re.Match[str]) -> str:
            try:
                return quote(exchange.path_params[match[1]], safe="", errors="surrogateescape")
            except KeyError:
                exchange.detail = f"request-transformer: the route's path has no parameter '{match[1]}'"
                raise PluginFailed from None

        return _PARAMETER.sub(parameter, piece) if "{" in piece else piece

    def _value(self, template: Template, exchange: Exchange) -> str:
        value = template.fill(exchange)
        if not value:
            raise BadRequest("This request lacks something that the path sent upstream is made of.")
        return quote_from_bytes(value, safe="")


def _quoted(literal: str) -> str:
    return quote(literal, safe="!$&'()*+,;=:@/%{}")


class _QueryEdits:
    def __init__(self, config: RequestTransformerConfig) -> None:
        self._remove = frozenset(name.encode() for name in config.remove.querystring)
        self._rename = [(old.encode(), new.encode()) for old, new in split_pairs(config.rename.querystring)]
        words = (config.replace, config.set, config.add, config.append)
        self._values = FilledValues(*(templates_of(split_pairs(word.querystring)) for word in words))

    def apply(self, wire: bytes, exchange: Exchange) -> bytes:
        replace, put, add, append = self._values.fill(exchange)
        if self._remove:
            wire = query.without(wire, self._remove)
        for old, new in self._rename:
            wire = query.rename(wire, old, new)
        for name, value in replace:
            wire = _put(wire, name, value) if query.has(wire, name) else wire
        for name, value in put:
            wire = _put(wire, name, value)
        for name, value in add:
            wire = wire if value is None or query.has(wire, name) else query.append(wire, name, value)
        for name, value in append:
            wire = wire if value is None else query.append(wire, name, value)
        return wire


def _put(wire: bytes, name: bytes, value: bytes | None) -> bytes:
    return query.without(wire, (name,)) if value is None else query.put(wire, name, value)
