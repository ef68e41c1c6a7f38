from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dashboard import breakdown
from dashboard.breakdown import last_day, ranked, targets
from dashboard.shipping import ship
from tests.dashboard.segments import segment_write
from tests.proxy.exchanges import finished, route

pytestmark = pytest.mark.usefixtures("committed")

NOW = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)
NOW_S = NOW.timestamp()


@pytest.fixture
def traffic(spool):
    """Route 3: 100 requests of 1 to 100 ms this hour, 10 five hours ago; route 4: 2 failures. All of upstream 7."""
    exchanges = [finished(at_s=NOW_S - 60, duration_ms=n + 1.0, upstream_ms=n + 0.5) for n in range(100)]
    exchanges += [finished(at_s=NOW_S - 5 * 3600, duration_ms=50.0, upstream_ms=49.0) for _ in range(10)]
    exchanges += [
        finished(at_s=NOW_S - 120, route=route(4, "users"), status=502, outcome="upstream_error", target="10.0.0.2:80")
        for _ in range(2)
    ]
    exchanges += [finished(at_s=NOW_S - 25 * 3600) for _ in range(7)]
    segment_write(spool.path, exchanges)
    ship(spool, "n1")


def test_a_day_of_each_route(traffic, django_assert_num_queries):
    with django_assert_num_queries(2):
        days = last_day("route_id", [3, 4, 5], NOW)
    assert [(day.requests, day.server_errors, day.error_share) for day in days.values()] == [
        (110, 0, 0), (2, 2, 1), (0, 0, None),
    ]  # fmt: skip
    assert (days[3].hours[-1], days[3].hours[-6], sum(days[3].hours)) == (100, 10, 110)
    assert days[3].p95_ms == pytest.approx(94, rel=0.05)
    assert days[5].p95_ms is None


def test_a_day_of_an_upstream_is_all_its_routes(traffic):
    (day,) = last_day("upstream_id", [7], NOW).values()
    assert (day.requests, day.server_errors) == (112, 2)


def test_ranks(traffic, django_assert_num_queries):
    with django_assert_num_queries(2):
        assert ranked("route_id", "requests", NOW) == [3, 4]
        assert ranked("route_id", "errors", NOW) == [4]


def test_targets_of_an_upstream_from_its_latest_rows(traffic, django_assert_num_queries):
    with django_assert_num_queries(1):
        found = targets(7, [3, 4], NOW)
    assert {address: (usage.requests, usage.server_errors) for address, usage in found.items()} == {
        "127.0.0.1:9000": (100, 0),
        "10.0.0.2:80": (2, 2),
    }
    assert found["127.0.0.1:9000"].p95_ms == pytest.approx(94.5, rel=0.05)
    assert found["10.0.0.2:80"].last_at == NOW - timedelta(minutes=2)


def test_no_more_rows_are_read_than_said(traffic, monkeypatch):
    monkeypatch.setattr(breakdown, "TARGET_ROWS", 20)
    assert targets(7, [3, 4], NOW)["127.0.0.1:9000"].requests == 10


def test_an_upstream_no_route_leads_to_asks_nothing(committed, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert targets(7, [], NOW) == {}
