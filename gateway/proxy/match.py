"""Which route a request belongs to: the one rule for paths, patterns and precedence (docs/matching.md).

**Reading a path.** Routes match on a normalised reading (`normalise`): unreserved characters decoded, hex in upper
case, `//` merged, dot segments resolved, letter case kept. A path that another server could read differently is
looked up under those readings too (`other_readings`); if one of them belongs to another route, the request is refused.

**Patterns.** `/users` is exact; `/users/*` is a prefix on a segment boundary (and matches `/users`); `{id}` stands for
one segment; `~^/v(?P<major>[0-9]+)/` is an RE2 regular expression, matched from the start of the normalised path.

**Precedence.** Of all routes whose conditions hold, the first by: higher priority; host (exact, then the longer
wildcard, then any); path (exact, then regex, then patterns segment by segment from the left with literal before
parameter before `*`, then any); with methods before without; more header and query conditions; lower id.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes

import re2

from gateway.proxy.errors import AmbiguousPath, BadPath
from gateway.proxy.headers import Pairs
from gateway.proxy.snapshot import FieldCondition, RouteSpec

T = TypeVar("T")

_RE2 = re2.Options()
_RE2.log_errors = False  # a bad expression is an answer to its author, not a line on our standard error

# --- reading a path ---------------------------------------------------------------------------------------------------

#: What makes a path worth a second look; everything else is its own normal form.
_NOT_PLAIN = re.compile(rb"[^A-Za-z0-9\-._~!$&'()*+,=:@/]|//|/\.")
#: The longest that is looked at twice: reading it in every way costs some 0.3 ms per kB.
MAX_ODD_BYTES = 4096
_CONTROL = re.compile(rb"[\x00-\x20\x7f]")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})|%00")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_PATH_SAFE = "!$&'()*+,;=:@/%"  # besides the unreserved ones; RFC 3986 §3.3
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def is_plain(raw: bytes) -> bool:
    """True for a path that every server reads in the same way."""
    return _NOT_PLAIN.search(raw) is None


def normalise(raw: bytes) -> str:
    """The reading that routes match on; ASCII. Raises BadPath."""
    if not raw.startswith(b"/"):
        raise BadPath()
    if is_plain(raw):
        return raw.decode("ascii")
    if _CONTROL.search(raw):
        raise BadPath()
    if len(raw) > MAX_ODD_BYTES:
        raise BadPath(f"A path with escapes, '//' or dot segments may be {MAX_ODD_BYTES} bytes long.")
    if _BAD_ESCAPE.search(raw):
        raise BadPath("The path holds a '%' that is not followed by two hexadecimal digits, or an encoded NUL.")
    return _normal_form(quote(raw, safe=_PATH_SAFE + "\\"))


def _normal_form(path: str) -> str:
    return _resolve(_ESCAPE.sub(_decode_unreserved, path))


def _decode_unreserved(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if character in _UNRESERVED else escape[0].upper()


def _resolve(path: str) -> str:
    """Merge slashes and resolve dot segments (RFC 3986 §5.2.4); never climbs above the root."""
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            if kept:
                kept.pop()
        elif segment not in ("", "."):
            kept.append(segment)
    ends_open = segments[-1] in ("", ".", "..") and kept
    return "/" + "/".join(kept) + ("/" if ends_open else "")


def other_readings(raw: bytes) -> set[str]:
    """How others might read a path that is not plain: dots unresolved, decoded once or twice, `\\` as `/`, no `;x`."""
    written = _ESCAPE.sub(_decode_unreserved, quote(raw, safe=_PATH_SAFE + "\\"))
    decoded = _requote(unquote_to_bytes(raw))
    twice = _requote(unquote_to_bytes(unquote_to_bytes(raw)))
    readings: set[str] = set()
    for text in (written, decoded, twice):
        for slashed in (text, re.sub(r"\\|%5C", "/", text)):
            for bare in (slashed, re.sub(r";[^/]*", "", slashed)):
                readings.add(bare)
                readings.add(_resolve(bare))
    return readings


def climbs(path: bytes) -> bool:
    """Whether a path has a `..` segment in any reading. One that a route or plugin wrote must not: what it stands below
    would be left again."""
    return any(".." in reading.split("/") for reading in other_readings(path))


def _requote(decoded: bytes) -> str:
    return quote(decoded, safe=_PATH_SAFE.replace("%", "") + "\\")


# --- patterns ---------------------------------------------------------------------------------------------------------

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
        normal = tuple(
            None if s is None else _ESCAPE.sub(_decode_unreserved, quote(s, safe=_PATH_SAFE)) for s in segments
        )
        return cls(text, normal, tuple(names), tail)

    @classmethod
    def _parse_regex(cls, text: str) -> Pattern:
        expression = text[1:]
        try:
            names = re2.compile(expression, _RE2).groupindex
        except re2.error as error:
            reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
            raise ValueError(f"'{expression}' is not a regular expression RE2 accepts: {reason}.") from error
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


# --- the index --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Match(Generic[T]):
    """`tail` is what the final `/*` stood for, or what a regex left over; `params` are percent-decoded."""

    value: T
    route: RouteSpec
    params: dict[str, str]
    tail: str


@dataclass(slots=True)
class _Entry(Generic[T]):
    rank: int
    route: RouteSpec
    value: T
    pattern: Pattern | None  # None: any path
    free: bool  # no methods, header or query conditions
    regex: Any = None  # compiled: the library itself remembers 128


@dataclass(slots=True)
class _Node(Generic[T]):
    literals: dict[str, _Node[T]] = field(default_factory=dict)
    parameter: _Node[T] | None = None
    ends: list[_Entry[T]] = field(default_factory=list)
    tails: list[_Entry[T]] = field(default_factory=list)


class _Bucket(Generic[T]):
    """All entries of one host condition."""

    __slots__ = ("any", "exact", "regex_first", "regex_set", "regexes", "root")

    def __init__(self, entries: list[_Entry[T]]) -> None:
        self.any: list[_Entry[T]] = []
        self.exact: dict[str, list[_Entry[T]]] = {}
        self.root: _Node[T] = _Node()
        self.regexes: list[_Entry[T]] = []
        self.regex_set: re2.Set | None = None
        for entry in entries:
            self._add(entry)
        if self.regexes:
            self.regex_set = re2.Set.MatchSet(_set_options(len(self.regexes)))
            for entry in self.regexes:
                assert entry.pattern is not None
                self.regex_set.Add(entry.pattern.regex)
            self.regex_set.Compile()

    def _add(self, entry: _Entry[T]) -> None:
        pattern = entry.pattern
        if pattern is None:
            self.any.append(entry)
        elif pattern.regex:
            entry.regex = re2.compile(pattern.regex)
            self.regexes.append(entry)
        elif pattern.is_exact:
            self.exact.setdefault("/" + "/".join(s or "" for s in pattern.segments), []).append(entry)
        else:
            node = self.root
            for segment in pattern.segments:
                if segment is None:
                    node.parameter = node.parameter or _Node()
                    node = node.parameter
                else:
                    node = node.literals.setdefault(segment, _Node())
            (node.tails if pattern.tail else node.ends).append(entry)

    def candidates(self, path: str) -> list[_Entry[T]]:
        found = [*self.any, *self.exact.get(path, ())]
        if self.root.literals or self.root.parameter or self.root.tails:
            segments = path.split("/")
            _walk(self.root, segments, 1, found)
        if self.regex_set is not None:
            found += (self.regexes[index] for index in self.regex_set.Match(path) or ())
        return found


def _walk(node: _Node[T], segments: list[str], index: int, found: list[_Entry[T]]) -> None:
    if node.tails:
        found += node.tails
    if index == len(segments):
        found += node.ends
        return
    segment = segments[index]
    child = node.literals.get(segment)
    if child is not None:
        _walk(child, segments, index + 1, found)
    if node.parameter is not None and segment:
        _walk(node.parameter, segments, index + 1, found)


def _set_options(expressions: int) -> Any:
    """RE2's 8 MB end at some hundreds of expressions. A bound, not a need: it fills only as far as paths ask."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = (8 << 20) + expressions * (64 << 10)
    return options


