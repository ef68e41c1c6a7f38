"""Usage as sums, charts and rankings. All of it reads rollups, never the raw rows."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db.models import Sum
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from dashboard import selectors
from dashboard.api import examples, shapes
from dashboard.api.asked import SINCE, UNTIL, Parameter, read, span
from dashboard.fold import DAY_S, HOUR_S, MINUTE_S
from dashboard.models import UsageCalls, UsageRow
from dashboard.ranges import floor, step_for
from gateway.api.problems import BadQuery, Fault
from gateway.api.views import ApiView
from keys.models import ApiKey, Consumer
from routes.models import Route, Upstream

HOUR = timedelta(hours=1)
POINTS_MAX = 2_000
#: What a ranking may be by → the column of the rollups.
DIMENSIONS: dict[str, selectors.Dimension] = {
    "routes": "route_id", "upstreams": "upstream_id", "consumers": "consumer_id", "keys": "key_id",
    "outcomes": "outcome",
}  # fmt: skip
WHOSE = (
    Parameter("route_id", "integer", "Of this route; 0: of requests that matched none.", low=0),
    Parameter("upstream_id", "integer", "Of this upstream; 0: of requests that went to none.", low=0),
    Parameter("consumer_id", "integer", "Of this consumer. Not together with a route or upstream."),
    Parameter("key_id", "integer", "Of this key. Not together with a route or upstream."),
)


class Summary(ApiView):
    model = UsageRow
    parameters = (SINCE, UNTIL, *WHOSE)

    @extend_schema(
        summary="Usage summed",
        parameters=[parameter.schema() for parameter in parameters],
        responses=shapes.UsageSummary,
        examples=[examples.answer("An hour", examples.SUMMARY)],
    )
    def get(self, request: Request) -> Response:
        """Sums of a range, by default of the last hour: requests, errors, bytes, and times with percentiles."""
        asked = read(request, self.parameters)
        since, until = span(asked, HOUR)
        place, caller = _whose(asked)
        sums = _of_caller(since, until, caller) if caller else _of_place(since, until, place)
        seconds = (until - since).total_seconds()
        known = {"since": since, "until": until, "requests_per_s": round(sums["requests"] / seconds, 3)}
        return Response(shapes.UsageSummary(**known, **sums).model_dump())


def _of_place(since: datetime, until: datetime, place: dict[str, int]) -> dict[str, Any]:
    found = selectors.summary(since, until, **place)
    return {
        "requests": found.requests,
        "client_errors": found.by_status_class.get(4, 0),
        "server_errors": found.errors,
        "rate_limited": found.by_outcome.get("rate_limited", 0),
        "bytes_in": found.bytes_in,
        "bytes_out": found.bytes_out,
        "retried": found.retried,
        "cache_hits": found.cache_hits,
        "by_status_class": _classes(found.by_status_class),
        "by_outcome": found.by_outcome,
        "duration_ms": shapes.UsageTimes.model_validate(found.duration),
        "gateway_ms": shapes.UsageTimes.model_validate(found.gateway),
        "upstream_ms": shapes.UsageTimes.model_validate(found.upstream),
    }


def _of_caller(since: datetime, until: datetime, caller: dict[str, int]) -> dict[str, Any]:
    found = selectors.caller_summary(since, until, **caller)
    counted = ("requests", "client_errors", "server_errors", "rate_limited", "bytes_in", "bytes_out")
    unknown = ("retried", "cache_hits", "by_status_class", "by_outcome", "duration_ms", "gateway_ms", "upstream_ms")
    return {name: getattr(found, name) for name in counted} | dict.fromkeys(unknown)


class Series(ApiView):
    model = UsageRow
    parameters = (
        SINCE, UNTIL, *WHOSE,
        Parameter("step_s", "integer", "Whole minutes; by consumer or key whole hours. Default: some 60 to 96 points.",
                  low=MINUTE_S, high=31 * DAY_S, step=MINUTE_S),
    )  # fmt: skip

    @extend_schema(
        summary="Usage as a chart",
        parameters=[parameter.schema() for parameter in parameters],
        responses=shapes.UsageSeries,
        examples=[examples.answer("By the minute", examples.SERIES)],
    )
    def get(self, request: Request) -> Response:
        """A point for each step of the range, by default of the last hour."""
        asked = read(request, self.parameters)
        since, until = span(asked, HOUR)
        place, caller = _whose(asked)
        step_s = _step(asked["step_s"], since, until, finest_s=HOUR_S if caller else MINUTE_S)
        points = (
            _points_of_caller(since, until, step_s, caller) if caller else _points_of_place(since, until, step_s, place)
        )
        series = shapes.UsageSeries(since=since, until=until, step_s=step_s, points=points)
        return Response(series.model_dump())


def _step(asked_s: int | None, since: datetime, until: datetime, finest_s: int) -> int:
    step_s = asked_s or max(step_for(since, until), finest_s)
    if step_s % finest_s:
        raise BadQuery(errors=[Fault(f"A multiple of {finest_s}.", parameter="step_s")])
    if (until - since).total_seconds() / step_s > POINTS_MAX:
        raise BadQuery(errors=[Fault(f"This makes more than {POINTS_MAX} points.", parameter="step_s")])
    return step_s


def _points_of_place(since: datetime, until: datetime, step_s: int, place: dict[str, int]) -> list[shapes.UsagePoint]:
    return [
        shapes.UsagePoint(
            start=point.start,
            requests=point.requests,
            client_errors=point.by_status_class.get(4, 0),
            server_errors=point.by_status_class.get(5, 0),
            rate_limited=point.limited,
            by_status_class=_classes(point.by_status_class),
            p50_ms=point.p50,
            p95_ms=point.p95,
            p99_ms=point.p99,
        )
        for point in selectors.series(since, until, step_s=step_s, **place)
    ]


def _points_of_caller(since: datetime, until: datetime, step_s: int, caller: dict[str, int]) -> list[shapes.UsagePoint]:
    """One query of so many index look-ups: the buckets are named one by one, for the index begins with their start."""
    grain_s = DAY_S if step_s % DAY_S == 0 else HOUR_S
    first = floor(since, step_s)
    buckets = [first + n * timedelta(seconds=grain_s) for n in range(-((first - until) // timedelta(seconds=grain_s)))]
    counted = ("requests", "client_errors", "server_errors", "rate_limited")
    sums = {floor(start, step_s): dict.fromkeys(counted, 0) for start in buckets}
    rows = UsageCalls.objects.filter(grain_s=grain_s, start__in=buckets, **caller).values_list("start")
    for start, *values in rows.annotate(*(Sum(name) for name in counted)):
        total = sums[floor(start, step_s)]
        for name, value in zip(counted, values, strict=True):
            total[name] += value
    unknown = dict.fromkeys(("by_status_class", "p50_ms", "p95_ms", "p99_ms"))
    return [shapes.UsagePoint(start=start, **total, **unknown) for start, total in sums.items()]


class Top(ApiView):
    model = UsageRow
    parameters = (
        SINCE, UNTIL,
        Parameter("by", "text", "What to rank. Default: routes.", choices=tuple(DIMENSIONS)),
        Parameter("limit", "integer", "How many. Default: 10.", high=100),
    )  # fmt: skip

    @extend_schema(
        summary="Usage ranked",
        parameters=[parameter.schema() for parameter in parameters],
        responses=shapes.UsageTop,
        examples=[examples.answer("The busiest route", examples.TOP)],
    )
    def get(self, request: Request) -> Response:
        """The busiest first: routes, upstreams, consumers, keys or outcomes. Consumers and keys by whole hours."""
        asked = read(request, self.parameters)
        since, until = span(asked, HOUR)
        by = asked["by"] or "routes"
        shares = selectors.top(since, until, DIMENSIONS[by], limit=asked["limit"] or 10)
        ids = [share.value for share in shares if isinstance(share.value, int)]
        names = _names(by, ids) if ids else {}
        items = [
            shapes.UsageShare(
                id=share.value if isinstance(share.value, int) else None,
                name=names.get(share.value, "") if isinstance(share.value, int) else share.value,
                requests=share.requests,
                client_errors=share.client_errors,
                server_errors=share.server_errors,
                bytes_in=share.bytes_in,
                bytes_out=share.bytes_out,
            )
            for share in shares
        ]
        return Response(shapes.UsageTop(since=since, until=until, by=by, items=items).model_dump())


def _names(by: str, ids: list[int]) -> dict[int, str]:
    models: dict[str, tuple[Any, str]] = {
        "routes": (Route, "name"), "upstreams": (Upstream, "name"), "consumers": (Consumer, "username"),
        "keys": (ApiKey, "prefix"),
    }  # fmt: skip
    model, field = models[by]
    return dict(model.objects.filter(pk__in=ids).values_list("pk", field))


def _whose(asked: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """(route and upstream, consumer and key) as asked; rollups know only one of the two. Raises BadQuery."""
    place, caller = (
        {name: asked[name] for name in names if asked[name] is not None}
        for names in (("route_id", "upstream_id"), ("consumer_id", "key_id"))
    )
    if place and caller:
        sentence = "Sums are by route and upstream, or by consumer and key; /usage/rows has both."
        raise BadQuery(errors=[Fault(sentence, parameter=next(iter(caller)))])
    if "key_id" in caller and "consumer_id" not in caller:  # the index begins with the consumer
        owner = ApiKey.objects.filter(pk=caller["key_id"]).values_list("consumer_id", flat=True).first()
        caller |= {} if owner is None else {"consumer_id": owner}
    return place, caller


def _classes(counts: dict[int, int]) -> dict[str, int]:
    return {f"{first}xx": count for first, count in sorted(counts.items())}
