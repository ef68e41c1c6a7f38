"""The gateway's Prometheus metrics, folded from batches of records: no call per request, no label from a request.

With PROMETHEUS_MULTIPROC_DIR set before this module is imported, each process writes to files there and `exposition`
merges them, so any process can answer for all; without it, a process answers for itself. Counters of a process that
ended stay in their files (they must not go backwards); its gauges go with `process_dead`.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from functools import cache

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from gateway.proxy import reserved
from gateway.proxy.errors import OUTCOMES
from gateway.proxy.record import Record

__all__ = ["CONTENT_TYPE", "config_version", "exposition", "fold", "process_dead", "refused"]

reserved.install()
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
INFINITY = float("inf")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
GATEWAY_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1)

REQUESTS = Counter(
    "hydragate_http_requests_total", "Requests that ended, by status class.",
    ["route", "method", "status_class"],
)  # fmt: skip
OUTCOME = Counter("hydragate_requests_by_outcome_total", "Requests that ended, by why they ended so.", ["outcome"])
REFUSED = Counter(
    "hydragate_refused_total", "Requests the front refused before a route was looked for: not valid HTTP, too large.",
    ["status"],
)  # fmt: skip
RATE_LIMITED = Counter("hydragate_rate_limited_total", "Requests refused by a rate limit.", ["route"])
DURATION = Histogram(
    "hydragate_request_duration_seconds", "First byte of a request to last byte of its answer.", ["route"],
    buckets=SECONDS,
)  # fmt: skip
UPSTREAM_DURATION = Histogram(
    "hydragate_upstream_duration_seconds", "Request sent upstream to head received.", ["route"], buckets=SECONDS
)
GATEWAY_DURATION = Histogram(
    "hydragate_gateway_duration_seconds", "What the gateway itself took before the request went upstream.", ["route"],
    buckets=GATEWAY_SECONDS,
)  # fmt: skip
USAGE_DROPPED = Counter("hydragate_usage_dropped_total", "Usage rows lost, by reason.", ["reason"])
USAGE_SHIPPED = Counter("hydragate_usage_shipped_total", "Usage rows committed to PostgreSQL by this node.")
USAGE_SPOOL_BYTES = Gauge(
    "hydragate_usage_spool_bytes", "Usage rows on disk that PostgreSQL has not taken yet.",
    multiprocess_mode="livemostrecent",
)  # fmt: skip
USAGE_BAD_FILES = Gauge(
    "hydragate_usage_bad_files", "Files in the spool's bad/ directory: lines PostgreSQL refused.",
    multiprocess_mode="livemostrecent",
)  # fmt: skip
CIRCUIT_OPEN = Gauge(
    "hydragate_upstream_circuit_open", "Workers of the node that leave the upstream alone: its circuit is open.",
    ["upstream"], multiprocess_mode="livesum",
)  # fmt: skip
MIRRORED = Counter(
    "hydragate_mirrored_total", "Copies of requests by what became of them: answered, failed, dropped, too_large.",
    ["upstream", "result"],
)  # fmt: skip
WEBSOCKETS_OPEN = Gauge("hydragate_websockets_open", "WebSockets that are open.", multiprocess_mode="livesum")
WEBSOCKET_MESSAGES = Counter(
    "hydragate_websocket_messages_total", "Messages of WebSockets that ended, from clients (in) and to them (out).",
    ["direction"],
)  # fmt: skip
ACCESS_LOG_DROPPED = Counter(
    "hydragate_access_log_dropped_total", "Lines of the access log lost: the disk is full, hangs or refuses."
)
PLUGIN_DROPPED = Counter(
    "hydragate_plugin_records_dropped_total",
    "Records of requests that a plugin such as `http-log` could not hand on.",
    ["plugin"],
)
TARGET_UP = Gauge(
    "hydragate_upstream_target_up", "1: takes requests, or is drained. 0: its probes fail, or a worker has ejected it.",
    ["upstream", "target"], multiprocess_mode="livemostrecent",
)  # fmt: skip
PART_UP = Gauge(
    "hydragate_part_up", "1: every worker reaches it (postgres, redis). 0: one does not, and is degraded.",
    ["part"], multiprocess_mode="livemin",
)  # fmt: skip
TARGET_STATE = Gauge(
    "hydragate_upstream_target_state",
    "1 for the state a target is in: up, draining, down (its probes fail) or ejected (it fails in traffic).",
    ["upstream", "target", "state"], multiprocess_mode="livemostrecent",
)  # fmt: skip
UPSTREAM_INFO = Gauge(
    "hydragate_upstream_info", "1, with the way the upstream chooses among its targets.",
    ["upstream", "balancing"], multiprocess_mode="livemostrecent",
)  # fmt: skip
#: What a child of a gauge is set to that means nothing any more: in a shared directory none can be removed.
GONE = float("nan")


class Observations:
    """Values of one histogram gathered from a batch, then added in one go for each route."""

    def __init__(self, histogram: Histogram, bounds_s: Sequence[float]) -> None:
        self._histogram = histogram
        self._bounds_ms = [bound * 1000 for bound in bounds_s]
        self._counts: dict[str, list[int]] = {}
        self._sums_ms: dict[str, float] = {}
        self._children: dict[str, Histogram] = {}

    def add(self, route: str, value_ms: float) -> None:
        counts = self._counts.get(route)
        if counts is None:
            counts = self._counts[route] = [0] * (len(self._bounds_ms) + 1)
            self._sums_ms[route] = 0.0
        counts[bisect_left(self._bounds_ms, value_ms)] += 1
        self._sums_ms[route] += value_ms

    def flush(self) -> None:
        for route, counts in self._counts.items():
            child = self._children.get(route)
            if child is None:
                child = self._children[route] = self._histogram.labels(route)
            # The client library has no bulk observe; these two attributes are all that `observe` itself touches.
            child._sum.inc(self._sums_ms[route] / 1000)
            for bucket, count in zip(child._buckets, counts, strict=True):
                if count:
                    bucket.inc(count)
        self._counts.clear()
        self._sums_ms.clear()


_duration = Observations(DURATION, SECONDS)
_upstream = Observations(UPSTREAM_DURATION, SECONDS)
_gateway = Observations(GATEWAY_DURATION, GATEWAY_SECONDS)


def fold(records: Sequence[Record]) -> None:
    requests: Tally[tuple[str, str, int]] = Tally()
    outcomes: Tally[str] = Tally()
    limited: Tally[str] = Tally()
    for record in records:
        route = record.route
        requests[route, record.method, record.status // 100] += 1
        outcomes[record.outcome] += 1
        if record.outcome == "rate_limited":
            limited[route] += 1
        _duration.add(route, record.duration_ms)
        _gateway.add(route, record.gateway_ms)
        if record.upstream_ms is not None:
            _upstream.add(route, record.upstream_ms)
    for key, count in requests.items():
        _requests(*key).inc(count)
    for outcome, count in outcomes.items():
        OUTCOME.labels(outcome if outcome in OUTCOMES else "internal_error").inc(count)
    for route, count in limited.items():
        RATE_LIMITED.labels(route).inc(count)
    _duration.flush()
    _upstream.flush()
    _gateway.flush()


def refused(status: int, code: str, client: object) -> None:
    """The front's own answers: no exchange, no usage row. Statuses are a closed list, codes name the same things."""
    REFUSED.labels(str(status)).inc()


