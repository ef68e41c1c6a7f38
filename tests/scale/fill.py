"""A day of an installation in use: 500 routes, 10,000 keys and 1,000,000 requests, made by SQL.

A million takes a minute to make, so the everyday suite makes a tenth; `make scale` makes it all.

Requests are spread evenly, so every route has some in nearly every minute: rollups are as large as a day of a million
requests can make them. They are sums of the very rows, grouped as `dashboard.fold` groups them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from django.db import connection

from dashboard.fold import ALL, DAY_S, HOUR_S, MINUTE_S
from dashboard.partitions import partitions_keep
from gateway.proxy.histogram import FLOOR_MS, LAST, RATIO
from keys.models import ApiKey, Consumer
from routes import services
from routes.models import PluginSetting, Route, RouteUpstream, Target, Upstream

ROWS = int(os.environ.get("SCALE_ROWS", "100000"))
ROUTES, UPSTREAMS, CONSUMERS, KEYS = 500, 100, 1_000, 10_000
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Filled:
    """Ids of the first of each kind; the others follow without gaps."""

    route: int
    upstream: int
    consumer: int
    key: int


def fill(now: datetime) -> Filled:
    filled = Filled(*configuration(), *callers())
    usage(filled, now)
    return filled


def configuration() -> tuple[int, int]:
    """Ids of the first route and upstream. Published: 500 routes with two plugins each, on 100 upstreams."""
    with services.change(author="scale", source="test"):
        upstreams = Upstream.objects.bulk_create(Upstream(name=f"service-{n:03}") for n in range(UPSTREAMS))
        Target.objects.bulk_create(
            Target(upstream=upstream, host=f"10.{n}.0.{m}", port=80)
            for n, upstream in enumerate(upstreams)
            for m in (1, 2)
        )
        routes = Route.objects.bulk_create(
            Route(name=f"route-{n:03}", hosts=["api.example.com"], paths=[f"/r{n}/*"], tags=[f"team-{n % 20}"])
            for n in range(ROUTES)
        )
        RouteUpstream.objects.bulk_create(
            RouteUpstream(route=route, upstream=upstreams[n % UPSTREAMS]) for n, route in enumerate(routes)
        )
        PluginSetting.objects.bulk_create(
            PluginSetting(name=name, route=route, config=config)
            for route in routes
            for name, config in (("key-auth", {}), ("rate-limiting", {"minute": 100}))
        )
    return routes[0].pk, upstreams[0].pk


def callers() -> tuple[int, int]:
    """Ids of the first consumer and key: ten keys for each of 1,000 consumers."""
    consumers = Consumer.objects.bulk_create(Consumer(username=f"consumer-{n:04}") for n in range(CONSUMERS))
    keys = ApiKey.objects.bulk_create(
        ApiKey(
            consumer=consumers[n // (KEYS // CONSUMERS)],
            name=f"job {n}",
            prefix=f"hg_live_{n:04x}",
            digest=sha256(b"%d" % n).digest(),
        )
        for n in range(KEYS)
    )
    return consumers[0].pk, keys[0].pk


def usage(filled: Filled, now: datetime) -> None:
    partitions_keep((now - DAY).date(), retention_days=7)
    with connection.cursor() as cursor:
        arguments: dict[str, Any] = {
            "route": filled.route, "upstream": filled.upstream, "consumer": filled.consumer, "key": filled.key,
            "start": now - DAY, "step": DAY / ROWS,
        }  # fmt: skip
        for table in ("usage_traffic", "usage_latency", "usage_calls", *_partitions(cursor)):
            cursor.execute(f"ALTER TABLE {table} SET UNLOGGED")  # nothing of it is to last
        cursor.execute("SET work_mem = '256MB'")
        cursor.execute(_ROWS, arguments)
        cursor.execute(_TRAFFIC)
        cursor.execute(_BINS, {"floor": FLOOR_MS, "ratio": RATIO, "last": LAST})
        for grain_s, unit in ((MINUTE_S, "minute"), (HOUR_S, "hour"), (DAY_S, "day")):
            if grain_s > MINUTE_S:
                cursor.execute(_TRAFFIC_COARSER, {"grain_s": grain_s, "unit": unit})
                cursor.execute(_CALLS, {"grain_s": grain_s, "unit": unit})
            cursor.execute(_LATENCY, {"grain_s": grain_s, "unit": unit})
        cursor.execute(_TRAFFIC_TOTALS)
        cursor.execute("DROP TABLE bins")
        cursor.execute("RESET work_mem")
        cursor.execute("ANALYZE")


def _partitions(cursor: Any) -> list[str]:
    cursor.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'usage_row'::regclass")
    return [name for (name,) in cursor.fetchall()]


#: `kind` says what a request of a hundred comes to: two lack a key, three are over a limit, one finds nobody there.
#: OFFSET 0: work these out once for each row, not wherever they are named.
_ROWS = f"""
    INSERT INTO usage_row (
        at, config_version, route_id, upstream_id, consumer_id, key_id, bytes_in, bytes_out, duration_ms, gateway_ms,
        upstream_ms, status, tries, client_ip, request_id, node, worker, method, host, path, outcome, detail, target,
        cache_status
    )
    SELECT %(start)s + n * %(step)s, 1, %(route)s + place, CASE WHEN sent THEN %(upstream)s + place %% {UPSTREAMS} END,
        CASE WHEN kind > 1 THEN %(consumer)s + caller / {KEYS // CONSUMERS} END,
        CASE WHEN kind > 1 THEN %(key)s + caller END,
        caller %% 700, 200 + caller, CASE WHEN sent THEN took + 0.4 ELSE 0.4 END, 0.4, CASE WHEN sent THEN took END,
        CASE WHEN kind < 2 THEN 401 WHEN kind < 5 THEN 429 WHEN kind = 5 THEN 502 ELSE 200 END,
        CASE WHEN kind = 5 THEN 2 ELSE 1 END, '10.0.0.1', 'scale-' || n, 'node-1', '0',
        CASE WHEN caller %% 5 = 0 THEN 'POST' ELSE 'GET' END, 'api.example.com', '/r' || place || '/things/' || caller,
        CASE WHEN kind < 2 THEN 'key_missing' WHEN kind < 5 THEN 'rate_limited'
            WHEN kind = 5 THEN 'upstream_unreachable' ELSE 'ok' END, '',
        CASE WHEN sent THEN '10.' || place %% {UPSTREAMS} || '.0.1:80' ELSE '' END, ''
    FROM generate_series(0, {ROWS - 1}) AS n
    CROSS JOIN LATERAL (
        SELECT hashint8extended(n, 1) & 1048575 AS a, hashint8extended(n, 2) & 1048575 AS b OFFSET 0
    ) AS hash
    CROSS JOIN LATERAL (
        SELECT a %% {ROUTES} AS place, b %% {KEYS} AS caller, a / {ROUTES} %% 100 AS kind,
        (5 + b / {KEYS} * (b %% 7))::real AS took, a / {ROUTES} %% 100 > 4 AS sent
        OFFSET 0
    ) AS of
"""

_TRAFFIC = f"""
    INSERT INTO usage_traffic
    SELECT {MINUTE_S}, date_trunc('minute', at), coalesce(route_id, 0), coalesce(upstream_id, 0), status / 100, outcome,
        count(*), count(*) FILTER (WHERE tries > 1), count(*) FILTER (WHERE cache_status LIKE 'hit%%'),
        sum(bytes_in), sum(bytes_out)
    FROM usage_row GROUP BY 2, 3, 4, 5, 6 ORDER BY 2, 3, 4
"""
_TRAFFIC_COARSER = f"""
    INSERT INTO usage_traffic
    SELECT %(grain_s)s, date_trunc(%(unit)s, start, 'UTC') AS at, route_id, upstream_id, status_class, outcome,
        sum(requests), sum(retried), sum(cache_hits), sum(bytes_in), sum(bytes_out)
    FROM usage_traffic WHERE grain_s = {MINUTE_S} GROUP BY at, 3, 4, 5, 6
"""
_TRAFFIC_TOTALS = f"""
    INSERT INTO usage_traffic
    SELECT grain_s, start, {ALL}, {ALL}, status_class, outcome,
        sum(requests), sum(retried), sum(cache_hits), sum(bytes_in), sum(bytes_out)
    FROM usage_traffic GROUP BY 1, 2, 5, 6
"""
_CALLS = """
    INSERT INTO usage_calls
    SELECT %(grain_s)s, date_trunc(%(unit)s, at, 'UTC') AS hour, consumer_id, key_id, count(*),
        count(*) FILTER (WHERE status / 100 = 4), count(*) FILTER (WHERE status / 100 = 5),
        count(*) FILTER (WHERE outcome = 'rate_limited'), sum(bytes_in), sum(bytes_out)
    FROM usage_row WHERE key_id IS NOT NULL GROUP BY hour, 3, 4
"""
#: By minute, route, upstream, measure (0 duration, 1 gateway, 2 upstream) and bin of the histogram.
_BINS = """
    CREATE TEMPORARY TABLE bins AS
    SELECT date_trunc('minute', at) AS minute, coalesce(route_id, 0) AS route, coalesce(upstream_id, 0) AS upstream,
        measure, CASE WHEN ms < %(floor)s THEN 0
            ELSE least(%(last)s, 1 + floor(ln(ms / %(floor)s) / ln(%(ratio)s))::int) END AS bin,
        count(*) AS requests, sum(ms) AS ms
    FROM usage_row CROSS JOIN LATERAL (
        VALUES (0, duration_ms::float8), (1, gateway_ms::float8), (2, upstream_ms::float8)
    ) AS of (measure, ms)
    WHERE ms IS NOT NULL GROUP BY 1, 2, 3, 4, 5
"""
_LATENCY = f"""
    INSERT INTO usage_latency
    SELECT %(grain_s)s, start, coalesce(route, {ALL}), coalesce(upstream, {ALL}),
        sum(requests) FILTER (WHERE measure = 0),
        sum(ms) FILTER (WHERE measure = 0), sum(ms) FILTER (WHERE measure = 1),
        coalesce(sum(requests) FILTER (WHERE measure = 2), 0), coalesce(sum(ms) FILTER (WHERE measure = 2), 0),
        array_agg(ARRAY[bin, requests] ORDER BY bin) FILTER (WHERE measure = 0),
        array_agg(ARRAY[bin, requests] ORDER BY bin) FILTER (WHERE measure = 1),
        coalesce(array_agg(ARRAY[bin, requests] ORDER BY bin) FILTER (WHERE measure = 2), '{{}}')
    FROM (
        SELECT date_trunc(%(unit)s, minute, 'UTC') AS start, route, upstream, measure, bin,
            sum(requests)::bigint AS requests, sum(ms) AS ms
        FROM bins GROUP BY GROUPING SETS ((1, route, upstream, measure, bin), (1, measure, bin))
    ) AS sums
    GROUP BY start, route, upstream ORDER BY 2, 3, 4
"""
