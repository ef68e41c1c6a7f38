"""Usage over the admin API: sums, charts and rankings from rollups; single requests in plain words; status."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from django.utils import timezone
from pydantic import BaseModel

from dashboard.api import examples, living, shapes
from dashboard.shipping import ship
from dashboard.spool import Spool
from gateway.proxy.health import Probed
from gateway.proxy.sightings import Sighting
from keys.models import ApiKey, Consumer
from routes import health
from routes.models import ConfigVersion, Route, Target, Upstream, WorkerReport
from tests.api.caller import Caller
from tests.dashboard.segments import segment_write
from tests.proxy.exchanges import Consumer as Caller_
from tests.proxy.exchanges import Credential, finished, route

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
NOON_S = NOON.timestamp()
BOB = Caller_(id=6, username="bob")
OVER = "rate-limiting: key:12 is over 100 per 60 s (sliding-window), room again in 7 s"


@pytest.fixture
def names(db: None) -> None:
    """What the ids of the traffic are called."""
    Route.objects.create(id=3, name="orders", paths=["/orders/*"])
    Upstream.objects.create(id=7, name="shop")
    Consumer.objects.create(id=5, username="ann")
    bob = Consumer.objects.create(id=6, username="bob")
    ApiKey.objects.create(id=12, consumer=bob, prefix="hg_live_3f9aB", digest=b"x" * 32)


@pytest.fixture
def traffic(names: None, tmp_path: Path) -> None:
    """From noon on a request each minute, 100 of them, of 1 to 100 ms; and one of Bob's, over a limit at 12:10:00."""
    exchanges = [finished(at_s=NOON_S + 60 * n, duration_ms=n + 1.0, upstream_ms=n + 0.5) for n in range(100)]
    exchanges.append(
        finished(
            at_s=NOON_S + 600, duration_ms=2.0, upstream_ms=None, status=429, outcome="rate_limited", detail=OVER,
            consumer=BOB, credential=Credential("key", 12, "", BOB), key_id=None,
        )
    )  # fmt: skip
    exchanges.append(finished(at_s=NOON_S + 601, route=route(4, "gone"), status=503, outcome="no_target", key_id=None))
    segment_write(tmp_path, exchanges)
    ship(Spool(tmp_path), "n1")


def get(call: Caller, path: str, **query: Any) -> Any:
    query = {"since": NOON.isoformat(), "until": (NOON + timedelta(hours=2)).isoformat(), **query}
    response = call("GET", f"{path}?{urlencode({name: value for name, value in query.items() if value is not None})}")
    assert response.status_code == 200, response.content
    return response.json()


@pytest.mark.parametrize(
    ("shape", "example"),
    [
        (shapes.UsageSummary, examples.SUMMARY), (shapes.UsageSeries, examples.SERIES),
        (shapes.UsageTop, examples.TOP), (shapes.UsageRowPage, examples.ROWS), (living.GatewayStatus, examples.STATUS),
    ],
)  # fmt: skip
def test_examples_have_every_field_and_no_other(shape: type[BaseModel], example: dict[str, Any]) -> None:
    assert shape.model_validate(example).model_dump(mode="json") == example


# --- sums -------------------------------------------------------------------------------------------------------------


def test_a_summary_adds_up(call: Caller, traffic: None) -> None:
    found = get(call, "/usage/summary")
    assert (found["since"], found["until"]) == ("2026-11-22T12:00:00Z", "2026-11-22T14:00:00Z")
    assert (found["requests"], found["client_errors"], found["server_errors"]) == (102, 1, 1)
    assert found["requests_per_s"] == round(102 / 7200, 3)
    assert found["by_status_class"] == {"2xx": 100, "4xx": 1, "5xx": 1}
    assert found["by_outcome"] == {"ok": 100, "rate_limited": 1, "no_target": 1}
    assert found["rate_limited"] == 1
    assert found["duration_ms"]["p50"] == pytest.approx(50, rel=0.06)
    assert found["gateway_ms"]["p99"] is not None


