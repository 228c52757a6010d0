"""Shared statistics: the Wilson interval and the quantiles of logarithmic buckets."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman_servicekit.statistics import (
    CANARY_LATENCY_BUCKETS,
    PATH_LATENCY_BUCKETS,
    lower_limit_of_difference,
    one_sided_z,
    two_sided_z,
    wilson_interval,
)
from scipy import stats  # type: ignore[import-untyped]  # it ships no types


def test_z_is_the_normal_distributions() -> None:
    assert two_sided_z(0.95) == pytest.approx(1.959964, abs=1e-6)
    assert one_sided_z(0.95) == pytest.approx(1.644854, abs=1e-6)


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (3, 10), (10, 10), (95, 100), (1, 1)])
def test_the_wilson_interval_is_scipys(hits: int, count: int) -> None:
    expected = stats.binomtest(hits, count).proportion_ci(0.95, "wilson")
    assert wilson_interval(hits / count, count, two_sided_z(0.95)) == pytest.approx((expected.low, expected.high))


def test_the_limits_are_those_of_newcombes_tables() -> None:
    """Expected limits are from Newcombe: 15 of 148 (Statistics in Medicine 17, 857-872, table I), and 56 of 70 minus 48
    of 80 (873-890, table II)."""
    assert wilson_interval(15 / 148, 148, 1.96) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    lower, upper = wilson_interval(56 / 70, 70, 1.96)[0], wilson_interval(48 / 80, 80, 1.96)[1]
    assert lower_limit_of_difference(56 / 70, lower, 48 / 80, upper) == pytest.approx(0.0524, abs=5e-5)


def test_no_observations_give_the_whole_interval() -> None:
    assert wilson_interval(0.5, 0, 1.96) == (0.0, 1.0)


@given(st.lists(st.floats(0.001, 3600), min_size=1, max_size=50), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_a_quantile_is_within_the_stated_error_of_the_true_one(values: list[float], fraction: float) -> None:
    counts = Counter(map(PATH_LATENCY_BUCKETS.index, values))
    true = sorted(values)[max(1, math.ceil(fraction * len(values))) - 1]
    assert PATH_LATENCY_BUCKETS.quantile(counts, fraction) == pytest.approx(true, rel=0.0251)


@given(st.lists(st.floats(0.001, 3600), min_size=1, max_size=50), st.floats(0.01, 1.0))
def test_an_interpolated_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], fraction: float) -> None:
    buckets = CANARY_LATENCY_BUCKETS
    counts = Counter(map(buckets.index, values))
    true = buckets.index(sorted(values)[math.ceil(fraction * len(values) - 1e-9) - 1])
    found = buckets.interpolated_quantile(counts, fraction)
    assert 0.001 * 2 ** ((true - 1) / 4) * 0.999 <= found <= 0.001 * 2 ** (true / 4) * 1.001


def test_an_empty_sketch_has_quantile_zero() -> None:
    assert PATH_LATENCY_BUCKETS.quantile({}, 0.5) == 0
    assert CANARY_LATENCY_BUCKETS.interpolated_quantile({}, 0.5) == 0


def test_values_outside_the_range_are_counted_at_its_borders() -> None:
    assert PATH_LATENCY_BUCKETS.index(0.0) == PATH_LATENCY_BUCKETS.index(0.001) == 0
    assert PATH_LATENCY_BUCKETS.index(1e9) == PATH_LATENCY_BUCKETS.index(3600.0) == 302


def test_a_value_on_a_border_belongs_to_the_bucket_below_it() -> None:
    assert [CANARY_LATENCY_BUCKETS.index(ms / 1000) for ms in (0, 1, 1.01, 2, 2.01, 4, 1024)] == [0, 0, 1, 4, 5, 8, 40]
