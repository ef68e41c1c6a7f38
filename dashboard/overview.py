"""What the overview shows of a range of time. From rollups and short lists only: a million requests cost no more.

Everything the page draws is here as plain values, so that the page itself and its refresh show the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from django.core.cache import cache
from django.urls import NoReverseMatch, reverse
from django.utils.http import urlencode

from dashboard.selectors import Dimension, Point, Share, Summary, active_keys, keys_by_time, series, summary, top
from dashboard.timerange import TimeRange
from keys.models import ApiKey, Consumer
from routes import selectors
from routes.health import Health as TargetHealth
from routes.health import Healths
from routes.models import ConfigVersion, Route, Target, Upstream

T = TypeVar("T")

TOP = 6
#: Of what costs most and changes least.
KEPT_S = 60
#: Marks on a chart; of more versions the newest.
MARKS_MAX = 40
UPSTREAMS_MAX = 24


@dataclass(frozen=True, slots=True)
class Change:
    """Against the range before. `share`: 0.1 is a tenth more. `better` is None where more is neither good nor bad."""

    share: float
    better: bool | None


@dataclass(frozen=True, slots=True)
class Latency:
    """One percentile, split into what the gateway took and what the upstream took."""

    name: str
    total: float | None
    gateway: float | None
    upstream: float | None
    change: Change | None
    spark: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Row:
    """Of a top list. `share` is of all requests."""

    name: str
    url: str
    requests: int
    share: float
    errors: float
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Aim:
    """A target, and what the nodes know of it."""

    target: Target
    health: TargetHealth

    @property
    def title(self) -> str:
        words = f" ({self.health.words})" if self.health.words else ""
        return f"{self.target}: {self.health.state}{words}, weight {self.target.weight}"


@dataclass(frozen=True, slots=True)
class Health:
    """An upstream: how its targets are, and how its answers were."""

    upstream: Upstream
    targets: Sequence[Aim]
    requests: int
    errors: float
    state: str


@dataclass(frozen=True, slots=True)
class Overview:
    range: TimeRange
    now: Summary
    rate: float
    rate_change: Change | None
    error_rate: float | None
    error_change: Change | None
    limited: int
    limited_change: Change | None
    keys: int
    keys_change: Change | None
    latencies: Sequence[Latency]
    points: Sequence[Point]
    routes: Sequence[Row]
    consumers: Sequence[Row]
    outcomes: Sequence[Row]
    health: Sequence[Health]
    upstreams: int
    versions: Sequence[ConfigVersion]
    live: ConfigVersion | None
    workers: int
    workers_current: int
    spark: dict[str, Sequence[float | None]] = field(default_factory=dict)

    @property
    def charts(self) -> dict[str, Any]:
        """For the browser: rates in requests per second, times in ms, moments in seconds since the epoch."""
        spans = spans_of(self.points, self.range)
        return {
            "starts": [int(point.start.timestamp()) for point in self.points],
            "step_s": self.range.step_s,
            "classes": {
                name: [
                    _short(point.by_status_class.get(name, 0) / span)
                    for point, span in zip(self.points, spans, strict=True)
                ]
                for name in sorted({name for point in self.points for name in point.by_status_class} | {2})
            },
            "latency": {
                name: [_short(getattr(point, name)) for point in self.points]
                for name in ("p50", "p95", "p99", "gateway_p95")
            },
            "versions": [
                {
                    "at": int(version.created_at.timestamp()),
                    "number": version.number,
                    "author": version.author,
                    "comment": version.comment[:120],
                }
                for version in self.versions
            ],
        }


def overview(range_: TimeRange) -> Overview:
    """A fixed number of queries, 23 at most, whatever there is to show."""
    before = range_.previous
    now, past = summary(range_.start, range_.end), summary(before.start, before.end)
    points = series(range_.start, range_.end, step_s=range_.step_s)
    keys, keys_past = _keys(range_)
    limited, limited_past = (found.by_outcome.get("rate_limited", 0) for found in (now, past))
    live, versions = _versions(range_)
    workers = list(selectors.workers().values_list("version", flat=True))
    health, upstreams = _health(range_)
    rate, rate_past = now.requests / range_.seconds, past.requests / before.seconds
    return Overview(
        range=range_,
        now=now,
        rate=rate,
        rate_change=change(rate, rate_past),
        error_rate=error_rate(now),
        error_change=change(error_rate(now), error_rate(past), better=-1),
        limited=limited,
        limited_change=change(limited, limited_past, better=-1),
        keys=keys,
        keys_change=change(keys, keys_past),
        latencies=[
            Latency(
                name,
                getattr(now.duration, name),
                getattr(now.gateway, name),
                getattr(now.upstream, name),
                change(getattr(now.duration, name), getattr(past.duration, name), better=-1),
                [getattr(point, name) for point in points],
            )
            for name in ("p50", "p95", "p99")
        ],
        points=points,
        routes=_top(range_, "route_id", now.requests),
        consumers=_kept("consumers", range_, lambda: _top(range_, "consumer_id", now.requests)),
        outcomes=_outcomes(range_, now.requests),
        health=health,
        upstreams=upstreams,
        versions=versions,
        live=live,
        workers=len(workers),
        workers_current=sum(1 for version in workers if live is not None and version == live.number),
        spark=_spark(points, range_),
    )


def change(now: float | None, before: float | None, better: int = 0) -> Change | None:
    """None where there is nothing to compare with. `better`: 1 if more is better, -1 if less is. Pure."""
    if now is None or not before:
        return None
    share = now / before - 1
    return Change(share, None if not better or abs(share) < 0.005 else (share > 0) == (better > 0))


def error_rate(found: Summary) -> float | None:
    return found.errors / found.requests if found.requests else None


def spans_of(points: Sequence[Point], range_: TimeRange) -> list[float]:
    """Seconds of each step; the last one has hardly begun. Pure."""
    return [max(1.0, min(range_.step_s, (range_.end - point.start).total_seconds())) for point in points]


def _spark(points: Sequence[Point], range_: TimeRange) -> dict[str, Sequence[float | None]]:
    spans = spans_of(points, range_)
    return {
        "rate": [point.requests / span for point, span in zip(points, spans, strict=True)],
        "errors": [point.by_status_class.get(5, 0) / point.requests if point.requests else 0 for point in points],
        "limited": [point.limited / span for point, span in zip(points, spans, strict=True)],
        "keys": _kept("keys by time", range_, lambda: keys_by_time(range_.start, range_.end)),
    }


def _keys(range_: TimeRange) -> tuple[int, int]:
    """How many were used in the range, and in the one before. Each key's last use answers the first at once."""
    before = range_.previous
    past = _kept("keys before", range_, lambda: active_keys(before.start, before.end))
    if range_.name:
        return ApiKey.objects.filter(last_used_at__gte=range_.start).count(), past
    return active_keys(range_.start, range_.end), past


