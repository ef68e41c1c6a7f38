from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dashboard.selectors import caller_summary, series, summary, top
from dashboard.shipping import ship
from tests.dashboard.segments import segment_write
from tests.proxy.exchanges import Consumer, Credential, finished, route

pytestmark = pytest.mark.usefixtures("committed")

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
NOON_S = NOON.timestamp()
DAY = timedelta(days=1)


@pytest.fixture
def traffic(spool):
    """100 requests of 1 to 100 ms from noon on, one each minute; a 429 and a 503 the day before; a 404 of nobody."""
    bob = Consumer(id=6, username="bob")
    exchanges = [
        finished(at_s=NOON_S + 60 * n, duration_ms=n + 1.0, upstream_ms=n + 0.5, bytes_out=10) for n in range(100)
    ]
    exchanges += [
        finished(
            at_s=NOON_S - 86_400, route=route(4, "users"), status=429, outcome="rate_limited", upstream_ms=None,
            consumer=bob, credential=Credential("key", 12, "", bob), key_id=None,
        ),
        finished(at_s=NOON_S - 86_400, route=route(4, "users"), status=503, outcome="no_target", upstream_ms=None),
        finished(at_s=NOON_S - 3600, route=None, status=404, outcome="no_route", upstream_ms=None, key_id=None),
    ]  # fmt: skip
    segment_write(spool.path, exchanges)
    ship(spool, "n1")


def test_a_summary_adds_up(traffic, django_assert_num_queries):
    with django_assert_num_queries(3):
        found = summary(NOON - 2 * DAY, NOON + DAY)
    assert (found.requests, found.errors, found.bytes_out) == (103, 1, 1000)
    assert found.by_status_class == {2: 100, 4: 2, 5: 1}
    assert found.by_outcome == {"ok": 100, "rate_limited": 1, "no_target": 1, "no_route": 1}


def test_percentiles_of_a_route_are_within_five_percent(traffic):
    found = summary(NOON - DAY, NOON + DAY, route_id=3)
    assert found.duration.mean == pytest.approx(50.5)
    assert found.duration.p50 == pytest.approx(50, rel=0.05)
    assert found.duration.p90 == pytest.approx(90, rel=0.05)
    assert found.duration.p99 == pytest.approx(99, rel=0.05)
    assert found.upstream.p50 == pytest.approx(49.5, rel=0.05)
    assert found.gateway.p99 == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(
    ("start", "end", "requests"),
    [
        (NOON, NOON + timedelta(minutes=1), 1),
        (NOON, NOON + timedelta(minutes=90), 90),
        (NOON + timedelta(minutes=30), NOON + timedelta(minutes=61), 31),
        (NOON - timedelta(days=10), NOON - timedelta(hours=2), 2),
        (NOON + DAY, NOON + 2 * DAY, 0),
    ],
)
def test_a_range_is_exact_to_the_minute(traffic, start, end, requests):
    assert summary(start, end).requests == requests


def test_nothing_has_no_times(committed):
    found = summary(NOON, NOON + DAY)
    assert (found.requests, found.duration.mean, found.duration.p99) == (0, None, None)


def test_a_series_has_every_step(traffic, django_assert_num_queries):
    with django_assert_num_queries(2):
        points = series(NOON - timedelta(hours=2), NOON + timedelta(hours=2), step_s=3600)
    assert [point.requests for point in points] == [0, 1, 60, 40]
    assert points[1].by_status_class == {4: 1}
    assert points[0].p50 is None
    assert points[2].p50 == pytest.approx(30, rel=0.05)
    assert [point.start for point in points] == [NOON + timedelta(hours=hours) for hours in (-2, -1, 0, 1)]


def test_a_series_of_a_route_in_five_minutes(traffic):
    points = series(NOON + timedelta(minutes=92), NOON + timedelta(minutes=109), step_s=300, route_id=3)
    assert [(point.start.minute, point.requests) for point in points] == [(30, 5), (35, 5), (40, 0), (45, 0)]


def test_top_routes_and_outcomes(traffic, django_assert_num_queries):
    with django_assert_num_queries(1):
        found = top(NOON - 2 * DAY, NOON + DAY, "route_id")
    assert [(share.value, share.requests, share.client_errors, share.server_errors) for share in found] == [
        (3, 100, 0, 0),
        (4, 2, 1, 1),
        (0, 1, 1, 0),
    ]
    assert [share.value for share in top(NOON - 2 * DAY, NOON + DAY, "outcome", limit=1)] == ["ok"]


def test_top_callers_and_one_of_them(traffic, django_assert_num_queries):
    with django_assert_num_queries(2):
        found = top(NOON - 2 * DAY, NOON + DAY, "key_id")
        bob = caller_summary(NOON - 2 * DAY, NOON + DAY, consumer_id=6)
    assert [(share.value, share.requests) for share in found] == [(11, 101), (12, 1)]
    assert (bob.requests, bob.rate_limited, bob.client_errors) == (1, 1, 1)


def test_who_never_called_has_called_zero_times(traffic):
    assert caller_summary(NOON, NOON + DAY, key_id=99).requests == 0
