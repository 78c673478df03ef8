from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from building.records import INITIALIZERS, constant, grid, mlp, model, sixteen
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from propscope.plots.histogram_grid import (
    ACTIVATIONS,
    GRADIENTS,
    WEIGHT_GRADIENTS,
    WEIGHTS,
    Axis,
    HistogramGrid,
    Subject,
    cell_of,
    draw_histograms,
    on_scale,
    prepare_histograms,
)
from propscope.plots.style import styled
from propscope.records import NetworkProfile, ProfileSet, TensorSummary

SUBJECTS = (ACTIVATIONS, GRADIENTS, WEIGHTS, WEIGHT_GRADIENTS)


def prepared(profiles: ProfileSet, subject: Subject = ACTIVATIONS) -> HistogramGrid:
    found = prepare_histograms(profiles, subject=subject)
    assert found is not None
    return found


def drawn(profiles: ProfileSet, subject: Subject = ACTIVATIONS) -> Figure:
    with styled():
        figure = draw_histograms(prepared(profiles, subject))
        FigureCanvasAgg(figure).draw()
    return figure


def test_rows_are_initializers_and_columns_evenly_chosen_layers() -> None:
    found = prepared(sixteen())
    assert found.rows == tuple(INITIALIZERS)
    assert (found.columns, found.of, found.counts) == ((1, 3, 4, 6, 8, 10, 11, 13, 15, 17, 18, 20), 20, "layer")
    assert len(found.cells) == 16
    assert {len(row) for row in found.cells} == {12}


def test_each_cell_is_its_tensor_on_the_shared_axis() -> None:
    profile = mlp(depth=3)
    found = prepared(ProfileSet((profile,)), GRADIENTS)
    for cell, site in zip(found.cells[0], profile.with_role("pre-activation"), strict=True):
        expected = cell_of(site.backward, found.axis)
        np.testing.assert_array_equal(cell.up, expected.up)
        assert cell.rows == expected.rows


def test_seeds_are_merged_and_the_header_says_so() -> None:
    profiles = grid(("he_normal",), seeds=3, depths=(2,))
    found = prepared(profiles)
    seeds = [profile.with_role("activation")[0].forward for profile in profiles]
    together = cell_of(seeds[0] + seeds[1] + seeds[2], found.axis)
    np.testing.assert_array_equal(found.cells[0][0].up, together.up)
    assert "3 seeds merged" in found.header.facts
    assert "linear axis from 0 to" in found.header.facts
    assert "merged" not in prepared(profiles[:1]).header.facts


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_the_axis_of_a_bounded_activation_holds_its_bounds(activation: str) -> None:
    axis = prepared(grid(("xavier_normal", "normal:std=1", "normal:std=0.01"), (activation,), seeds=1)).axis
    low = -1 if activation == "tanh" else 0
    assert low - 0.15 <= axis.edges[0] <= low
    assert 1 <= axis.edges[-1] <= 1.15
    assert {float(low), 1.0} <= set(axis.ticks)


def test_the_axis_follows_the_typical_row_and_tells_what_is_out() -> None:
    found = prepared(grid(("he_normal", "xavier_normal", "normal:std=1"), seeds=1))
    assert 2 < found.axis.edges[-1] < 12
    assert found.axis.edges[0] == 0
    assert found.cells[2][-1].above > 0.3
    assert found.cells[0][-1].above < 0.01


def test_a_collapsed_signal_is_one_bar_at_zero() -> None:
    found = prepared(grid(("xavier_normal", "normal:std=0.01"), ("tanh",), seeds=1))
    last = found.cells[1][-1].up
    at = int(np.argmax(last))
    assert last[at] == pytest.approx(1.0)
    assert np.count_nonzero(last) == 1
    assert found.axis.edges[at] == pytest.approx(-found.axis.edges[at + 1])


def test_gradients_stand_on_a_logarithmic_axis_that_shows_where_they_start() -> None:
    found = prepared(sixteen(), GRADIENTS)
    assert found.axis.kind == "log"
    assert np.ptp(np.log10(found.axis.edges[[0, -1]])) < 18
    for row, name in zip(found.cells, found.rows, strict=True):
        if name != "zeros":
            assert row[-1].below + row[-1].above < 0.01, name


def test_what_was_not_recorded_has_no_picture() -> None:
    forward = grid(backward=False, depths=(2,))
    assert prepare_histograms(forward, subject=GRADIENTS) is None
    assert prepare_histograms(forward, subject=WEIGHT_GRADIENTS) is None
    assert prepare_histograms(ProfileSet((model(),)), subject=WEIGHTS) is None
    assert prepare_histograms(ProfileSet((NetworkProfile(()),)), subject=ACTIVATIONS) is None
    assert prepare_histograms(ProfileSet(()), subject=ACTIVATIONS) is None