def _kept(name: str, range_: TimeRange, read: Callable[[], T]) -> T:
    """What reads a row for each key and hour, remembered for a minute; of a range with fixed ends it is read anew."""
    if not range_.name:
        return read()
    found = cache.get_or_set(f"overview {name} {range_.name}".replace(" ", ":"), read, KEPT_S)
    return cast(T, found)


def _versions(range_: TimeRange) -> tuple[ConfigVersion | None, list[ConfigVersion]]:
    """Two queries; documents stay where they are."""
    versions = ConfigVersion.objects.defer("document")
    within = versions.filter(created_at__gte=range_.start, created_at__lt=range_.end).order_by("-number")
    return versions.filter(live=True).first(), list(within[:MARKS_MAX])


def _health(range_: TimeRange) -> tuple[list[Health], int]:
    """Those in trouble first, then the busiest. Four queries."""
    upstreams, healths = list(Upstream.objects.prefetch_related("targets")), Healths()
    shares = {share.value: share for share in top(range_.start, range_.end, "upstream_id", limit=1000)}
    found = [_health_of(upstream, shares.get(upstream.pk), healths) for upstream in upstreams]
    order = {"bad": 0, "warn": 1, "ok": 2, "muted": 3}
    found.sort(key=lambda health: (order[health.state], -health.requests, health.upstream.name))
    return found[:UPSTREAMS_MAX], len(upstreams)


def _health_of(upstream: Upstream, share: Share | None, healths: Healths) -> Health:
    targets = [Aim(target, healths.of(upstream, target)) for target in healths.targets(upstream)]
    requests, errors = (share.requests, share.server_errors / share.requests) if share else (0, 0.0)
    states = {aim.health.state for aim in targets}
    if not states & {"up", "unknown"} or errors >= 0.5:
        state = "bad"
    elif errors >= 0.01 or states & {"down", "ejected"}:
        state = "warn"
    else:
        state = "ok" if requests else "muted"
    return Health(upstream, targets, requests, errors, state)


def _top(range_: TimeRange, by: Dimension, all_requests: int) -> list[Row]:
    """Two queries."""
    shares = [share for share in top(range_.start, range_.end, by, limit=TOP + 1) if share.value][:TOP]
    ids = [int(share.value) for share in shares]
    kind, model, name = ("route", Route, "name") if by == "route_id" else ("consumer", Consumer, "username")
    names = dict(model._default_manager.filter(pk__in=ids).values_list("pk", name))
    return [
        Row(
            names.get(share.value, f"#{share.value} (deleted)"),
            page_url(range_, kind, share.value) or requests_url(range_, **{kind: share.value}),
            share.requests,
            share.requests / all_requests if all_requests else 0,
            share.server_errors / share.requests,
        )
        for share in shares
    ]


def _outcomes(range_: TimeRange, all_requests: int) -> list[Row]:
    """Why requests failed: the gateway's reasons, and 5xx answers that upstreams gave themselves. One query."""
    rows = []
    for share in top(range_.start, range_.end, "outcome", limit=40):
        requests = share.requests
        if share.value in ("ok", "answered"):
            requests = share.server_errors
        if requests:
            delivered = share.value in ("ok", "answered")
            url = requests_url(range_, outcome=share.value, **({"class": 5} if delivered else {}))
            name = "5xx from upstream" if delivered else str(share.value).replace("_", " ")
            rows.append(Row(name, url, requests, requests / all_requests, 0, "bad" if delivered else str(share.value)))
    rows.sort(key=lambda row: -row.requests)
    return rows[:TOP]


def requests_url(range_: TimeRange, **facets: Any) -> str:
    """The page of requests, narrowed to these and to the same range."""
    url = page_url(range_, "requests")
    return f"{url}&{urlencode(facets)}" if url and facets else url


def page_url(range_: TimeRange, name: str, *args: Any) -> str:
    """Another page about the same range; empty if it is not mounted."""
    try:
        return f"{reverse(f'dashboard:{name}', args=args)}?{range_.query}"
    except NoReverseMatch:
        return ""


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")
