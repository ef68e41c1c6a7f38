"""Path patterns and rewrites: what operators write into a route.

`/users` is exact; `/users/*` is a prefix on a segment boundary (and matches `/users`); `{id}` stands for one segment;
`~^/v(?P<major>[0-9]+)/` is an RE2 regular expression, matched from the start of the normalised path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from gateway.proxy.expressions import compiled
from gateway.proxy.paths import ESCAPE, PATH_SAFE, decode_unreserved

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LITERAL, _END, _PARAM, _TAIL = 0, 1, 2, 3  # the order of precedence, segment by segment


@dataclass(frozen=True, slots=True)
class Pattern:
    """A parsed path pattern. `segments` are literals in normal form, or None for a parameter; empty for a regex."""

    text: str
    segments: tuple[str | None, ...] = ()
    names: tuple[str, ...] = ()
    tail: bool = False
    regex: str = ""

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Raises ValueError with a sentence for the person who wrote it."""
        if text.startswith("~"):
            return cls._parse_regex(text)
        if not text.startswith("/"):
            raise ValueError(f"'{text}' must start with '/', or with '~' for a regular expression.")
        if re.search(r"[\x00-\x20\x7f?#]", text):
            raise ValueError(f"'{text}' holds a space, a control character, '?' or '#', which no path has.")
        tail = text.endswith("/*")
        body = text[:-2] if tail else text
        if "*" in body:
            raise ValueError(f"'{text}': '*' may only stand at the very end, as '/*'.")
        names: list[str] = []
        segments: list[str | None] = []
        for segment in body.split("/")[1:]:
            if match := _PARAMETER.fullmatch(segment):
                names.append(match[1])
                segments.append(None)
            elif "{" in segment or "}" in segment:
                raise ValueError(
                    f"'{text}': a parameter is a whole segment such as '/{{id}}', letters, digits and '_'."
                )
            else:
                segments.append(segment)
        if len(set(names)) != len(names):
            raise ValueError(f"'{text}' uses the same parameter name twice.")
        if any(segment in (".", "..") for segment in segments) or "" in segments[:-1]:
            raise ValueError(f"'{text}' is not in its simplest form: no '//', '/./' or '/../'.")
        normal = tuple(None if s is None else ESCAPE.sub(decode_unreserved, quote(s, safe=PATH_SAFE)) for s in segments)
        return cls(text, normal, tuple(names), tail)

    @classmethod
    def _parse_regex(cls, text: str) -> Pattern:
        expression = text[1:]
        names = compiled(expression).groupindex
        return cls(text, names=tuple(names), regex=expression)

    @property
    def is_exact(self) -> bool:
        return not self.regex and not self.tail and not self.names

    @property
    def rank(self) -> tuple[int, tuple[int, ...]]:
        if self.regex:
            return 1, (-len(self.regex),)
        if self.is_exact:
            return 0, ()
        kinds = tuple(_PARAM if segment is None else _LITERAL for segment in self.segments)
        return 2, (*kinds, _TAIL if self.tail else _END)


def check_rewrite(rewrite: str, patterns: Iterable[Pattern]) -> None:
    """Raises ValueError unless every `{name}` of the template is given by every pattern."""
    if not rewrite.startswith("/"):
        raise ValueError("A path rewrite must start with '/'.")
    if re.search(r"[\x00-\x20\x7f?#]", rewrite) or "*" in rewrite[:-1]:
        raise ValueError("A path rewrite holds no spaces, '?' or '#', and '*' only at its very end.")
    wanted = set(_PARAMETER.findall(rewrite))
    patterns = list(patterns)
    for pattern in patterns:
        if missing := sorted(wanted - set(pattern.names)):
            raise ValueError(f"The rewrite uses {{{missing[0]}}}, which the path '{pattern.text}' does not have.")
    if wanted and not patterns:
        raise ValueError("The rewrite uses parameters, but the route has no path that has any.")


def rewrite_path(rewrite: str, params: dict[str, str], tail: str) -> str:
    """Fill a template. Parameters are encoded again, the tail is already in normal form."""
    path = _PARAMETER.sub(lambda match: quote(params.get(match[1], ""), safe="", errors="surrogateescape"), rewrite)
    if path.endswith("*"):
        path = path[:-1].removesuffix("/") + tail
    return path if path.startswith("/") else "/" + path