def test_a_shallower_row_says_that_the_rest_was_not_seen() -> None:
    found = prepared(grid(("he_normal",), seeds=1, depths=(2, 4)))
    assert found.rows == ("he_normal, depth 2", "he_normal, depth 4")
    assert [cell.seen for cell in found.cells[0]] == [True, True, False, False]


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
@pytest.mark.parametrize(
    "profiles_of",
    [
        sixteen,
        lambda: grid(depths=(1,), seeds=2),
        lambda: grid(("he_normal", "default"), depths=(2, 3), seeds=1),
        lambda: ProfileSet((constant(0.0),)),
        lambda: ProfileSet((constant(math.nan, seed=0), constant(math.inf, seed=1))),
        lambda: ProfileSet((constant(1e30), mlp(depth=2))),
    ],
    ids=["sixteen", "depth 1", "two depths", "all zero", "not finite", "huge"],
)
def test_every_case_is_drawn_in_one_axes_of_few_artists(
    subject: Subject, profiles_of: Callable[[], ProfileSet]
) -> None:
    figure = drawn(profiles_of(), subject)
    assert len(figure.axes) == 1
    axes = figure.axes[0]
    assert len(axes.get_children()) < 100
    width, height = figure.get_size_inches() * figure.dpi
    for text in (*axes.texts, *figure.texts):
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= width
        assert box.y0 >= 0
        assert box.y1 <= height


def test_row_names_and_columns_are_written() -> None:
    written = [text.get_text().replace("\n", "") for text in drawn(sixteen(), WEIGHTS).axes[0].texts]
    assert set(INITIALIZERS) <= set(written)
    assert {f"layer {layer}" for layer in (1, 3, 4, 6, 8, 10, 11, 13, 15, 17, 18, 20)} <= set(written)
    assert any("12 of 20, evenly spread" in text for text in written)


def test_an_arbitrary_model_counts_positions() -> None:
    written = [text.get_text() for text in drawn(ProfileSet((model(),))).axes[0].texts]
    assert "position 4" in written
    assert "position 59" in written


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


@pytest.mark.parametrize("depth", [12, 13])
def test_all_layers_are_columns_up_to_twelve_and_of_more_it_is_said_which(depth: int) -> None:
    profiles = ProfileSet((mlp(depth=depth, width=8, batch=4),))
    found = prepared(profiles)
    assert len(found.columns) == 12
    written = [text.get_text() for text in drawn(profiles).axes[0].texts]
    assert {f"layer {position}" for position in found.columns} <= set(written)
    assert any(f"12 of {depth}, evenly spread" in text for text in written) is (depth > 12)


def test_a_spike_is_shown_once_more_on_a_small_axis() -> None:
    values = 1e-6 * RNG.normal(size=50_000)
    cell = cell_of(TensorSummary.of(values), LINEAR)
    assert np.count_nonzero(cell.up) <= 2
    shape, _ = np.histogram(values, np.linspace(values.min(), values.max(), cell.magnified.size + 1))
    assert cell.magnified == pytest.approx(shape / shape.max(), abs=0.25)
    assert np.corrcoef(cell.magnified, shape)[0, 1] > 0.97
    for other in (RNG.normal(size=1000), np.zeros(9), np.full(9, 0.5), np.full(3, np.nan)):
        assert not cell_of(TensorSummary.of(other), LINEAR).magnified.size
    assert not cell_of(TensorSummary.of(values), LOG).magnified.size
    assert not cell_of(None, LINEAR).magnified.size


def test_small_axes_are_drawn_and_explained_where_values_vanish() -> None:
    profiles = grid(("he_normal", "xavier_normal", "normal:std=0.01", "zeros"), seeds=1)
    (boxes,) = (part for part in drawn(profiles).axes[0].collections if part.get_gid() == "magnified")
    cells = [cell for row in prepared(profiles).cells for cell in row]
    assert len(boxes.get_paths()) == sum(cell.magnified.size > 0 for cell in cells) > 5
    assert "In a box" in prepared(profiles).header.reading
    assert "In a box" not in prepared(grid(("he_normal",), seeds=1)).header.reading


def test_a_logarithmic_axis_by_choice_shows_what_vanishes() -> None:
    profiles = grid(("he_normal", "xavier_normal"), seeds=1)
    found = prepared(profiles, on_scale(ACTIVATIONS, "log"))
    assert found.axis.kind == "log"
    assert np.count_nonzero(found.cells[1][-1].up) > 8
    assert "Magnitudes" in found.header.reading
    assert on_scale(GRADIENTS, "log") is GRADIENTS
    assert prepared(profiles, on_scale(GRADIENTS, "linear")).axis.kind == "linear"
