from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.histogram import FLOOR_MS, LAST, bin_of, merge, percentile

latencies = st.floats(min_value=FLOOR_MS, max_value=86_400_000)
shares = st.floats(min_value=0.01, max_value=1)


def histogram(values_ms: list[float]) -> dict[int, int]:
    return merge([(bin_of(value_ms), 1)] for value_ms in values_ms)


@given(st.lists(latencies, min_size=1, max_size=200), shares)
def test_percentiles_are_within_five_percent(values_ms, share):
    exact = sorted(values_ms)[max(1, ceil(share * len(values_ms))) - 1]
    assert percentile(histogram(values_ms), share) == pytest.approx(exact, rel=0.05)


@given(st.lists(latencies, max_size=100), st.lists(latencies, max_size=100))
def test_merging_equals_one_histogram_of_all(left, right):
    merged = merge([histogram(left).items(), histogram(right).items()])
    assert merged == histogram(left + right)


@given(latencies, latencies)
def test_bins_keep_the_order_of_values(left, right):
    assert (bin_of(left) <= bin_of(right)) == (left <= right) or bin_of(left) == bin_of(right)


def test_nothing_has_no_percentile():
    assert percentile({}, 0.5) is None


def test_extremes_stay_in_range():
    assert bin_of(0) == 0
    assert bin_of(-1) == 0
    assert bin_of(1e30) == LAST
