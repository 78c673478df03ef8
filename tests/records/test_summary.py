"""TensorSummary: what is kept of a tensor, and that merging loses nothing."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from propscope.records import LogHistogram, TensorSummary
from propscope.records.summary import merge_moments

WIDE = st.floats(-1e150, 1e150)
SPECIAL = st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 1e-300, 1e-45, 1e150, -1e150, 1e4 + 1, 1e4 - 1])
MANY = st.lists(st.one_of(WIDE, SPECIAL), max_size=40)


def assert_same(found, expected):
    assert found.count == expected.count
    assert found.nonfinite_count == expected.nonfinite_count
    for name in ("nan_count", "posinf_count", "neginf_count"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.histogram == expected.histogram
    if expected.count:
        assert found.zero_fraction == pytest.approx(expected.zero_fraction, abs=1e-12)
    if expected.finite_count == 0:
        assert all(math.isnan(value) for value in (found.mean, found.std, found.min, found.max, found.rms))
        return
    assert (found.min, found.max) == (expected.min, expected.max)
    size = expected.rms
    # The smallest subnormals cannot be halved.
    least = 5e-324 * expected.count
    assert found.mean == pytest.approx(expected.mean, rel=1e-6, abs=1e-12 * size + least)
    assert found.std == pytest.approx(expected.std, rel=1e-6, abs=1e-12 * size + least)
    assert found.rms == pytest.approx(size, rel=1e-6, abs=least)


@given(MANY, MANY, MANY)
@settings(max_examples=100, deadline=None)
def test_merging_is_an_algebra(a, b, c):
    empty = TensorSummary.empty()
    x, y, z = map(TensorSummary.of, (a, b, c))
    assert_same(x + empty, x)
    assert_same(empty + x, x)
    assert_same((x + y) + z, x + (y + z))
    assert_same(x + y, y + x)


@given(MANY, st.lists(st.integers(0, 40), max_size=4))
@settings(max_examples=100, deadline=None)
def test_splitting_and_merging_gives_the_whole(values, cuts):
    edges = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    merged = TensorSummary.empty()
    for start, stop in pairwise(edges):
        merged = merged + TensorSummary.of(values[start:stop])
    assert_same(merged, TensorSummary.of(values))


def test_a_large_mean_does_not_drown_the_deviation():
    sample = 1e4 + np.random.default_rng(0).standard_normal(10_000)
    merged = TensorSummary.empty()
    for part in np.array_split(sample, 97):
        merged = merged + TensorSummary.of(part)
    assert merged.std == pytest.approx(sample.std(), rel=1e-9)
    assert merged.mean == pytest.approx(sample.mean(), rel=1e-12)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
@settings(max_examples=60, deadline=None)
def test_moments_are_numpys(values):
    found = TensorSummary.of(values)
    array = np.array(values)
    assert found.mean == pytest.approx(array.mean(), rel=1e-9, abs=1e-9)
    assert found.std == pytest.approx(array.std(), rel=1e-9, abs=1e-9)
    assert found.rms == pytest.approx(np.sqrt(np.square(array).mean()), rel=1e-9, abs=1e-9)
    assert (found.min, found.max) == (array.min(), array.max())


def test_what_is_not_finite_is_counted_and_left_out():
    found = TensorSummary.of([[1.0, math.nan, 3.0], [math.inf, -math.inf, -math.inf]])
    assert (found.count, found.finite_count, found.nonfinite_count) == (6, 2, 4)
    assert (found.nan_count, found.posinf_count, found.neginf_count) == (1, 1, 2)
    assert (found.mean, found.std, found.min, found.max) == (2.0, 1.0, 1.0, 3.0)
    assert found.rms == pytest.approx(math.sqrt(5))


@pytest.mark.parametrize("values", [[], [math.nan] * 3, [math.inf, -math.inf]])
def test_nothing_finite_is_nan_not_zero(values):
    found = TensorSummary.of(values)
    assert all(math.isnan(value) for value in (found.mean, found.std, found.min, found.max, found.rms))
    assert found.count == len(values)
    assert found.histogram.total == len(values)


def test_nan_of_any_payload_is_counted():
    singles = np.array([0x7FC00000, 0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert TensorSummary.of(singles).nan_count == 3
    halves = np.array([0x7C01, 0xFE00], np.uint16).view(np.float16)
    assert TensorSummary.of(halves).nan_count == 2


def test_the_empty_element():
    empty = TensorSummary.empty()
    assert empty.count == empty.nonfinite_count == 0
    assert math.isnan(empty.zero_fraction)
    assert empty.histogram == LogHistogram.empty()
    assert (empty + empty).count == 0


def test_zeros_are_a_share_of_everything():
    found = TensorSummary.of([0.0, -0.0, 1.0, math.nan])
    assert found.zero_fraction == 0.5
    assert (found + TensorSummary.of([1.0] * 4)).zero_fraction == 0.25
    # Not a zero, though its histogram, which is of float32, has it as one.
    assert TensorSummary.of([1e-300]).zero_fraction == 0


@pytest.mark.parametrize("scale", [1e300, 1e-300, 1e-320])
def test_squares_neither_overflow_nor_vanish(scale):
    found = TensorSummary.of([scale, -scale]) + TensorSummary.of([3 * scale, -3 * scale])
    assert found.std == pytest.approx(math.sqrt(5) * scale, rel=1e-3)
    assert found.rms == pytest.approx(math.sqrt(5) * scale, rel=1e-3)
    assert found.histogram.nan_count == found.histogram.posinf_count == 0


def test_without_a_histogram():
    plain = TensorSummary(2, 1.0, 0.0, 1.0, 1.0, 0.0)
    assert (plain + TensorSummary.of([3.0, 3.0])).histogram is None
    assert (plain + plain).count == 4
    assert (plain + TensorSummary.empty()).histogram is None


def test_merging_moments_of_groups():
    assert merge_moments((0, math.nan, math.nan), (3, 1.0, 2.0)) == (1.0, 2.0)
    assert merge_moments((3, 1.0, 2.0), (0, math.nan, math.nan)) == (1.0, 2.0)
    mean, std = merge_moments((1, 0.0, 0.0), (3, 4.0, 0.0))
    assert (mean, std) == (3.0, pytest.approx(math.sqrt(3)))
