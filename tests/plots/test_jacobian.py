from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from building.records import mlp
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from propscope.plots.jacobian import LOST, OUTPUT, Spectra, Spectrum, draw_jacobian, prepare_jacobian
from propscope.plots.style import styled
from propscope.records import NetworkProfile, ProfileSet, Site, TensorSummary
from propscope.records.network import Role


def site(
    values: Sequence[float],
    *,
    layer: int | None,
    role: Role = "pre-activation",
    condition: float | None = None,
    name: str = "",
) -> Site:
    return Site(
        name or f"layers.{layer}.{role}",
        "Linear",
        role,
        (4, 8),
        layer=layer,
        jacobian=TensorSummary.of(np.array(values, dtype=np.float64)),
        jacobian_condition=condition,
    )


def network(
    spectra: Sequence[Sequence[float]], *, initializer: str = "he_normal", activation: str = "relu", seed: int = 0
) -> NetworkProfile:
    """Return an MLP with one spectrum a layer, the last one that of its output."""
    sites = [site(values, layer=layer) for layer, values in enumerate(spectra[:-1], start=1)]
    sites.append(site(spectra[-1], layer=len(spectra) - 1, role="activation", condition=1e3))
    return NetworkProfile(tuple(sites), labels={"initializer": initializer, "activation": activation, "seed": seed})


def prepared(*profiles: NetworkProfile) -> Spectra:
    found = prepare_jacobian(ProfileSet(profiles))
    assert found is not None
    return found


def only(*profiles: NetworkProfile) -> Spectrum:
    panel = prepared(*profiles).panels[0][0]
    assert panel is not None
    return panel


def drawn(spectra: Spectra) -> Figure:
    with styled():
        figure = draw_jacobian(spectra)
        FigureCanvasAgg(figure).draw()
    return figure


def test_lines_are_the_figures_of_the_summaries_by_layer_with_the_output_behind() -> None:
    panel = only(network([[2.0, 1.0], [4.0, 0.5], [8.0, 0.25]]))
    assert panel.positions.tolist() == [1, 2, 3]
    assert panel.names == ("1", "2", OUTPUT)
    assert panel.largest == pytest.approx([2, 4, 8])
    assert panel.smallest == pytest.approx([1, 0.5, 0.25])
    assert panel.rms == pytest.approx([math.sqrt(2.5), math.sqrt(8.125), math.sqrt(32.03125)])
    assert panel.note == "largest 8 · rms 5.7 · cond. 1000"


def test_cells_hold_the_share_of_the_values_between_their_edges() -> None:
    spectra = prepared(network([[1.0] * 4, [10.0, 0.1, 0.0, 1e-12], [1.0, 1.0, 1.0, 0.0]]))
    panel = spectra.panels[0][0]
    assert panel is not None
    assert panel.shares.sum(axis=0) == pytest.approx([1, 1, 1])
    assert panel.shares[0] == pytest.approx([0, 0.5, 0.25])
    for position, value, share in ((0, 1.0, 1.0), (1, 10.0, 0.25), (1, 0.1, 0.25), (2, 1.0, 0.75)):
        # A value may lie in a bin that straddles two cells.
        cell = int(np.searchsorted(spectra.edges, value, side="right")) - 1
        assert panel.shares[max(cell - 1, 0) : cell + 2, position].sum() == pytest.approx(share)
    assert spectra.edges[0] == 0
    assert spectra.edges[1] == pytest.approx(spectra.scale.low)
    assert spectra.edges[-2] == pytest.approx(spectra.scale.high)
    assert np.isinf(spectra.edges[-1])


def test_the_scale_ends_where_directions_are_lost_and_shows_one() -> None:
    scale = prepared(network([[1.0, 1e-3], [1e-20, 1e-30], [0.0, 0.0]])).scale
    assert LOST / 10 < scale.low < LOST
    assert 1 < scale.high < 10
    # An axis for the largest alone would call the rest lost.
    skewed = prepared(network([[10.0] * 9 + [0.0] * 9 + [1e-5] * 2] * 2))
    assert skewed.scale.low < 1e-5
    explodes = prepared(network([[1.0], [1e30], [1e40]])).scale
    assert explodes.low < 1 < explodes.high < 1e7


def test_seeds_are_averaged_on_logarithms_and_their_values_put_together() -> None:
    panel = only(network([[1.0, 1.0], [4.0, 2.0]]), network([[1.0, 1.0], [1.0, 0.5]], seed=1))
    assert panel.largest == pytest.approx([1, 2])
    assert panel.smallest == pytest.approx([1, 1])
    assert np.count_nonzero(panel.shares[:, 1]) == 4
    one_vanished = only(network([[1.0], [2.0]]), network([[1.0], [0.0]], seed=1))
    assert one_vanished.largest[1] == 0
    assert one_vanished.shares[0, 1] == 0.5


