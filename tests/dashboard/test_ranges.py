from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.fold import DAY_S, HOUR_S, MINUTE_S
from dashboard.ranges import ceil, cover, floor, step_for

moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))


@given(moments, moments, st.sampled_from([MINUTE_S, HOUR_S]))
def test_pieces_follow_one_another_and_cover_the_range(one, other, finest_s):
    start, end = sorted((one, other))
    pieces = cover(start, end, finest_s)
    first, last = floor(start, finest_s), ceil(end, finest_s)
    assert [piece.first for piece in pieces] + [last] == [first] + [piece.end for piece in pieces]
    assert len(pieces) <= 5
    for piece in pieces:
        assert floor(piece.first, piece.grain_s) == piece.first < piece.end == floor(piece.end, piece.grain_s)
        assert piece.grain_s >= finest_s


def test_a_day_that_ends_now_is_mostly_hours():
    pieces = cover(datetime(2026, 11, 21, 11, 27, tzinfo=UTC), datetime(2026, 11, 22, 11, 27, tzinfo=UTC))
    assert [(piece.grain_s, (piece.end - piece.first).total_seconds() / piece.grain_s) for piece in pieces] == [
        (MINUTE_S, 33),
        (HOUR_S, 23),
        (MINUTE_S, 27),
    ]


def test_whole_days_are_read_as_days():
    (piece,) = cover(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 22, tzinfo=UTC))
    assert piece.grain_s == DAY_S


@pytest.mark.parametrize(
    ("hours", "step_s"),
    [(0.5, 60), (1, 60), (6, 300), (24, 900), (72, 3600), (24 * 30, 6 * 3600 * 4), (24 * 365, 604_800)],
)
def test_steps_are_round(hours, step_s):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert step_for(start, start + timedelta(hours=hours)) == step_s