def config_version(version: int) -> None:
    _config_version().set(version)


def exposition() -> bytes:
    """The text format of all metrics, of every process if they share a directory."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    registry.register(_Known(MultiProcessCollector(None)))  # type: ignore[no-untyped-call]
    return generate_latest(registry)


class _Known(Collector):
    """Another collector's metrics without what is GONE."""

    def __init__(self, collector: MultiProcessCollector) -> None:
        self._collector = collector

    def collect(self) -> Iterator[Metric]:
        for metric in self._collector.collect():  # type: ignore[no-untyped-call]
            metric.samples = [sample for sample in metric.samples if sample.value == sample.value]
            yield metric


def process_dead(pid: int) -> None:
    """Forgets the live gauges of a process that ended. For whoever reaps it."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _requests(route: str, method: str, status_class: int) -> Counter:
    # Words outside the closed sets must not even become keys of the cache.
    known = method if method in METHODS else "OTHER"
    return _bound(route, known, status_class if 0 <= status_class <= 5 else 0)


@cache
def _bound(route: str, method: str, status_class: int) -> Counter:
    return REQUESTS.labels(route, method, f"{status_class}xx")


@cache
def _config_version() -> Gauge:
    # Made on first use: a gauge without labels reports 0 from birth, and processes without a configuration are no news.
    return Gauge(
        "hydragate_config_version", "Configuration the slowest worker serves.", multiprocess_mode="livemin"
    )  # fmt: skip
