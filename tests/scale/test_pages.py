"""With a million requests in the last day, 500 routes and 10,000 keys, whatever an operator opens answers at once."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext

from dashboard.models import UsageRow
from dashboard.selectors import caller_summary, summary
from keys import services as keys
from routes.models import ConfigVersion, Route
from tests.scale.fill import DAY, ROWS, Filled

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(300)]

SERVER_MS, BULK_MS = 300, 1000
#: The best of so many goes counts: others on the machine make a page slower, never faster.
GOES = 10
OVERVIEW_BYTES = 50_000
#: By PostgreSQL's reckoning. All rows of the day cost some 30,000, an hour of them 1,500.
SMALL_COST = 2_000

#: Path → the most queries it makes, however much there is; who asks included.
ROLLUPS = {
    "/dashboard/?range=24h": 22,
    "/dashboard/?range=7d": 22,
    "/dashboard/overview.json?range=24h": 21,
    "/dashboard/routes/": 11,
    "/dashboard/routes/?sort=errors": 12,
    "/dashboard/upstreams/": 8,
    "/dashboard/keys/": 6,
    "/dashboard/keys/?q=job&state=live&order=used": 6,
    "/dashboard/keys/?page=200": 6,
    "/dashboard/consumers/": 6,
    "/dashboard/config/": 11,
    "/admin/": 3,
    "/admin/routes/route/": 9,
    "/admin/routes/route/{route}/change/": 10,
    "/admin/routes/upstream/": 5,
    "/admin/routes/pluginsetting/": 8,
    "/admin/routes/configversion/": 7,
    "/admin/routes/configversion/{version_id}/change/": 4,
    "/admin/keys/consumer/": 5,
    "/admin/keys/consumer/{consumer}/change/": 6,
    "/admin/keys/apikey/?q=job": 5,
    "/admin/v1/routes?limit=500": 3,
    "/admin/v1/upstreams": 3,
    "/admin/v1/plugin-settings?limit=500": 2,
    "/admin/v1/versions/{version}": 2,
    "/admin/v1/versions/{version}/diff": 2,
    "/admin/v1/config": 6,
    "/admin/v1/consumers?limit=500": 2,
    "/admin/v1/keys?limit=500": 2,
    "/admin/v1/consumers/{consumer}/keys": 4,
    "/admin/v1/usage/summary": 4,
    "/admin/v1/usage/series": 3,
    "/admin/v1/usage/top?by=keys": 3,
    "/admin/v1/status": 7,
}
#: These show raw rows too.
ROWS_TOO = {
    "/dashboard/routes/{route}/?range=24h": 12,
    "/dashboard/upstreams/{upstream}/?range=24h": 13,
    "/dashboard/keys/{key}/": 15,
    "/dashboard/consumers/{consumer}/": 14,
    "/dashboard/requests/?range=24h": 12,
    "/dashboard/requests/?range=24h&route={route}": 12,
    "/dashboard/requests/?range=24h&consumer={consumer}": 11,
    "/dashboard/requests/?range=24h&key={key}": 13,
    "/dashboard/requests/?range=24h&class=5": 13,
    "/dashboard/requests/?range=24h&outcome=rate_limited": 12,
    "/dashboard/requests/?range=24h&method=POST": 11,
    "/dashboard/requests/?range=24h&slower=300": 12,
    "/dashboard/requests/?range=24h&route={route}&class=5&slower=300": 13,
    "/dashboard/requests/{request}/": 9,
    "/admin/dashboard/usagerow/": 8,
    "/admin/dashboard/usagerow/?when=all&outcome=rate_limited": 8,
    "/admin/dashboard/usagerow/?outcome=upstream_unreachable": 8,
    "/admin/dashboard/usagerow/?outcome=upstream_timeout": 8,
    "/admin/dashboard/usagerow/?when=all&class=5": 8,
    "/admin/dashboard/usagerow/?class=3": 8,
    "/admin/dashboard/usagerow/?class=2&route_id={route}": 8,
    "/admin/dashboard/usagerow/?key_id={key}": 8,
    "/admin/dashboard/usagerow/?consumer_id={consumer}&when=all": 8,
    "/admin/dashboard/usagerow/?when=all&q={request}": 8,
    "/admin/dashboard/usagerow/{row}/change/": 7,
    "/admin/v1/usage/rows": 6,
    "/admin/v1/usage/rows?outcome=rate_limited": 6,
}


class Operator:
    """Opens pages with a session and the admin API with a token."""

    def __init__(self, names: dict[str, Any]) -> None:
        from django.contrib.auth.models import User

        root = User.objects.create_superuser("root")
        secret = keys.token_create(root, name="test", scopes=["write"], by="test")[1]
        self.names, self.browser = names, Client()
        self.api = Client(headers={"Authorization": f"Bearer {secret}"})
        self.browser.force_login(root)

    def __call__(self, path: str) -> HttpResponse:
        client = self.api if path.startswith("/admin/v1/") else self.browser
        return client.get(path.format(**self.names))

    def post(self, path: str, body: str) -> HttpResponse:
        return self.api.post(path, body, content_type="application/json")


@pytest.fixture
def get(filled: Filled) -> Operator:
    latest, live = UsageRow.objects.all()[0], ConfigVersion.objects.get(live=True)
    return Operator({
        "route": filled.route + 250, "upstream": filled.upstream + 50, "consumer": filled.consumer + 500,
        "key": filled.key + 5003, "row": latest.id, "request": latest.request_id,
        "version": live.number, "version_id": live.pk,
    })  # fmt: skip


@pytest.mark.parametrize(("path", "queries"), [*ROLLUPS.items(), *ROWS_TOO.items()])
def test_it_answers_at_once(get: Operator, path: str, queries: int) -> None:
    best_ms, seen = _best(get, path, queries)
    assert len(seen) <= queries
    assert best_ms < SERVER_MS
    for query in seen:
        plan = _plan(query["sql"])
        assert not _read_whole(plan), plan
        assert path not in ROLLUPS or "usage_row" not in plan


def test_the_overview_is_small_for_the_browser(get: Operator) -> None:
    for span in ("1h", "24h"):
        assert len(get(f"/dashboard/overview.json?range={span}").content) < OVERVIEW_BYTES


def test_the_rollups_are_sums_of_the_rows(filled: Filled) -> None:
    """Else what is measured here would not be what the recorder leaves."""
    last = UsageRow.objects.all()[0].at
    found = summary(last - 2 * DAY, last + DAY)
    assert found.requests == sum(found.by_status_class.values()) == ROWS
    assert sum(summary(last - 2 * DAY, last + DAY, route_id=filled.route + n).requests for n in range(0, 500, 50)) == (
        UsageRow.objects.filter(route_id__in=range(filled.route, filled.route + 500, 50)).count()
    )
    calls = caller_summary(last - 2 * DAY, last + DAY, consumer_id=filled.consumer)
    rows = UsageRow.objects.filter(consumer_id=filled.consumer)
    assert (calls.requests, calls.rate_limited) == (rows.count(), rows.filter(outcome="rate_limited").count())
    middle = found.duration.p50
    assert middle is not None
    assert 0.45 < UsageRow.objects.filter(duration_ms__lt=middle).count() / ROWS < 0.55


def test_two_hundred_routes_in_bulk_are_one_version_and_live_in_a_second(get: Operator) -> None:
    """On top of the 500 that are there: written, compiled, published, told in the trail. The best of some goes."""
    _bulk(get, "warm", 1)
    before, times_ms = ConfigVersion.objects.get(live=True), []
    for go in range(GOES // 2):
        started_s = time.perf_counter()
        _bulk(get, f"go{go}", 200)
        times_ms.append((time.perf_counter() - started_s) * 1000)
        live = ConfigVersion.objects.get(live=True)
        assert live.number == before.number + 1 + go
        assert len(live.document["routes"]) == Route.objects.count() == len(before.document["routes"]) + 200 * (go + 1)
        if times_ms[-1] < BULK_MS:
            break
    assert min(times_ms) < BULK_MS


def _bulk(get: Operator, name: str, routes: int) -> None:
    upstream = {"name": name, "targets": [{"host": "10.0.0.9", "port": 80}]}
    operations = [{"op": "create", "resource": "upstreams", "value": upstream}]
    for n in range(routes):
        route = {"name": f"{name}-{n}", "paths": [f"/{name}/{n}/*"], "upstreams": [{"name": name}]}
        operations.append({"op": "create", "resource": "routes", "value": route})
    response = get.post("/admin/v1/bulk", json.dumps({"operations": operations}))
    assert response.status_code == 200, response.content


def _best(get: Operator, path: str, most: int) -> tuple[float, list[dict[str, str]]]:
    """Wall time and queries of the best go. It ends when one is good enough: the first compiles and fills caches."""
    best_ms, fewest = float("inf"), []
    for _ in range(GOES):
        with CaptureQueriesContext(connection) as seen:
            started_s = time.perf_counter()
            assert get(path).status_code == 200
            best_ms = min(best_ms, (time.perf_counter() - started_s) * 1000)
        fewest = min(fewest or seen.captured_queries, seen.captured_queries, key=len)
        if best_ms < SERVER_MS and len(fewest) <= most:
            break
    return best_ms, fewest


def _read_whole(plan: str) -> list[str]:
    """Usage tables that are read from begin to end; not partitions with next to nothing in them.

    Nor usage_calls: it holds the hours of this one day, so a page about a day's callers wants all of it.
    """
    scans = re.findall(r"Seq Scan on (usage_(?:row|traffic|latency)\w*).*?\(cost=[\d.]+?\.\.([\d.]+)", plan)
    return [table for table, cost in scans if float(cost) > SMALL_COST]


def _plan(sql: str) -> str:
    """Empty for what is not about usage."""
    if "usage_" not in sql or not sql.startswith(("SELECT", "WITH")):
        return ""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {sql}")
        return "\n".join(line for (line,) in cursor.fetchall())
