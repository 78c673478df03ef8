from __future__ import annotations

import numpy as np
import pytest
from building.records import sixteen
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from propscope.plots.fast_text import FastText, draw_texts, width_of
from propscope.plots.histogram_grid import (
    ACTIVATIONS,
    GAP,
    GRADIENTS,
    WEIGHT_GRADIENTS,
    WEIGHTS,
    WIDTH,
    Subject,
    prepare_histograms,
)
from propscope.plots.style import TEXT
from propscope.records import NetworkProfile, Parameter, ProfileSet, Site, TensorSummary


def ink(figure: Figure) -> tuple[int, int, int, int]:
    """The box of everything that is not white, in pixels from the top left."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    dark = np.asarray(canvas.buffer_rgba())[..., 0] < 128
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    return int(columns[0]), int(columns[-1]), int(rows[0]), int(rows[-1])


def blank() -> Figure:
    figure = Figure(figsize=(4, 1), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, 4), ylim=(0, 1))
    return figure


def test_lettering_stands_where_matplotlib_would_write_it() -> None:
    lettered, written = blank(), blank()
    text = "−3.4e−17 ± 0.83 [x]"
    draw_texts(lettered.axes[0], [FastText(0.5, 0.4, (text,), "black")])
    written.axes[0].text(0.5, 0.4, text, size=TEXT, family="DejaVu Sans", va="baseline")
    assert ink(lettered) == pytest.approx(ink(written), abs=3)


def test_the_last_row_stands_lowest() -> None:
    one, two = blank(), blank()
    draw_texts(one.axes[0], [FastText(0.5, 0.3, ("ab",), "black")])
    draw_texts(two.axes[0], [FastText(0.5, 0.3, ("", "ab"), "black")])
    assert ink(one) == ink(two)
    assert not draw_texts(blank().axes[0], []).collections


@pytest.mark.parametrize("scale", [1e-4, 0.03, 0.08, 0.31, 0.7, 1.3, 40.0, 3e5])
@pytest.mark.parametrize(
    "subject", [WEIGHTS, ACTIVATIONS, GRADIENTS, WEIGHT_GRADIENTS], ids=lambda subject: subject.name
)
def test_tick_labels_of_neighbouring_cells_do_not_meet(scale: float, subject: Subject) -> None:
    found = prepare_histograms(ProfileSet((noise(scale),)), subject=subject)
    assert found is not None
    axis = found.axis
    assert 2 <= len(axis.ticks) <= 6
    at = [WIDTH * float(axis.fraction(tick)) for tick in axis.ticks]
    halves = [width_of(label) / 2 for label in axis.labels]
    for left, half, right, other in zip(
        at, halves, [*at[1:], at[0] + WIDTH + GAP], [*halves[1:], halves[0]], strict=True
    ):
        assert left + half < right - other


def noise(scale: float) -> NetworkProfile:
    summary = TensorSummary.of(np.random.default_rng(0).normal(0, scale, 4000))
    seen = {"shape": (4000,), "layer": 1, "forward": summary, "backward": summary}
    sites = (Site("z", "Linear", "pre-activation", **seen), Site("h", "Tanh", "activation", **seen))
    return NetworkProfile(sites, (Parameter("l.weight", (40, 100), summary, summary),))


def test_what_is_written_into_a_cell_does_not_reach_the_next() -> None:
    found = prepare_histograms(sixteen(), subject=GRADIENTS)
    assert found is not None
    rows = [row for cells in found.cells for cell in cells for row in cell.rows]
    assert max(map(width_of, rows)) < WIDTH + GAP
    assert width_of("[−1.2e−15, −3.4e−15]") < WIDTH + GAP