@pytest.mark.parametrize(
    ("whose", "requests"),
    [
        ({"route_id": 3}, 101), ({"route_id": 4}, 1), ({"route_id": 0}, 0), ({"upstream_id": 7}, 101),
        ({"consumer_id": 6}, 1), ({"key_id": 12}, 1), ({"key_id": 11}, 100), ({"key_id": 99}, 0),
    ],
)  # fmt: skip
def test_sums_and_charts_agree_whoever_is_asked_for(
    call: Caller, traffic: None, whose: dict[str, int], requests: int
) -> None:
    assert get(call, "/usage/summary", **whose)["requests"] == requests
    assert sum(point["requests"] for point in get(call, "/usage/series", **whose)["points"]) == requests


def test_of_a_caller_times_are_not_known(call: Caller, traffic: None) -> None:
    found = get(call, "/usage/summary", consumer_id=6)
    assert (found["rate_limited"], found["duration_ms"], found["by_outcome"]) == (1, None, None)


def test_a_series_has_every_step(call: Caller, traffic: None) -> None:
    found = get(call, "/usage/series", step_s=1800, route_id=3)
    assert found["step_s"] == 1800
    assert [point["start"][11:16] for point in found["points"]] == ["12:00", "12:30", "13:00", "13:30"]
    assert [point["requests"] for point in found["points"]] == [31, 30, 30, 10]
    assert [point["rate_limited"] for point in found["points"]] == [1, 0, 0, 0]
    assert found["points"][1]["p50_ms"] == pytest.approx(45, rel=0.06)


@pytest.mark.parametrize(
    ("by", "found"),
    [
        ("routes", [(3, "orders", 101), (4, "", 1)]),
        ("consumers", [(5, "ann", 100), (6, "bob", 1)]),
        ("keys", [(11, "", 100), (12, "hg_live_3f9aB", 1)]),
        ("outcomes", [(None, "ok", 100), (None, "no_target", 1), (None, "rate_limited", 1)]),
    ],
)
def test_the_busiest_come_first(call: Caller, traffic: None, by: str, found: list[Any]) -> None:
    items = get(call, "/usage/top", by=by)["items"]
    assert [(item["id"], item["name"], item["requests"]) for item in items if item["id"] != 0] == found


@pytest.mark.parametrize(
    ("path", "query", "parameter"),
    [
        ("summary", "since=yesterday", "since"),
        ("summary", "since=2026-11-22T12:00:00", "since"),
        ("summary", "since=2026-11-22T13:00:00Z&until=2026-11-22T12:00:00Z", "since"),
        ("summary", "since=2020-01-01T00:00:00Z", "since"),
        ("summary", "until=0001-01-01T00:00:00Z", "since"),
        ("summary", "since=9999-12-31T23:59:59-12:00", "since"),
        ("summary", "route_id=x", "route_id"),
        ("summary", "route_id=-1", "route_id"),
        ("summary", "route_id=99999999999999999999", "route_id"),
        ("summary", "route_id=3&key_id=5", "key_id"),
        ("summary", "nope=1", "nope"),
        ("series", "step_s=90", "step_s"),
        ("series", "step_s=60&key_id=1", "step_s"),
        ("series", "since=2026-01-01T00:00:00Z&until=2026-03-01T00:00:00Z&step_s=60", "step_s"),
        ("top", "by=colour", "by"),
        ("top", "limit=0", "limit"),
        ("rows", "cursor=x", "cursor"),
        ("rows", "status_class=9", "status_class"),
        ("rows", "outcome=fine", "outcome"),
        ("rows", "request_id=x&limit=5", "request_id"),
    ],
)
def test_a_parameter_that_cannot_be_read_is_named(call: Caller, path: str, query: str, parameter: str) -> None:
    response = call("GET", f"/usage/{path}?{query}")
    assert response.status_code == 400, response.content
    assert [fault["parameter"] for fault in response.json()["errors"]] == [parameter]


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_refusal_is_explained(call: Caller, traffic: None) -> None:
    (row,) = get(call, "/usage/rows", outcome="rate_limited")["items"]
    assert row["explanation"].startswith("Key hg_live_3f9aB… allows 100 per 60 s")
    assert "room again at 12:10:07" in row["explanation"]
    assert (row["route"], row["consumer"], row["key"]) == ("orders", "bob", "hg_live_3f9aB")
    assert row["at"] == "2026-11-22T12:10:00Z"