class Index(Generic[T]):
    """All routes, ready to be asked. Cost grows with the path's segments, not with the number of routes."""

    def __init__(self, routes: Iterable[tuple[RouteSpec, T]]) -> None:
        rows = [(route, value, host, pattern) for route, value in routes for host, pattern in _places(route)]
        rows.sort(key=lambda row: _order(row[0], row[2], row[3]))
        by_host: dict[str, list[_Entry[T]]] = {}
        for rank, (route, value, host, pattern) in enumerate(rows):
            free = not (route.methods or route.headers or route.query)
            by_host.setdefault(host, []).append(_Entry(rank, route, value, pattern, free))
        buckets = {host: _Bucket(entries) for host, entries in by_host.items()}
        self._anywhere = buckets.pop("", None)
        self._hosts = {host: bucket for host, bucket in buckets.items() if not host.startswith("*")}
        self._suffixes = {host[1:]: bucket for host, bucket in buckets.items() if host.startswith("*")}

    def match(self, host: str, path: str, raw: bytes, method: str, headers: Pairs, query: bytes) -> Match[T] | None:
        """`path` is `normalise(raw)`. Raises AmbiguousPath."""
        entry = self._find(host, path, method, headers, query)
        if not is_plain(raw):
            for reading in other_readings(raw):
                other = self._find(host, reading, method, headers, query)
                if (other and other.route) is not (entry and entry.route):
                    raise AmbiguousPath()
        if entry is None:
            return None
        params, tail = _extract(entry.pattern, entry.regex, path)
        return Match(entry.value, entry.route, params, tail)

    def _find(self, host: str, path: str, method: str, headers: Pairs, query: bytes) -> _Entry[T] | None:
        best: _Entry[T] | None = None
        for bucket in self._buckets(host):
            for entry in bucket.candidates(path):
                if (best is None or entry.rank < best.rank) and (
                    entry.free or _holds(entry.route, method, headers, query)
                ):
                    best = entry
        return best

    def _buckets(self, host: str) -> Iterator[_Bucket[T]]:
        if (exact := self._hosts.get(host)) is not None:
            yield exact
        if self._suffixes:
            dot = host.find(".")
            while dot >= 0:
                if (suffix := self._suffixes.get(host[dot:])) is not None:
                    yield suffix
                dot = host.find(".", dot + 1)
        if self._anywhere is not None:
            yield self._anywhere


