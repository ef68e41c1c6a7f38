"""redirect: sends the client somewhere else.

Phases   access
Fails    400 `bad_request` if the new place needs a host and the request names none; 500 `plugin_failed` if the route's
         path has no parameter of a name that `location` uses
Compare  Kong's redirect (`status_code`, `location`; its `keep_incoming_path` is `{path}` here)

A request that is at its location already goes on upstream, so `https://{host}{path}` is all that an upgrade needs. It
runs before authentication: nobody has to show a key where it would be read by others.
"""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import quote

from pydantic import Field, field_validator

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.proxy.errors import BadRequest, PluginFailed
from gateway.proxy.exchange import Answer, Exchange

_WORD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_ABSOLUTE = re.compile(r"https?://[^/?]", re.IGNORECASE)


class RedirectConfig(PluginConfig):
    location: str = Field(min_length=1, max_length=2048)
    """Where to: `https://{host}{path}`, `/new/{id}`. Words in braces: scheme, host, path, tail (what the route's `/*`
    matched), query, and the parameters of the route's path."""
    status_code: Literal[301, 302, 303, 307, 308] = 301
    """With 307 and 308 the client keeps its method and body, with 303 it does not, with 301 and 302 it may."""
    keep_query: bool = True
    """Take the query string along."""

    @field_validator("location")
    @classmethod
    def _leads_somewhere(cls, location: str) -> str:
        if not _ABSOLUTE.match(location) and (not location.startswith(("/", "{path}")) or location[1:2] in ("/", "\\")):
            raise ValueError("A location begins with http:// or https:// and a host, or with one '/', or with {path}.")
        if not re.fullmatch(r"[!-~]+", location) or "#" in location or "\\" in location:
            raise ValueError("A location is plain ASCII without blanks, '#' and '\\'; percent-encode them.")
        if set("{}") & set(_WORD.sub("", location)):
            raise ValueError("Braces stand around one word only, as in '/users/{id}'.")
        return location


class Redirect(Plugin):
    name = "redirect"
    Config = RedirectConfig
    config: RedirectConfig

    def __init__(self, config: RedirectConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._place, mark, asked = config.location.partition("?")
        self._query = mark + asked
        self._absolute = bool(_ABSOLUTE.match(config.location))

    def access(self, exchange: Exchange) -> Answer | None:
        location = self._location(exchange)
        if location in _here(exchange):
            return None
        return Answer(self.config.status_code, [(b"location", location.encode("latin-1"))])

    def _location(self, exchange: Exchange) -> str:
        place = _WORD.sub(lambda word: _said(exchange, word[1], word[1] not in _WIRE), self._place)
        if not self._absolute:  # `//host` would lead to another site, and `/\host` does in browsers
            place = "/" + place.lstrip("/\\")
        location = place + _WORD.sub(lambda word: _said(exchange, word[1], True), self._query)
        if self.config.keep_query and exchange.query:
            location += ("&" if "?" in location else "?") + exchange.query.decode("latin-1")
        return location


#: In their wire form already: as they are in a path, encoded in a query.
_WIRE = frozenset({"scheme", "host", "path", "tail", "query"})


def _said(exchange: Exchange, word: str, encode: bool) -> str:
    match word:
        case "scheme":
            text = exchange.scheme
        case "host":
            text = exchange.host
            if not text:
                raise BadRequest("This request names no host, and the place to send it to needs one.")
        case "path":
            text = exchange.raw_path.decode("latin-1")
        case "tail":
            text = exchange.path_tail
        case "query":
            text = exchange.query.decode("latin-1")
        case _ if word in exchange.path_params:
            text = exchange.path_params[word]
        case _:
            exchange.detail = f"redirect: the route's path has no parameter '{word}'"
            raise PluginFailed
    return quote(text, safe="", errors="surrogateescape") if encode else text


def _here(exchange: Exchange) -> tuple[str, str, str]:
    """All that this request's own place can be called."""
    asked = "?" + exchange.query.decode("latin-1") if exchange.query else ""
    path = exchange.raw_path.decode("latin-1") + asked
    authority = exchange.authority.decode("latin-1").lower()
    return path, f"{exchange.scheme}://{exchange.host}{path}", f"{exchange.scheme}://{authority}{path}"
