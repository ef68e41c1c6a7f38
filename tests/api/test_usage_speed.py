"""A million requests in 24 h, 500 routes, 10,000 keys: sums, charts and rankings read rollups and answer at once."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from dashboard.ranges import floor
from keys import services
from tests.api.caller import Caller

pytestmark = pytest.mark.django_db

ROUTES, KEYS, DAY = 500, 10_000, timedelta(days=1)
FILL = [
    # Two requests of each route every minute; in coarser grains and over all routes the sums of those.
    """INSERT INTO usage_traffic SELECT {grain}, at, route, upstream, 2, 'ok', {each}, 0, 0, 0, 0
       FROM generate_series(%(first)s, %(last)s, make_interval(secs => {grain})) AS at, {dimensions}""",
    """INSERT INTO usage_latency SELECT {grain}, at, route, upstream, {each}, 20, 1, {each}, 19,
       (SELECT array_agg(ARRAY[bin, 2]) FROM generate_series(40, 60) AS bin), '{{{{10,2}}}}', '{{{{50,2}}}}'
       FROM generate_series(%(first)s, %(last)s, make_interval(secs => {grain})) AS at, {dimensions}""",
]
DIMENSIONS = [f"(SELECT n AS route, 1 + n %% 20 AS upstream FROM generate_series(1, {ROUTES}) AS n) AS of"]
DIMENSIONS += ["(SELECT -1 AS route, -1 AS upstream) AS of"]
CALLS = f"""INSERT INTO usage_calls SELECT 3600, at, 1 + n %% 100, n, 4, 0, 0, 0, 0, 0
            FROM generate_series(%(first)s, %(last)s, interval '1 hour') AS at, generate_series(1, {KEYS}) AS n"""


@pytest.fixture(scope="module")
def caller(django_db_setup: None, django_db_blocker: Any) -> Any:
    """The million once for all tests of this module; rolled back at the end."""
    from django.contrib.auth.models import User
    from django.db import transaction

    now = timezone.now()
    with django_db_blocker.unblock(), transaction.atomic():
        with connection.cursor() as cursor:
            for grain in (60, 3600):
                span = {"first": floor(now - DAY, grain), "last": floor(now, grain)}
                for fill in FILL:
                    for dimensions in DIMENSIONS:
                        cursor.execute(fill.format(grain=grain, each=grain // 30, dimensions=dimensions), span)
            cursor.execute(CALLS, {"first": floor(now - DAY, 3600), "last": floor(now, 3600)})
            for table in ("usage_traffic", "usage_latency", "usage_calls"):
                cursor.execute(f"ANALYZE {table}")
        user = User.objects.create_superuser("root")
        yield Caller(services.token_create(user, name="test", scopes=["read"])[1])
        transaction.set_rollback(True)


@pytest.mark.parametrize(
    ("path", "queries"),
    [
        ("/usage/summary", 3),
        ("/usage/summary?route_id=3", 3),
        ("/usage/summary?consumer_id=3", 1),
        ("/usage/summary?key_id=5000", 2),
        ("/usage/series", 2),
        ("/usage/series?route_id=3", 2),
        ("/usage/series?consumer_id=3", 1),
        ("/usage/top?by=routes", 2),
        ("/usage/top?by=upstreams", 2),
        ("/usage/top?by=outcomes", 1),
        ("/usage/top?by=consumers", 2),
        ("/usage/top?by=keys", 2),
        ("/status", 5),
    ],
)
def test_a_day_of_a_million_requests_answers_at_once(caller: Caller, path: str, queries: int) -> None:
    sign = "&" if "?" in path else "?"
    since = (timezone.now() - DAY).strftime("%Y-%m-%dT%H:%M:%SZ")
    url = path if path == "/status" else f"{path}{sign}since={since}"
    times_ms = []
    for _ in range(3):
        with CaptureQueriesContext(connection) as seen:
            started_s = time.perf_counter()
            response = caller("GET", url)
            times_ms.append((time.perf_counter() - started_s) * 1000)
        assert response.status_code == 200
    own = [query["sql"] for query in seen if re.search(r"usage_|keys_(apikey|consumer)|routes_", query["sql"])]
    assert len(own) == queries
    for sql in own:
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN {sql}")
            plan = "\n".join(line for (line,) in cursor.fetchall())
        assert "usage_row" not in plan
        assert not re.search(r"Seq Scan on usage_(traffic|latency)", plan), plan
    assert min(times_ms) < 300
