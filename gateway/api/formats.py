"""JSON in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.utils.encoders import JSONEncoder

EXACT_BELOW = 2**53  # from here on a float may be another whole number than was written


class JsonParser(BaseParser):
    media_type = "application/json"

    def parse(self, stream: IO[bytes], media_type: str | None = None, context: Any = None) -> Any:
        try:
            text = stream.read().decode("utf-8")
            return json.loads(text, parse_float=_number, parse_constant=_refuse, object_pairs_hook=_unique)
        except RecursionError:
            raise ParseError("This JSON is nested too deeply.") from None
        except ValueError as error:
            raise ParseError(f"This is not JSON: {error}") from error


def _number(text: str) -> float | int:
    """To JSON, and to its schemas, `5.0` is the whole number 5."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < EXACT_BELOW else value


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not a number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The last of two equal names winning is how a reviewer and a machine come to read different things."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


class JsonRenderer(BaseRenderer):
    media_type = "application/json"
    format = "json"
    charset = None
    render_style = "text"

    def render(self, data: Any, accepted: str | None = None, context: Mapping[str, Any] | None = None) -> bytes:
        if data is None:
            return b""
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, cls=JSONEncoder)
        return text.encode(errors="backslashreplace")  # half a surrogate pair: an escape that JSON knows, too
