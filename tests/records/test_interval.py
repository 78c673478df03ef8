"""Geometric means over seeds and their intervals, against hand-computed Student intervals on logarithms."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import stdtrit

from propscope.records.interval import Interval, arithmetic_interval, geometric_interval, student

INF, NAN = math.inf, math.nan


def close(interval, center, low, high, count):
    assert interval.count == count
    assert interval.center == pytest.approx(center, rel=1e-9, nan_ok=True)
    assert interval.low == pytest.approx(low, rel=1e-9, nan_ok=True)
    assert interval.high == pytest.approx(high, rel=1e-9, nan_ok=True)


def test_three_values_by_hand():
    # ln: 0, ln 10, 2 ln 10. Mean ln 10, standard deviation ln 10, t(2, 0.975) = 4.30265272991.
    half = 4.302652729911275 * math.log(10) / math.sqrt(3)
    close(geometric_interval([1.0, 10.0, 100.0]), 10.0, 10 * math.exp(-half), 10 * math.exp(half), 3)


def test_two_values_by_hand():
    # ln: 0, ln 4. Mean ln 2, standard deviation ln 4 / sqrt 2, t(1, 0.975) = 12.7062047362.
    half = 12.706204736174694 * math.log(4) / 2
    close(geometric_interval([1.0, 4.0]), 2.0, 2 * math.exp(-half), 2 * math.exp(half), 2)


@pytest.mark.parametrize(
    ("values", "center", "low", "high", "count"),
    [
        ([], NAN, NAN, NAN, 0),
        ([NAN, NAN], NAN, NAN, NAN, 0),
        ([3.0], 3.0, NAN, NAN, 1),
        ([NAN, 3.0], 3.0, NAN, NAN, 1),
        ([0.0], 0.0, NAN, NAN, 1),
        ([INF], INF, NAN, NAN, 1),
        ([0.0, 0.0], 0.0, 0.0, 0.0, 2),
        ([INF, INF], INF, INF, INF, 2),
        ([0.0, INF], NAN, 0.0, INF, 2),
        ([0.0, 5.0], 0.0, 0.0, 5.0, 2),
        ([5.0, INF], INF, 5.0, INF, 2),
        ([0.0, 5.0, INF], NAN, 0.0, INF, 3),
        ([2.0, 2.0, 2.0], 2.0, 2.0, 2.0, 3),
    ],
    ids=str,
)
def test_vanished_overflowed_missing(values, center, low, high, count):
    close(geometric_interval(values), center, low, high, count)


def test_a_vanished_seed_pulls_the_mean_down_and_leaves_the_upper_limit():
    alone = geometric_interval([1.0, 4.0])
    close(geometric_interval([1.0, 4.0, 0.0]), 0.0, 0.0, alone.high, 3)
    close(geometric_interval([1.0, 4.0, INF]), INF, alone.low, INF, 3)
    close(geometric_interval([1.0, 4.0, INF, 0.0]), NAN, 0.0, INF, 4)
    close(geometric_interval([1.0, 4.0, NAN]), 2.0, alone.low, alone.high, 2)


def test_limits_beyond_float64_are_zero_and_infinite():
    found = geometric_interval([1e-200, 1e200])
    close(found, 1.0, 0.0, INF, 2)


def test_roots_are_taken_of_every_limit():
    close(geometric_interval([1.0, 10.0, 100.0]) ** 0.5, math.sqrt(10), *_roots([1.0, 10.0, 100.0]), 3)
    close(Interval(4.0, NAN, NAN, 1) ** 0.5, 2.0, NAN, NAN, 1)
    close(Interval(0.0, 0.0, 4.0, 2) ** 0.5, 0.0, 0.0, 2.0, 2)
    close(Interval(4.0, 1.0, 16.0, 2) ** -0.5, 0.5, 0.25, 1.0, 2)


def _roots(values):
    whole = geometric_interval(values)
    return math.sqrt(whole.low), math.sqrt(whole.high)


@given(st.lists(st.floats(1e-30, 1e30), min_size=2, max_size=12), st.floats(1e-5, 1e5))
@settings(max_examples=80, deadline=None)
def test_the_interval_scales_with_its_values_and_holds_the_mean(values, factor):
    found, scaled = geometric_interval(values), geometric_interval([value * factor for value in values])
    assert found.low <= found.center * (1 + 1e-9)
    assert found.center <= found.high * (1 + 1e-9)
    assert scaled.center == pytest.approx(found.center * factor, rel=1e-9)
    inverse = geometric_interval([1 / value for value in values])
    assert inverse.center == pytest.approx(1 / found.center, rel=1e-9)


def test_an_arithmetic_interval_needs_two_finite_values():
    assert math.isnan(arithmetic_interval([2.0]).low)
    assert arithmetic_interval([2.0, math.nan]).center == 2.0
    assert arithmetic_interval([2.0, math.inf]).center == math.inf
    assert math.isnan(arithmetic_interval([]).center)
    huge = arithmetic_interval([1e300, -1e300, 1.7e308])
    assert math.isfinite(huge.center)


@pytest.mark.parametrize("freedom", [*range(1, 40), 99, 100, 1000])
def test_the_quantile_is_that_of_scipy(freedom):
    assert student(freedom) == pytest.approx(stdtrit(freedom, 0.975), rel=1e-11)
