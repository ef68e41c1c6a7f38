from __future__ import annotations

import pytest

from dashboard.fold import ALL, DAY_S, HOUR_S, coarser, fold
from tests.dashboard.segments import lines_of
from tests.proxy.exchanges import finished, route

NOON_S = 1_795_348_800  # 2026-11-22 12:00:00 UTC


def of_routes(sums):
    return {key: value for key, value in sums.items() if key[1] != ALL}


def test_late_rows_go_to_the_minute_they_belong_to():
    folded = fold([lines_of([finished(at_s=NOON_S - 0.001), finished(at_s=NOON_S), finished(at_s=NOON_S - 86_400)])])
    assert sorted(start for start, route_id, *_ in folded.traffic if route_id == ALL) == [
        "2026-11-21 12:00:00+00",
        "2026-11-22 11:59:00+00",
        "2026-11-22 12:00:00+00",
    ]


def test_coarser_grains_add_up_and_leave_the_finer_alone():
    exchanges = [finished(at_s=NOON_S + 60 * minute, bytes_out=5) for minute in range(90)]
    folded = fold([lines_of(exchanges)])
    hours, days = coarser(of_routes(folded.traffic), HOUR_S), coarser(of_routes(folded.traffic), DAY_S)
    assert {key[0]: value.requests for key, value in hours.items()} == {
        "2026-11-22 12:00:00+00": 60,
        "2026-11-22 13:00:00+00": 30,
    }
    assert [(key[0], value.requests, value.bytes_out) for key, value in days.items()] == [
        ("2026-11-22 00:00:00+00", 90, 450)
    ]
    assert {value.requests for value in folded.traffic.values()} == {1}


def test_dimensions_and_sums():
    folded = fold([
        lines_of([
            finished(at_s=NOON_S, cache_status="hit", upstream_ms=None),
            finished(at_s=NOON_S, tries=2, bytes_in=7),
            finished(at_s=NOON_S, status=429, outcome="rate_limited", upstream_ms=None),
            finished(at_s=NOON_S, route=None, status=404, outcome="no_route", upstream_ms=None, key_id=None),
        ])
    ])  # fmt: skip
    found = {
        key[1:]: (sums.requests, sums.retried, sums.cache_hits, sums.bytes_in)
        for key, sums in of_routes(folded.traffic).items()
    }
    assert found == {
        (3, 0, 2, "ok"): (1, 0, 1, 0),
        (3, 7, 2, "ok"): (1, 1, 0, 7),
        (3, 0, 4, "rate_limited"): (1, 0, 0, 0),
        (0, 0, 4, "no_route"): (1, 0, 0, 0),
    }
    ((key, calls),) = folded.calls.items()
    assert key == ("2026-11-22 12:00:00+00", 5, 11)
    assert (calls.requests, calls.client_errors, calls.rate_limited) == (3, 1, 1)


def test_last_use_of_a_key_is_its_latest_row():
    folded = fold([lines_of([finished(at_s=NOON_S + 2), finished(at_s=NOON_S + 9), finished(at_s=NOON_S + 4)])])
    assert folded.last_used == {11: "2026-11-22 12:00:09.000000+00"}


def test_text_from_outside_cannot_shift_columns():
    folded = fold([lines_of([finished(raw_path=b"/a\tb\nc", host="x\ty", route=route(name="a\tb"))])])
    assert folded.rows == 1


@pytest.mark.parametrize("content", [b"short\n", b"\xff\xfe\n", b"a\t" * 23 + b"b\n"])
def test_other_bytes_are_refused(content):
    with pytest.raises(ValueError):
        fold([content])


def test_all_routes_together_are_summed_too():
    folded = fold([lines_of([finished(at_s=NOON_S, duration_ms=n + 1, route=route(n, f"r{n}")) for n in range(1, 9)])])
    (total,) = (latency for key, latency in folded.latency.items() if key[1:] == (ALL, ALL))
    assert (total.requests, total.duration_ms) == (8, 44)
    assert sum(total.duration_bins.values()) == 8
    assert len(folded.latency) == 9