def test_what_is_not_finite_is_said() -> None:
    broken = network([[1.0, 2.0], [math.nan, math.nan]])
    assert np.isinf(only(broken).largest).tolist() == [False, True]
    assert only(broken).note == "NaN/Inf"
    assert only(broken, network([[1.0, 2.0], [1.0, 2.0]], seed=1)).note == "NaN/Inf (1 of 2 seeds)"
    marks = [line for line in drawn(prepared(broken)).axes[1].lines if line.get_marker() == "^"]
    assert [line.get_xdata().tolist() for line in marks] == [[2.0]]


def test_zeros_stand_in_the_note_and_an_unknown_condition_does_not() -> None:
    assert only(network([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])).note == "largest 1 · rms 0.82 · 33% zero"
    assert only(NetworkProfile((site([2.0, 2.0], layer=1),))).note == "largest 2 · rms 2"


def test_sites_without_layers_stand_in_their_order() -> None:
    sites = [site([1.0], layer=None, name=name) for name in "abc"]
    spectra = prepared(NetworkProfile(tuple(sites)))
    panel = spectra.panels[0][0]
    assert panel is not None
    assert (spectra.axis, panel.names) == ("position in execution order", ("1", "2", "3"))
    both = [site([1.0], layer=layer, role=role) for layer in (1, 2) for role in ("pre-activation", "activation")]  # type: ignore[arg-type]
    panel = only(NetworkProfile(tuple(both)))
    assert panel.positions.tolist() == [1, 2, 3, 4]


def test_rows_are_initializers_and_columns_activations() -> None:
    spectra = prepared(
        network([[1.0], [1.0]]),
        network([[1.0], [2.0]], activation="tanh"),
        network([[1.0], [3.0]], initializer="zeros", activation="tanh"),
    )
    assert (spectra.rows, spectra.columns) == (("he_normal", "zeros"), ("relu", "tanh"))
    assert [[panel is None for panel in row] for row in spectra.panels] == [[False, False], [True, False]]
    found = spectra.panels[1][1]
    assert found is not None
    assert found.largest[-1] == pytest.approx(3)


@pytest.mark.slow
def test_without_a_jacobian_there_is_no_picture() -> None:
    assert prepare_jacobian(ProfileSet((mlp(depth=2),))) is None
    assert prepare_jacobian(ProfileSet(())) is None
    moments = Site("a", "Linear", "other", (2, 2), jacobian=TensorSummary(2, 1.0, 0.5, math.nan, 2.0, 0.0))
    panel = only(NetworkProfile((moments,)))
    assert np.isnan(panel.shares).all()
    assert np.isnan(panel.smallest).all()
    assert drawn(prepared(NetworkProfile((moments,)))).axes


def test_bars_are_the_share_that_is_lost() -> None:
    figure = drawn(prepared(network([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])))
    strip = figure.axes[2]
    assert [bar.get_height() for bar in strip.patches] == pytest.approx([0, 0.5, 1])
    assert strip.get_ylim() == (0, 1)


def test_what_is_above_the_axis_stands_in_its_uppermost_row() -> None:
    mesh = drawn(prepared(network([[1.0], [1e30], [1e40]]))).axes[1].collections[0]
    cells = np.asarray(mesh.get_array()).reshape(-1, 3)
    assert cells[-1].tolist() == [0, 1, 1]
    assert cells.sum(axis=0) == pytest.approx([1, 1, 1])


SPREAD = [list(np.geomspace(1, 10.0**-power, 20)) for power in range(21)]
PICTURES = {
    "one": [network(SPREAD)],
    "a layer": [network([[1.0]])],
    "sixteen": [network(SPREAD, initializer=f"initializer_{n}:std=0.0123456789:low=-0.5") for n in range(16)],
    "pairs": [network(SPREAD, initializer=i, activation=a) for i in ("x", "y") for a in ("relu", "tanh", "silu")],
    "zeros": [network([[0.0, 0.0]] * 4)],
    "nothing finite": [network([[math.nan]] * 4)],
}


@pytest.mark.slow
@pytest.mark.parametrize("case", PICTURES)
def test_every_text_lies_within_the_picture_and_none_on_another(case: str) -> None:
    figure = drawn(prepared(*PICTURES[case]))
    width, height = figure.get_size_inches() * figure.dpi
    boxes = []
    for text in figure.findobj(Text):
        if text.get_text().strip() and text.get_visible():
            box = text.get_window_extent()
            assert box.x0 >= 0, text
            assert box.x1 <= width, text
            assert box.y0 >= 0, text
            assert box.y1 <= height, text
            boxes.append((box, text))
    for index, (box, text) in enumerate(boxes):
        for other, another in boxes[index + 1 :]:
            across = min(box.x1, other.x1) - max(box.x0, other.x0)
            along = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert across <= 1 or along <= 2, (text, another)