def test_what_is_gone_has_no_name(call: Caller, traffic: None) -> None:
    (row,) = get(call, "/usage/rows", route_id=4)["items"]
    assert (row["route_id"], row["route"], row["status"]) == (4, None, 503)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"status_class": 4}, 1), ({"key_id": 12}, 1), ({"consumer_id": 6}, 1), ({"method": "POST"}, 0),
        ({"slower_than_ms": 91}, 10), ({"outcome": "ok", "method": "GET", "limit": 500}, 100),
    ],
)  # fmt: skip
def test_rows_are_filtered(call: Caller, traffic: None, query: dict[str, Any], found: int) -> None:
    assert len(get(call, "/usage/rows", **query)["items"]) == found


def test_rows_go_on_by_cursor(call: Caller, traffic: None, django_assert_max_num_queries: Any) -> None:
    page = get(call, "/usage/rows", limit=40)
    seen = [row["at"] for row in page["items"]]
    while page["next"]:
        with django_assert_max_num_queries(14):
            page = call("GET", page["next"].removeprefix("http://testserver")).json()
        seen += [row["at"] for row in page["items"]]
    assert len(seen) == 102
    assert seen == sorted(seen, reverse=True)


def test_one_request_by_its_id(call: Caller, traffic: None) -> None:
    row = get(call, "/usage/rows", limit=1)["items"][0]
    found = call("GET", f"/usage/rows?request_id={row['request_id']}").json()
    assert found == {"items": [row], "next": None, "searched_to": None}
    assert call("GET", "/usage/rows?request_id=nope").json()["items"] == []


# --- status -----------------------------------------------------------------------------------------------------------


def test_status_tells_what_each_worker_serves_and_how_upstreams_do(
    call: Caller, names: None, tmp_path: Path, django_assert_max_num_queries: Any
) -> None:
    Target.objects.create(upstream_id=7, host="10.0.0.1", port=80)
    probe = Probed(up=False, since_s=60.0, at_s=90.0, fault="Status 500.", took_ms=3.0)
    health.report("n1", [Sighting("shop", "10.0.0.1:80", "down", 60.0, 0, 2, 3, 17.5, probe)])
    ConfigVersion.objects.create(number=2, document={}, digest="d", author="x", source="test", live=True)
    report = {"node": "n1", "pid": 1, "role": "all", "applied_at": timezone.now(), "seen_at": timezone.now()}
    WorkerReport.objects.create(worker=1, version=2, **report)
    WorkerReport.objects.create(worker=2, version=1, error="no such plugin", **report)
    now_s = timezone.now().timestamp()
    exchanges = [finished(at_s=now_s - 60, status=status) for status in (200, 200, 200, 502)]
    segment_write(tmp_path, exchanges)
    ship(Spool(tmp_path), "n1")
    with django_assert_max_num_queries(10):
        found = call("GET", "/status").json()
    assert found["version"] == {"number": 2, "digest": "d"}
    assert [(worker["worker"], worker["version"], worker["current"]) for worker in found["workers"]] == [
        (1, 2, True), (2, 1, False),
    ]  # fmt: skip
    assert found["degraded"] == [{"part": "worker n1/2", "detail": "Serves version 1, not 2: no such plugin"}]
    (upstream,) = found["upstreams"]
    assert (upstream["name"], upstream["requests"], upstream["error_share"]) == ("shop", 4, 0.25)
    (target,) = upstream["targets"]
    assert target == {
        "id": target["id"], "address": "10.0.0.1:80", "weight": 100, "enabled": True, "state": "down",
        "since": "1970-01-01T00:01:00Z", "nodes": 1, "nodes_agreeing": 1, "failures": 2, "fault": "",
            "in_flight": 3,
        "latency_ms": 17.5,
        "probe": {"at": "1970-01-01T00:01:30Z", "fault": "Status 500.", "took_ms": 3.0, "streak": 0},
    }  # fmt: skip


def test_nothing_that_serves_is_degraded(call: Caller) -> None:
    assert [part["part"] for part in call("GET", "/status").json()["degraded"]] == ["workers"]


@pytest.mark.parametrize("path", ["/usage/summary", "/usage/series", "/usage/top", "/usage/rows", "/status"])
def test_permissions_decide(call_as: Callable[..., Caller], clerk: Callable[..., Any], path: str) -> None:
    assert call_as(clerk("routes.view_route"), "read")("GET", path).status_code == 403
    allowed = clerk("dashboard.view_usagerow", "routes.view_workerreport", "routes.view_upstream")
    assert call_as(allowed, "read")("GET", path).status_code == 200
    assert Caller()("GET", path).status_code == 401
