from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from propscope.plots.histogram_cells import Axis, cell_of
from propscope.records import TensorSummary

LINEAR = Axis("linear", np.linspace(-4, 4, 41), (-2.0, 0.0, 2.0))
LOG = Axis("log", 10.0 ** np.linspace(-6, 2, 33), (1e-4, 1.0))
RNG = np.random.default_rng(0)


def test_a_linear_shape_is_the_histogram_scaled_to_its_peak() -> None:
    values = RNG.normal(size=200_000)
    cell = cell_of(TensorSummary.of(values), LINEAR)
    counts, _ = np.histogram(values, LINEAR.edges)
    # The log bins are as wide as the linear ones beyond 1.6: the shape is exact to that resolution.
    assert cell.up == pytest.approx(counts / counts.max(), abs=0.06)
    assert cell.up.max() == pytest.approx(1.0, abs=1e-3)
    assert not cell.down.any()
    assert (cell.zero, cell.nan, cell.inf) == (0, 0, 0)


def test_zeros_stand_apart_and_do_not_squash_the_rest() -> None:
    values = RNG.normal(size=10_000)
    without = cell_of(TensorSummary.of(values[values > 0]), LINEAR)
    cell = cell_of(TensorSummary.of(np.maximum(values, 0)), LINEAR)
    assert cell.zero == pytest.approx((values <= 0).mean())
    assert cell.up == pytest.approx(without.up)
    assert cell.rows[-1] == f"{100 * cell.zero:.0f}% zero"


def test_what_lies_beyond_the_axis_is_told_and_lowers_the_shape() -> None:
    cell = cell_of(TensorSummary.of(np.array([-9.0] * 10 + [1.5] * 60 + [9.0] * 30)), LINEAR)
    assert (cell.below, cell.above) == pytest.approx((0.1, 0.3))
    assert cell.up.max() == pytest.approx(0.6)
    assert cell.rows[-1] == "40% out"
    few = cell_of(TensorSummary.of(np.array([0.0] * 999 + [9.0])), LINEAR)
    assert few.rows[-1] == ">99% zero, <1% out"
    tail = cell_of(TensorSummary.of(np.array([1.0] * 999 + [9.0])), LINEAR)
    assert len(tail.rows) == 2
    everything = cell_of(TensorSummary.of(np.full(10, 9.0)), LINEAR)
    assert (everything.above, everything.up.max()) == (1.0, 0.0)


def test_a_saturated_tanh_does_not_pass_one() -> None:
    axis = Axis("linear", np.linspace(-1.1, 1.1, 45), ())
    cell = cell_of(TensorSummary.of(np.tanh(RNG.normal(0, 30, 5000)).astype(np.float32)), axis)
    beyond = axis.edges[:-1] > 1
    assert beyond.any()
    assert not cell.up[beyond].any()
    assert (cell.below, cell.above) == (0, 0)


def test_a_logarithmic_shape_has_the_signs_above_and_below() -> None:
    values = np.concatenate([np.full(30, 0.02), np.full(10, -5.0)])
    cell = cell_of(TensorSummary.of(values), LOG)
    up, down = np.flatnonzero(cell.up), np.flatnonzero(cell.down)
    assert LOG.edges[up[0]] <= 0.02 <= LOG.edges[up[-1] + 1]
    assert LOG.edges[down[0]] <= 5.0 <= LOG.edges[down[-1] + 1]
    assert cell.up.sum() == pytest.approx(3 * cell.down.sum())
    assert max(cell.up.max(), cell.down.max()) == pytest.approx(1.0)


def test_small_and_large_magnitudes_of_both_signs_are_beyond_a_logarithmic_axis() -> None:
    values = np.array([1e-9, -1e-9, -1e-9, 1e5, -1e5, 1.0, 1.0, 1.0, 1.0, 1.0])
    cell = cell_of(TensorSummary.of(values), LOG)
    assert (cell.below, cell.above) == pytest.approx((0.3, 0.2))


@pytest.mark.parametrize("axis", [LINEAR, LOG], ids=["linear", "log"])
def test_nothing_is_lost(axis: Axis) -> None:
    values = np.concatenate([RNG.normal(0, scale, 500) for scale in (1e-8, 0.1, 1, 300)] + [np.zeros(77)])
    summary = TensorSummary.of(values)
    cell = cell_of(summary, axis)
    inside = 1 - cell.zero - cell.below - cell.above
    magnitudes = values if axis.kind == "linear" else np.abs(values)
    counted = ((magnitudes >= axis.edges[0]) & (magnitudes < axis.edges[-1]) & (values != 0)).mean()
    assert inside == pytest.approx(counted, abs=0.02)


def test_values_that_are_not_finite_are_told_first() -> None:
    values = np.array([np.nan] * 10 + [np.inf] * 5 + [-np.inf] * 5 + [0.0] * 40 + [1.0] * 40)
    cell = cell_of(TensorSummary.of(values), LINEAR)
    assert (cell.nan, cell.inf) == (0.1, 0.1)
    assert cell.rows == ("0.5 ± 0.5", "[0, 1]", "20% NaN and Inf, 40% zero")
    assert cell_of(TensorSummary.of(np.full(4, np.nan)), LOG).rows == ("100% NaN",)
    assert cell_of(TensorSummary.of(np.full(4, -np.inf)), LOG).rows == ("100% Inf",)


def test_a_dead_tensor_is_all_bar() -> None:
    for axis in (LINEAR, LOG):
        cell = cell_of(TensorSummary.of(np.zeros(9)), axis)
        assert (cell.zero, cell.up.max(), cell.down.max()) == (1.0, 0.0, 0.0)
        assert cell.rows == ("0 ± 0", "[0, 0]", "100% zero")


def test_what_is_missing_is_said() -> None:
    for summary in (None, TensorSummary.empty()):
        cell = cell_of(summary, LINEAR)
        assert (cell.seen, cell.rows) == (False, ("not seen",))
    moments = replace(TensorSummary.of(np.array([1.0, 3.0])), histogram=None)
    assert cell_of(moments, LINEAR).rows == ("2 ± 1", "[1, 3]", "no histogram")
    assert not cell_of(moments, LINEAR).up.any()


def test_an_axis_places_values() -> None:
    assert LINEAR.fraction(np.array([-4, 0, 4])) == pytest.approx([0, 0.5, 1])
    assert LOG.fraction(np.array([1e-6, 1e-2, 1e2])) == pytest.approx([0, 0.5, 1])
    assert LINEAR.labels == ("−2", "0", "2")
    assert LOG.labels == ("10⁻⁴", "1")
    assert math.isclose(float(LOG.fraction(1e-4)), 0.25)
