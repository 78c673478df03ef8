from __future__ import annotations

import math

import numpy as np
import pytest
from building.synthetic_profiles import INITIALIZERS, constant, grid, mlp, model, sixteen
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from propscope.plots.histogram_cells import cell_of
from propscope.plots.histogram_grid import draw_histograms
from propscope.plots.histograms import (
    ACTIVATIONS,
    GRADIENTS,
    WEIGHT_GRADIENTS,
    WEIGHTS,
    HistogramGrid,
    Subject,
    evenly,
    prepare_histograms,
)
from propscope.plots.style import styled
from propscope.records import NetworkProfile, ProfileSet

SUBJECTS = (ACTIVATIONS, GRADIENTS, WEIGHTS, WEIGHT_GRADIENTS)
SIXTEEN = sixteen()


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
    found = prepared(SIXTEEN)
    assert found.rows == tuple(INITIALIZERS)
    assert (found.columns, found.of, found.counts) == ((1, 4, 6, 9, 12, 15, 17, 20), 20, "layer")
    assert len(found.cells) == 16
    assert {len(row) for row in found.cells} == {8}
    assert evenly((3, 5, 9), 8) == (3, 5, 9)
    assert evenly(range(1, 101), 8) == (1, 15, 29, 43, 58, 72, 86, 100)


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
    found = prepared(SIXTEEN, GRADIENTS)
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


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
@pytest.mark.parametrize(
    "profiles",
    [
        SIXTEEN,
        grid(depths=(1,), seeds=2),
        grid(("he_normal", "default"), depths=(2, 3), seeds=1),
        ProfileSet((constant(0.0),)),
        ProfileSet((constant(math.nan, seed=0), constant(math.inf, seed=1))),
        ProfileSet((constant(1e30), mlp(depth=2))),
    ],
    ids=["sixteen", "depth 1", "two depths", "all zero", "not finite", "huge"],
)
def test_every_case_is_drawn_in_one_axes_of_few_artists(subject: Subject, profiles: ProfileSet) -> None:
    figure = drawn(profiles, subject)
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
    written = [text.get_text().replace("\n", "") for text in drawn(SIXTEEN, WEIGHTS).axes[0].texts]
    assert set(INITIALIZERS) <= set(written)
    assert {f"layer {layer}" for layer in (1, 4, 6, 9, 12, 15, 17, 20)} <= set(written)
    assert any("8 of 20, evenly spread" in text for text in written)


def test_an_arbitrary_model_counts_positions() -> None:
    written = [text.get_text() for text in drawn(ProfileSet((model(),))).axes[0].texts]
    assert "position 4" in written
    assert "position 59" in written
