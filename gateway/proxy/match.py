"""Which route a request belongs to: the one rule of precedence (docs/matching.md).

Of all routes whose conditions hold, the first by: higher priority; host (exact, then the longer wildcard, then any);
path (exact, then regex, then patterns segment by segment from the left with literal before parameter before `*`, then
any); with methods before without; more header and query conditions; lower id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl, unquote

import re2

from gateway.proxy.errors import AmbiguousPath
from gateway.proxy.headers import Pairs
from gateway.proxy.paths import other_readings
from gateway.proxy.patterns import Pattern
from gateway.proxy.snapshot import FieldCondition, RouteSpec

#: What was found is remembered for so many places, of paths not longer than this: at most some MB.
MAX_FOUND, MAX_FOUND_LENGTH = 2048, 256

T = TypeVar("T")


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
    lead: int = -1  # characters before the final `/*`, where nothing else varies
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
        found = self.any.copy()
        if path in self.exact:
            found += self.exact[path]
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
            by_host.setdefault(host, []).append(_Entry(rank, route, value, pattern, free, _lead(pattern)))
        self._found: dict[tuple[str, str], list[_Entry[T]]] = {}  # by host and path, for those who ask again
        buckets = {host: _Bucket(entries) for host, entries in by_host.items()}
        self._anywhere = buckets.pop("", None)
        self._of_all = () if self._anywhere is None else (self._anywhere,)
        self._hosts = {host: bucket for host, bucket in buckets.items() if not host.startswith("*")}
        self._suffixes = {host[1:]: bucket for host, bucket in buckets.items() if host.startswith("*")}

    def match(self, host: str, path: str, odd: bytes, method: str, headers: Pairs, query: bytes) -> Match[T] | None:
        """`path` in normal form; `odd`: the client's own bytes if not `is_plain`, else none. Raises AmbiguousPath."""
        entry = self._find(host, path, method, headers, query)
        if odd:
            for reading in other_readings(odd):
                other = self._find(host, reading, method, headers, query)
                if (other and other.route) is not (entry and entry.route):
                    raise AmbiguousPath()
        if entry is None:
            return None
        if entry.lead >= 0:
            return Match(entry.value, entry.route, {}, path[entry.lead :])
        params, tail = _extract(entry.pattern, entry.regex, path)
        return Match(entry.value, entry.route, params, tail)

    def _find(self, host: str, path: str, method: str, headers: Pairs, query: bytes) -> _Entry[T] | None:
        place = host, path
        found = self._found.get(place)
        if found is None:
            found = self._candidates(host, path)
            if len(path) <= MAX_FOUND_LENGTH:
                if len(self._found) >= MAX_FOUND:
                    self._found.clear()
                self._found[place] = found
        for entry in found:
            if entry.free or _holds(entry.route, method, headers, query):
                return entry
        return None

    def _candidates(self, host: str, path: str) -> list[_Entry[T]]:
        """All that stand there, the first by precedence first."""
        found = [entry for bucket in self._buckets(host) for entry in bucket.candidates(path)]
        found.sort(key=attrgetter("rank"))
        return found

    def _buckets(self, host: str) -> Iterable[_Bucket[T]]:
        return self._of_host(host) if self._hosts or self._suffixes else self._of_all

    def _of_host(self, host: str) -> Iterator[_Bucket[T]]:
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


def _lead(pattern: Pattern | None) -> int:
    if pattern is None or not pattern.tail or pattern.names:
        return -1
    return sum(1 + len(segment or "") for segment in pattern.segments)


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
