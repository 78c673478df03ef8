"""LogHistogram: bins off the bits, exact merging, quantiles and masses against numpy."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from propscope.records.histogram import BIN_COUNT, NAN, NEGINF, POSINF, ZERO, LogHistogram, bin_codes

LARGEST = float(np.finfo(np.float32).max)
SMALLEST_NORMAL = float(np.finfo(np.float32).smallest_normal)
SMALLEST_SUBNORMAL = float(np.finfo(np.float32).smallest_subnormal)
FLOATS = st.floats(width=32)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
MANY = st.lists(FLOATS, max_size=60)


def of(values):
    return LogHistogram.of(np.array(values, dtype=np.float32))


@given(MANY, MANY, MANY)
@settings(max_examples=100, deadline=None)
def test_merging_is_an_algebra(a, b, c):
    empty = LogHistogram.empty()
    assert of(a) + empty == of(a) == empty + of(a)
    assert (of(a) + of(b)) + of(c) == of(a) + (of(b) + of(c)) == of(a + b + c)
    assert of(a) + of(b) == of(b) + of(a)
    assert (of(a) + of(b)).total == len(a) + len(b)


@given(MANY)
@settings(max_examples=60, deadline=None)
def test_dense_counts_and_back(values):
    histogram = of(values)
    dense = histogram.dense()
    assert dense.shape == (BIN_COUNT,)
    assert LogHistogram.from_dense(dense) == histogram
    assert np.array_equal(histogram.bins, np.unique(bin_codes(np.array(values, np.float32))))
    assert (histogram.counts > 0).all()
    assert (histogram.bins.dtype, histogram.counts.dtype) == (np.uint16, np.int64)


@given(st.lists(FINITE, min_size=1, max_size=60))
@settings(max_examples=100, deadline=None)
def test_every_value_lies_in_its_bin(values):
    for value in np.array(values, np.float32).tolist():
        bin_of = LogHistogram.of([value])
        low, high = float(bin_of.lower[0]), float(bin_of.upper[0])
        if value == 0:
            assert (low, high) == (0, 0)
        elif value > 0:
            assert low <= value < high
        else:
            assert low < value <= high
        if abs(value) >= SMALLEST_NORMAL:
            assert high - low <= abs(value) / 8


def test_bins_tile_the_numbers():
    positive = LogHistogram(np.arange(1, POSINF, dtype=np.uint16), np.ones(POSINF - 1, np.int64))
    assert positive.lower[0] == 0
    assert np.array_equal(positive.upper[:-1], positive.lower[1:])
    assert positive.upper[-1] == 2.0**128
    negative = LogHistogram((positive.bins + 2048).astype(np.uint16), positive.counts)
    assert np.array_equal(negative.lower, -positive.upper)
    assert np.array_equal(negative.upper, -positive.lower)


def codes(values, dtype=np.float32):
    return bin_codes(np.array(values, dtype)).tolist()


def test_zeros_of_either_sign_share_a_bin():
    assert codes([0.0, -0.0]) == [ZERO, ZERO]


def test_subnormals_are_not_zeros():
    tiny = [1e-45, SMALLEST_SUBNORMAL, 1e-40, SMALLEST_NORMAL]
    assert ZERO not in codes(tiny + [-value for value in tiny])
    histogram = of([1e-45, -1e-45, 0.0])
    assert histogram.bins.tolist() == [ZERO, 1, 2049]
    assert (histogram.lower[1], histogram.upper[2]) == (0.0, 0.0)
    assert histogram.upper[1] == 2 * 2.0**-129
    assert histogram.zero_count == 1


def test_nan_of_any_payload_has_one_bin():
    payloads = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32)
    assert bin_codes(payloads.view(np.float32)).tolist() == [NAN] * 6
    double = np.array([0x7FF0000000000001, 0xFFF8000000000000, 0x7FFFFFFFFFFFFFFF], np.uint64).view(np.float64)
    assert bin_codes(double).tolist() == [NAN] * 3


def test_infinities_have_bins_of_their_own():
    assert codes([math.inf, -math.inf]) == [POSINF, NEGINF]
    histogram = of([math.inf, math.inf, -math.inf, math.nan, 2.0])
    assert (histogram.posinf_count, histogram.neginf_count, histogram.nan_count, histogram.total) == (2, 1, 1, 5)
    assert histogram.finite == of([2.0])
    assert histogram.lower.tolist()[1] == math.inf
    assert np.isnan(histogram.lower[histogram.bins == NAN]).all()
    assert np.isnan(histogram.centers[histogram.bins == NAN]).all()


def test_float64_beyond_float32_is_finite_still():
    assert codes([1e300, 4e38, LARGEST], np.float64) == [POSINF - 1] * 3
    assert codes([-1e300, -LARGEST], np.float64) == [NEGINF - 1] * 2
    assert codes([math.inf, -math.inf, math.nan], np.float64) == [POSINF, NEGINF, NAN]
    # Rounded to float32, a double below its smallest subnormal is a zero.
    assert codes([1e-300], np.float64) == [ZERO]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.bool_])
def test_any_real_dtype_and_shape(dtype):
    array = np.array([[0, 1], [1, 1]], dtype)
    assert bin_codes(array).shape == (2, 2)
    assert LogHistogram.of(array) == of([0, 1, 1, 1])


def test_the_callers_array_is_not_changed():
    array = np.array([1e300, np.nan, 1.0])
    LogHistogram.of(array)
    assert array[0] == 1e300


def test_half_precision_values_keep_their_bin():
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    with np.errstate(invalid="ignore"):
        widened = halves.astype(np.float32)
    assert np.array_equal(bin_codes(halves), bin_codes(widened))


@given(st.lists(FINITE, min_size=1, max_size=80), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_a_quantile_is_within_a_bin_of_numpys(values, q):
    exact = np.quantile(np.array(values, np.float32).astype(np.float64), q, method="inverted_cdf")
    found = of(values).quantile(q)
    bin_of = LogHistogram.of([np.float32(exact)])
    low, high = float(bin_of.lower[0]), float(bin_of.upper[0])
    neighbours = np.sort(np.array(values, np.float64))
    # At a step of the distribution function the next value is as good: rounding decides.
    near = neighbours[np.searchsorted(neighbours, exact, side="right") :][:1]
    allowed = [(low, high)] + [(float(h.lower[0]), float(h.upper[0])) for h in (of([value]) for value in near)]
    assert any(a <= found <= b for a, b in allowed)


def test_quantiles_of_a_sample():
    sample = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    histogram = LogHistogram.of(sample)
    for q in (0.01, 0.1, 0.4, 0.6, 0.9, 0.99):
        exact = np.quantile(sample, q)
        assert histogram.quantile(q) == pytest.approx(exact, rel=0.02)
    assert histogram.quantile(0) <= sample.min()
    assert histogram.quantile(1) >= sample.max()


def test_quantiles_leave_nan_out_and_infinities_in():
    assert of([math.nan] * 5 + [2.0]).quantile(0.5) == of([2.0]).quantile(0.5)
    assert 2.0 <= of([2.0]).quantile(0.5) < 2.25
    wide = of([-math.inf, 1.0, math.inf])
    assert (wide.quantile(0), wide.quantile(1)) == (-math.inf, math.inf)
    assert 1.0 <= wide.quantile(0.5) < 1.125
    assert math.isnan(of([math.nan]).quantile(0.5))
    assert math.isnan(LogHistogram.empty().quantile(0.5))
    assert of([0.0, -0.0]).quantile(0.5) == 0.0


@given(
    st.lists(st.floats(-100, 100, width=32), max_size=80),
    st.lists(st.floats(-120, 120), min_size=2, max_size=6, unique=True),
)
@settings(max_examples=100, deadline=None)
def test_mass_between_edges_is_numpys_but_for_the_bins_that_an_edge_cuts(values, edges):
    edges = np.unique(edges)
    histogram = of(values)
    found = histogram.mass(edges)
    exact, _ = np.histogram(np.array(values, np.float64), edges)

    def cut(edge):
        inside = (histogram.lower < edge) & (edge < histogram.upper)
        # A value on an edge belongs to the bin that starts there; for negative bins that is the upper end.
        touched = (histogram.lower == edge) | (histogram.upper == edge)
        return int(histogram.counts[inside | touched].sum())

    for number, (below, above) in enumerate(pairwise(edges)):
        assert abs(found[number] - exact[number]) <= cut(below) + cut(above) + 1e-9
    assert (found >= -1e-12).all()


def test_mass_is_conserved_and_proportional():
    sample = np.random.default_rng(1).standard_normal(5000).astype(np.float32)
    histogram = LogHistogram.of(sample)
    assert histogram.mass(np.linspace(-10, 10, 37)).sum() == pytest.approx(5000)
    # 1 to 1.125 is one bin: a cut in its middle halves it.
    assert of([1.0, 1.1]).mass([1.0, 1.0625, 1.125]).tolist() == [1.0, 1.0]
    assert of([-1.0, -1.1]).mass([-1.125, -1.0625, -1.0]).tolist() == [1.0, 1.0]


def test_zeros_fall_where_zero_is():
    zeros = of([0.0, -0.0, 5.0])
    assert zeros.mass([-1.0, 0.0, 1.0]).tolist() == [0.0, 2.0]
    assert zeros.mass([-1.0, 1.0]).tolist() == [2.0]
    assert zeros.mass([-1.0, 0.0]).tolist() == [2.0]
    assert zeros.mass([0.5, 4.0]).tolist() == [0.0]
    assert of([math.nan, math.inf, -math.inf]).mass([-1.0, 1.0]).tolist() == [0.0]
    assert LogHistogram.empty().mass([-1.0, 0.0, 1.0]).tolist() == [0.0, 0.0]


@given(MANY.filter(bool), st.floats(0, 1e30), st.floats(0, 1e30))
@settings(max_examples=100, deadline=None)
def test_share_of_a_range_of_magnitudes(values, a, b):
    low, high = min(a, b), max(a, b)
    histogram = of(values)
    magnitudes = np.abs(np.array(values, np.float64))
    exact = ((magnitudes >= low) & (magnitudes < high)).sum()

    def cut(edge):
        near = np.minimum(abs(histogram.lower), abs(histogram.upper))
        far = np.maximum(abs(histogram.lower), abs(histogram.upper))
        return int(histogram.counts[(near <= edge) & (edge <= far)].sum())

    assert abs(histogram.share(low, high) * histogram.total - exact) <= cut(low) + cut(high) + 1e-6


def test_share_counts_everything_below():
    histogram = of([0.0, 1.0, -1.0, 1e-20, math.nan, math.inf, -math.inf, 4.0])
    assert histogram.share(0, 2) == pytest.approx(4 / 8)
    assert histogram.share(0, 1e-10) == pytest.approx(2 / 8)
    assert histogram.share(3, 5) == pytest.approx(1 / 8)
    assert math.isnan(LogHistogram.empty().share(0, 1))


def test_equality_and_repr():
    assert of([1.0]) != of([1.0, 1.0])
    assert of([1.0]) != "something else"
    assert repr(of([1.0, 1.0, 3.0])) == "LogHistogram(3 values in 2 bins)"
    with pytest.raises(TypeError, match="unhashable"):
        hash(of([1.0]))
