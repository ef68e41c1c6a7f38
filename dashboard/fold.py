"""Segment lines → sums for the rollups. Pure; reads only columns that are never escaped (numbers, times, outcomes).

Everything is summed by the minute first (callers by the hour), then again into the coarser grains, so a row costs one
pass however many grains there are. The time in a line is UTC with fixed width: its prefix is its bucket.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from gateway.proxy.histogram import bin_of
from gateway.proxy.journal import COLUMNS

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
#: grain → how much of `2026-11-22 11:27:17.123456+00` names the bucket, and what completes it
BUCKETS: Mapping[int, tuple[int, str]] = {
    MINUTE_S: (16, ":00+00"),
    HOUR_S: (13, ":00:00+00"),
    DAY_S: (10, " 00:00:00+00"),
}

ALL = -1  # in place of a route and an upstream: all of them together, so that overviews read one row for a bucket

_AT, _STATUS, _OUTCOME = COLUMNS.index("at"), COLUMNS.index("status"), COLUMNS.index("outcome")
_ROUTE, _UPSTREAM = COLUMNS.index("route_id"), COLUMNS.index("upstream_id")
_CONSUMER, _KEY = COLUMNS.index("consumer_id"), COLUMNS.index("key_id")
_DURATION, _GATEWAY, _SENT = COLUMNS.index("duration_ms"), COLUMNS.index("gateway_ms"), COLUMNS.index("upstream_ms")
_IN, _OUT = COLUMNS.index("bytes_in"), COLUMNS.index("bytes_out")
_TRIES, _CACHE = COLUMNS.index("tries"), COLUMNS.index("cache_status")
_PLACE = itemgetter(_STATUS, _OUTCOME, _ROUTE, _UPSTREAM, _CONSUMER, _KEY)


@dataclass(slots=True)
class Traffic:
    """By (bucket, route, upstream, status class, outcome)."""

    requests: int = 0
    retried: int = 0
    cache_hits: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def add(self, other: Traffic) -> None:
        self.requests += other.requests
        self.retried += other.retried
        self.cache_hits += other.cache_hits
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out


@dataclass(slots=True)
class Latency:
    """By (bucket, route, upstream). The histograms are bin → count."""

    requests: int = 0
    duration_ms: float = 0.0
    gateway_ms: float = 0.0
    upstream_requests: int = 0
    upstream_ms: float = 0.0
    duration_bins: dict[int, int] = field(default_factory=dict)
    gateway_bins: dict[int, int] = field(default_factory=dict)
    upstream_bins: dict[int, int] = field(default_factory=dict)

    def add(self, other: Latency) -> None:
        self.requests += other.requests
        self.duration_ms += other.duration_ms
        self.gateway_ms += other.gateway_ms
        self.upstream_requests += other.upstream_requests
        self.upstream_ms += other.upstream_ms
        _bins_add(self.duration_bins, other.duration_bins)
        _bins_add(self.gateway_bins, other.gateway_bins)
        _bins_add(self.upstream_bins, other.upstream_bins)


@dataclass(slots=True)
class Calls:
    """By (bucket, consumer, key)."""

    requests: int = 0
    client_errors: int = 0
    server_errors: int = 0
    rate_limited: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def add(self, other: Calls) -> None:
        self.requests += other.requests
        self.client_errors += other.client_errors
        self.server_errors += other.server_errors
        self.rate_limited += other.rate_limited
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out


Key = tuple[str | int, ...]  # the bucket's start, then the dimensions


@dataclass(slots=True)
class Folded:
    """Of the finest grain. `last_used`: key id → the latest time a line named it."""

    rows: int = 0
    traffic: dict[Key, Traffic] = field(default_factory=dict)
    latency: dict[Key, Latency] = field(default_factory=dict)
    calls: dict[Key, Calls] = field(default_factory=dict)
    last_used: dict[int, str] = field(default_factory=dict)


def fold(segments: Iterable[bytes]) -> Folded:
    """Raises ValueError for bytes that are not our lines."""
    folded = Folded()
    places: dict[tuple[str, ...], _Place] = {}
    for segment in segments:
        for line in segment.decode().split("\n"):
            if not line:
                continue
            columns = line.split("\t")
            if len(columns) <= _CACHE:  # the last one read here; later versions append
                raise ValueError(f"a line of {len(columns)} columns")
            at = columns[_AT][:16], *_PLACE(columns)
            place = places.get(at)
            if place is None:
                place = places[at] = _Place(folded, columns)
            folded.rows += 1
            place.add(folded, columns)
    _totals_add(folded.traffic)
    _totals_add(folded.latency)
    return folded


class _Place:
    """Where the lines of one minute that say the same of route, outcome and caller are summed: most of a segment's
    lines have few of them."""

    __slots__ = ("api_key", "calls", "latency", "outcome", "status_class", "traffic")

    def __init__(self, folded: Folded, columns: Sequence[str]) -> None:
        at = columns[_AT]
        minute, hour = f"{at[:16]}:00+00", f"{at[:13]}:00:00+00"
        self.status_class, self.outcome = int(columns[_STATUS]) // 100, columns[_OUTCOME]
        route, upstream = _id(columns[_ROUTE]), _id(columns[_UPSTREAM])
        consumer, self.api_key = _id(columns[_CONSUMER]), _id(columns[_KEY])
        self.traffic = folded.traffic.setdefault((minute, route, upstream, self.status_class, self.outcome), Traffic())
        self.latency = folded.latency.setdefault((minute, route, upstream), Latency())
        known = consumer or self.api_key
        self.calls = folded.calls.setdefault((hour, consumer, self.api_key), Calls()) if known else None

    def add(self, folded: Folded, columns: Sequence[str]) -> None:
        bytes_in, bytes_out = int(columns[_IN]), int(columns[_OUT])
        traffic = self.traffic
        traffic.requests += 1
        traffic.bytes_in += bytes_in
        traffic.bytes_out += bytes_out
        if columns[_TRIES] != "1" and int(columns[_TRIES]) > 1:
            traffic.retried += 1
        if columns[_CACHE].startswith("hit"):
            traffic.cache_hits += 1
        _fold_latency(self.latency, float(columns[_DURATION]), float(columns[_GATEWAY]), columns[_SENT])
        if self.calls is not None:
            _fold_call(self.calls, self.status_class, self.outcome, bytes_in, bytes_out)
            if self.api_key and columns[_AT] > folded.last_used.get(self.api_key, ""):
                folded.last_used[self.api_key] = columns[_AT]


def coarser(sums: Mapping[Key, Any], grain_s: int) -> dict[Key, Any]:
    """The same sums in longer buckets; the given ones are not changed."""
    width, rest = BUCKETS[grain_s]
    merged: dict[Key, Any] = {}
    for (start, *dimensions), value in sums.items():
        key = (f"{str(start)[:width]}{rest}", *dimensions)
        if key not in merged:
            merged[key] = type(value)()
        merged[key].add(value)
    return merged


def _totals_add(sums: dict[Key, Any]) -> None:
    for (start, _route, _upstream, *rest), value in list(sums.items()):
        total = sums.setdefault((start, ALL, ALL, *rest), type(value)())
        total.add(value)


def _fold_latency(latency: Latency, duration_ms: float, gateway_ms: float, upstream_ms: str) -> None:
    latency.requests += 1
    latency.duration_ms += duration_ms
    latency.gateway_ms += gateway_ms
    bins, at = latency.duration_bins, bin_of(duration_ms)
    bins[at] = bins.get(at, 0) + 1
    bins, at = latency.gateway_bins, bin_of(gateway_ms)
    bins[at] = bins.get(at, 0) + 1
    if upstream_ms != "\\N":
        sent_ms = float(upstream_ms)
        latency.upstream_requests += 1
        latency.upstream_ms += sent_ms
        bins, at = latency.upstream_bins, bin_of(sent_ms)
        bins[at] = bins.get(at, 0) + 1


def _fold_call(calls: Calls, status_class: int, outcome: str, bytes_in: int, bytes_out: int) -> None:
    calls.requests += 1
    calls.client_errors += status_class == 4
    calls.server_errors += status_class == 5
    calls.rate_limited += outcome == "rate_limited"
    calls.bytes_in += bytes_in
    calls.bytes_out += bytes_out


def _id(column: str) -> int:
    """0 for none: a rollup's key has no NULLs."""
    return 0 if column == "\\N" else int(column)


def _bins_add(bins: dict[int, int], more: Mapping[int, int]) -> None:
    for bin_, count in more.items():
        bins[bin_] = bins.get(bin_, 0) + count
