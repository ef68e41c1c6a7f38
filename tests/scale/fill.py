"""A day of an installation in use: 500 routes, 10,000 keys and a million requests, made by SQL in some seconds.

One hour is made, and lasts all day: its rows are copied 24 times, and so is what its minutes come to in the rollups,
which therefore are sums of the very rows, grouped as `dashboard.fold` groups them. Requests are spread evenly over the
hour, so every route has some in nearly every minute: rollups are as large as a day of a million requests can make them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from django.db import connection

from dashboard.fold import ALL, DAY_S, HOUR_S, MINUTE_S
from dashboard.partitions import partitions_keep
from dashboard.ranges import floor
from gateway.proxy.histogram import FLOOR_MS, LAST, RATIO
from keys.models import ApiKey, Consumer
from routes import services
from routes.models import PluginSetting, Route, RouteUpstream, Target, Upstream

HOURLY, HOURS = 41_667, 24
ROWS = HOURLY * HOURS
ROUTES, UPSTREAMS, CONSUMERS, KEYS = 500, 100, 1_000, 10_000
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TABLES = ("usage_row", "usage_traffic", "usage_latency", "usage_calls")


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
    start = floor(now, MINUTE_S) - DAY
    partitions_keep(start.date(), retention_days=7)
    with connection.cursor() as cursor:
        cursor.execute("SET work_mem = '256MB'")
        cursor.execute("SET maintenance_work_mem = '256MB'")
        for statement in _HOUR:
            cursor.execute(statement, _constants(filled))
        _periods(cursor, start)
        with _bare(cursor):
            for hour in range(HOURS):
                cursor.execute(_ROWS, {"start": start + hour * HOUR, "first": hour * HOURLY})
            for statement in (_TRAFFIC, _LATENCY, _CALLS):
                cursor.execute(statement)
        cursor.execute("DROP TABLE hour_rows, hour_bins, hour_periods, hour_minutes")
        cursor.execute("RESET work_mem")
        cursor.execute("RESET maintenance_work_mem")
        cursor.execute("ANALYZE")


def _constants(filled: Filled) -> dict[str, Any]:
    ids = {"route": filled.route, "upstream": filled.upstream, "consumer": filled.consumer, "key": filled.key}
    return {**ids, "floor": FLOOR_MS, "ratio": RATIO, "last": LAST}


@contextmanager
def _bare(cursor: Any) -> Iterator[None]:
    """Without indexes and without a log, which cost more than the rows: indexes are made of them all at the end."""
    cursor.execute(
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE contype = 'p' AND conrelid = ANY(%s::regclass[])",
        [list(TABLES)],
    )
    keys = cursor.fetchall()
    for table, name, _ in keys:
        cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    cursor.execute("SELECT indexname, indexdef FROM pg_indexes WHERE tablename = ANY(%s)", [list(TABLES)])
    indexes = cursor.fetchall()
    for name, _ in indexes:
        cursor.execute(f"DROP INDEX {name}")
    cursor.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'usage_row'::regclass")
    for table in (*TABLES[1:], *(name for (name,) in cursor.fetchall())):
        cursor.execute(f"ALTER TABLE {table} SET UNLOGGED")  # nothing of it is to last
    yield
    for table, name, definition in keys:
        cursor.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
    for _, definition in indexes:
        cursor.execute(definition.replace(" ON ONLY ", " ON "))  # of the partitioned table: of its partitions, too


def _periods(cursor: Any, start: datetime) -> None:
    """Which minutes of the hour each minute, hour and day of the rollups is made of, and how often of each.

    Those made of the same ones, as all but the first and the last hour are, are one variant: summed up once.
    """
    minutes: dict[tuple[int, datetime], Counter[int]] = {}
    for minute in range(HOURS * 60):
        for grain_s in (MINUTE_S, HOUR_S, DAY_S):
            period = grain_s, floor(start + timedelta(minutes=minute), grain_s)
            minutes.setdefault(period, Counter())[minute % 60] += 1
    variants = {frozenset(made_of.items()): number for number, made_of in enumerate(minutes.values())}
    cursor.execute("CREATE TEMPORARY TABLE hour_periods (grain_s int, start timestamptz, variant int)")
    cursor.execute("CREATE TEMPORARY TABLE hour_minutes (variant int, minute int, times int)")
    cursor.executemany(
        "INSERT INTO hour_periods VALUES (%s, %s, %s)",
        [(*period, variants[frozenset(made_of.items())]) for period, made_of in minutes.items()],
    )
    cursor.executemany(
        "INSERT INTO hour_minutes VALUES (%s, %s, %s)",
        [(number, minute, times) for made_of, number in variants.items() for minute, times in made_of],
    )
    cursor.execute("ANALYZE hour_periods, hour_minutes")


#: The hour: its rows, and their times by minute, route, upstream, measure (0 duration, 1 gateway, 2 upstream) and bin
#: of the histogram. `kind` says what a request of a hundred comes to: two lack a key, three are over a limit, one finds
#: nobody there. OFFSET 0: work these out once for each row, not wherever they are named.
_HOUR = (
    f"""
    CREATE TEMPORARY TABLE hour_rows AS
    SELECT n, n * interval '1 hour' / {HOURLY} AS after, n * 60 / {HOURLY} AS minute,
        %(route)s + place AS route_id, CASE WHEN sent THEN %(upstream)s + place %% {UPSTREAMS} END AS upstream_id,
        CASE WHEN kind > 1 THEN %(consumer)s + caller / {KEYS // CONSUMERS} END AS consumer_id,
        CASE WHEN kind > 1 THEN %(key)s + caller END AS key_id,
        caller %% 700 AS bytes_in, 200 + caller AS bytes_out,
        CASE WHEN sent THEN took + 0.4 ELSE 0.4 END::real AS duration_ms, 0.4::real AS gateway_ms,
        CASE WHEN sent THEN took END AS upstream_ms,
        CASE WHEN kind < 2 THEN 401 WHEN kind < 5 THEN 429 WHEN kind = 5 THEN 502 ELSE 200 END AS status,
        CASE WHEN kind = 5 THEN 2 ELSE 1 END AS tries, CASE WHEN caller %% 5 = 0 THEN 'POST' ELSE 'GET' END AS method,
        '/r' || place || '/things/' || caller AS path,
        CASE WHEN kind < 2 THEN 'key_missing' WHEN kind < 5 THEN 'rate_limited'
            WHEN kind = 5 THEN 'upstream_unreachable' ELSE 'ok' END AS outcome,
        CASE WHEN sent THEN '10.' || place %% {UPSTREAMS} || '.0.1:80' ELSE '' END AS target
    FROM generate_series(0, {HOURLY - 1}) AS n
    CROSS JOIN LATERAL (
        SELECT hashint8extended(n, 1) & 1048575 AS a, hashint8extended(n, 2) & 1048575 AS b OFFSET 0
    ) AS hash
    CROSS JOIN LATERAL (
        SELECT a %% {ROUTES} AS place, b %% {KEYS} AS caller, a / {ROUTES} %% 100 AS kind,
        (5 + b / {KEYS} * (b %% 7))::real AS took, a / {ROUTES} %% 100 > 4 AS sent
        OFFSET 0
    ) AS of
    ORDER BY n
    """,
    """
    CREATE TEMPORARY TABLE hour_bins AS
    SELECT minute, route_id AS route, coalesce(upstream_id, 0) AS upstream, measure,
        CASE WHEN ms < %(floor)s THEN 0
            ELSE least(%(last)s, 1 + floor(ln(ms / %(floor)s) / ln(%(ratio)s))::int) END AS bin,
        count(*) AS requests, sum(ms) AS ms
    FROM hour_rows CROSS JOIN LATERAL (
        VALUES (0, duration_ms::float8), (1, gateway_ms::float8), (2, upstream_ms::float8)
    ) AS of (measure, ms)
    WHERE ms IS NOT NULL GROUP BY 1, 2, 3, 4, 5
    """,
    "ANALYZE hour_rows, hour_bins",
)

_ROWS = """
    INSERT INTO usage_row (
        at, config_version, route_id, upstream_id, consumer_id, key_id, bytes_in, bytes_out, duration_ms, gateway_ms,
        upstream_ms, status, tries, client_ip, request_id, node, worker, method, host, path, outcome, detail, target,
        cache_status
    )
    SELECT %(start)s + after, 1, route_id, upstream_id, consumer_id, key_id, bytes_in, bytes_out, duration_ms,
        gateway_ms, upstream_ms, status, tries, '10.0.0.1', 'scale-' || %(first)s + n, 'node-1', '0', method,
        'api.example.com', path, outcome, '', target, ''
    FROM hour_rows
"""
_TRAFFIC = f"""
    INSERT INTO usage_traffic
    SELECT grain_s, start, coalesce(route, {ALL}), coalesce(upstream, {ALL}), status / 100, outcome,
        requests, retried, 0, bytes_in, bytes_out
    FROM hour_periods JOIN (
        SELECT variant, route, upstream, status, outcome, sum(times) AS requests,
            coalesce(sum(times) FILTER (WHERE tries > 1), 0) AS retried,
            sum(bytes_in * times) AS bytes_in, sum(bytes_out * times) AS bytes_out
        FROM hour_minutes JOIN (SELECT *, route_id AS route, coalesce(upstream_id, 0) AS upstream FROM hour_rows) AS row
            USING (minute)
        GROUP BY GROUPING SETS ((variant, route, upstream, status, outcome), (variant, status, outcome))
    ) AS sums USING (variant)
"""
_CALLS = f"""
    INSERT INTO usage_calls
    SELECT grain_s, start, consumer_id, key_id, requests, client_errors, server_errors, rate_limited, bytes_in,
        bytes_out
    FROM hour_periods JOIN (
        SELECT variant, consumer_id, key_id, sum(times) AS requests,
            coalesce(sum(times) FILTER (WHERE status / 100 = 4), 0) AS client_errors,
            coalesce(sum(times) FILTER (WHERE status / 100 = 5), 0) AS server_errors,
            coalesce(sum(times) FILTER (WHERE outcome = 'rate_limited'), 0) AS rate_limited,
            sum(bytes_in * times) AS bytes_in, sum(bytes_out * times) AS bytes_out
        FROM hour_minutes JOIN hour_rows USING (minute)
        WHERE key_id IS NOT NULL AND variant IN (SELECT variant FROM hour_periods WHERE grain_s > {MINUTE_S})
        GROUP BY variant, consumer_id, key_id
    ) AS sums USING (variant)
    WHERE grain_s > {MINUTE_S}
"""
_LATENCY = f"""
    INSERT INTO usage_latency
    SELECT grain_s, start, coalesce(route, {ALL}), coalesce(upstream, {ALL}), requests, duration_ms, gateway_ms,
        upstream_requests, upstream_ms, duration_bins, gateway_bins, upstream_bins
    FROM hour_periods JOIN (
        SELECT variant, route, upstream,
            sum(requests) FILTER (WHERE measure = 0) AS requests,
            sum(ms) FILTER (WHERE measure = 0) AS duration_ms, sum(ms) FILTER (WHERE measure = 1) AS gateway_ms,
            coalesce(sum(requests) FILTER (WHERE measure = 2), 0) AS upstream_requests,
            coalesce(sum(ms) FILTER (WHERE measure = 2), 0) AS upstream_ms,
            array_agg(ARRAY[bin, requests] ORDER BY bin) FILTER (WHERE measure = 0) AS duration_bins,
            array_agg(ARRAY[bin, requests] ORDER BY bin) FILTER (WHERE measure = 1) AS gateway_bins,
            coalesce(array_agg(ARRAY[bin, requests] ORDER BY bin) FILTER (WHERE measure = 2), '{{}}') AS upstream_bins
        FROM (
            SELECT variant, route, upstream, measure, bin, sum(requests * times)::bigint AS requests,
                sum(ms * times) AS ms
            FROM hour_minutes JOIN hour_bins USING (minute)
            GROUP BY GROUPING SETS ((variant, route, upstream, measure, bin), (variant, measure, bin))
        ) AS bins
        GROUP BY variant, route, upstream
    ) AS sums USING (variant)
"""
