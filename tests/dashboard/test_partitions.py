from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from django.db import connection

from dashboard.fold import ALL
from dashboard.models import UsageSegment, UsageTraffic
from dashboard.partitions import claims_prune, partition_days, partitions_keep, rollups_prune
from dashboard.shipping import ship
from tests.dashboard.segments import segment_write, stored_ids
from tests.proxy.exchanges import finished, ids

pytestmark = pytest.mark.usefixtures("committed")

TODAY = date(2031, 5, 10)
NOON_S = datetime(2031, 5, 10, 12, tzinfo=UTC).timestamp()
DAY_S = 86_400


def partition_of(request_id: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text FROM usage_row WHERE request_id = %s", [request_id])
        return cursor.fetchone()[0]


def test_today_and_three_days_ahead_have_a_partition():
    for _ in range(2):  # again changes nothing
        partitions_keep(TODAY, retention_days=30)
        assert partition_days() == {TODAY + timedelta(days=ahead) for ahead in range(4)}


def test_rows_go_to_the_partition_of_their_day(spool):
    partitions_keep(TODAY, retention_days=30)
    today, other = finished(at_s=NOON_S), finished(at_s=NOON_S - 5 * DAY_S)
    segment_write(spool.path, [today, other])
    ship(spool, "n1")
    assert partition_of(today.id) == "usage_row_20310510"
    assert partition_of(other.id) == "usage_row_default"


def test_rows_that_came_before_their_partition_move_into_it(spool):
    exchanges = [finished(at_s=NOON_S), finished(at_s=NOON_S + DAY_S), finished(at_s=NOON_S + 9 * DAY_S)]
    segment_write(spool.path, exchanges)
    ship(spool, "n1")
    partitions_keep(TODAY, retention_days=30)
    assert [partition_of(exchange.id) for exchange in exchanges] == [
        "usage_row_20310510",
        "usage_row_20310511",
        "usage_row_default",
    ]


def test_days_before_the_retention_are_dropped(spool):
    for ago in (40, 31, 30, 0):
        partitions_keep(TODAY - timedelta(days=ago), retention_days=3650)
    old, stray, kept = (finished(at_s=NOON_S - ago * DAY_S) for ago in (31, 60, 30))
    segment_write(spool.path, [old, stray, kept])
    ship(spool, "n1")
    partitions_keep(TODAY, retention_days=30)
    assert min(partition_days()) == TODAY - timedelta(days=30)
    assert set(stored_ids()) == ids([kept])


def test_minutes_go_with_the_rows_hours_after_a_year_days_never(spool):
    now = datetime(2031, 5, 10, 12, tzinfo=UTC)
    segment_write(spool.path, [finished(at_s=NOON_S - ago * DAY_S) for ago in (0, 29, 31, 365, 367, 4000)])
    ship(spool, "n1")
    rollups_prune(now, retention_days=30)
    grains = [traffic.grain_s for traffic in UsageTraffic.objects.filter(route_id=ALL)]
    assert {grain_s: grains.count(grain_s) for grain_s in set(grains)} == {60: 2, 3600: 4, 86_400: 6}


def test_a_claim_is_kept_while_its_file_may_be_there():
    now = datetime.now(UTC)

    def claim(node: str, age: timedelta) -> UUID:
        return UsageSegment.objects.create(id=uuid4(), node=node, rows=1, shipped_at=now - age).id

    fresh, waiting = claim("n1", timedelta(minutes=1)), claim("n1", timedelta(hours=2))
    claim("n1", timedelta(hours=2))
    others = claim("n2", timedelta(days=2))
    claim("n2", timedelta(days=31))
    claims_prune(now, "n1", [waiting], retention_days=30)
    assert set(UsageSegment.objects.values_list("id", flat=True)) == {fresh, waiting, others}