def _places(route: RouteSpec) -> Iterator[tuple[str, Pattern | None]]:
    """Each (host, pattern) the route stands at; "" and None mean any."""
    patterns: list[Pattern | None] = [Pattern.parse(text) for text in route.paths] or [None]
    for host in route.hosts or ("",):
        for pattern in patterns:
            yield host, pattern


def _order(route: RouteSpec, host: str, pattern: Pattern | None) -> tuple[Any, ...]:
    host_rank = (2, 0) if not host else (1, -len(host)) if host.startswith("*") else (0, 0)
    kind, specificity = (3, ()) if pattern is None else pattern.rank
    conditions = len(route.headers) + len(route.query)
    return -route.priority, host_rank, kind, specificity, not route.methods, -conditions, route.id


def _holds(route: RouteSpec, method: str, headers: Pairs, query: bytes) -> bool:
    if route.methods and method not in route.methods:
        return False
    if route.headers and not all(_header_holds(condition, headers) for condition in route.headers):
        return False
    if route.query:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        return all(
            _condition_holds(condition, [v for k, v in pairs if k == condition.name]) for condition in route.query
        )
    return True


def _header_holds(condition: FieldCondition, headers: Pairs) -> bool:
    name = condition.name.encode("latin-1")
    return _condition_holds(condition, [value.decode("latin-1") for key, value in headers if key == name])


def _condition_holds(condition: FieldCondition, found: list[str]) -> bool:
    return any(value in condition.values for value in found) if condition.values else bool(found)


def _extract(pattern: Pattern | None, regex: Any, path: str) -> tuple[dict[str, str], str]:
    """Parameters and tail of a path that is known to match."""
    if pattern is None:
        return {}, path
    if pattern.regex:
        match = regex.match(path)
        groups = {name: unquote(text or "", errors="surrogateescape") for name, text in match.groupdict().items()}
        left = path[match.end() :]
        return groups, left if left.startswith("/") or not left else "/" + left
    if pattern.is_exact:
        return {}, ""
    segments = path.split("/")[1:]
    values = (text for text, name in zip(segments, pattern.segments, strict=False) if name is None)
    params = {n: unquote(v, errors="surrogateescape") for n, v in zip(pattern.names, values, strict=False)}
    rest = segments[len(pattern.segments) :]
    return params, "/" + "/".join(rest) if pattern.tail and rest else ""
