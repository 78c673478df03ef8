from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from building.phase_charts import chart
from matplotlib.text import Text

from propscope.plots.phase import prepare_phase
from propscope.plots.phase_map import draw_phase
from propscope.plots.style import styled


def drawn(picture):
    with styled():
        figure = draw_phase(picture)
        figure.canvas.draw()
    return figure


def test_every_label_is_written_and_the_axes_are_those_of_the_chart() -> None:
    picture = prepare_phase(chart())
    figure = drawn(picture)
    plane, bar = figure.axes
    written = {text.get_text() for text in plane.findobj(Text)}
    assert {"\n".join(one.rows) for one in picture.callouts} <= written
    assert {"ordered", "chaotic"} <= written
    assert plane.get_xlim() == pytest.approx((0, 3))
    assert plane.get_ylim() == pytest.approx((0, 0.5))
    assert "≥ 1000" in {label.get_text() for label in bar.get_yticklabels()}


def test_a_label_fits_its_card() -> None:
    picture = prepare_phase(chart())
    figure = drawn(picture)
    plane = figure.axes[0]
    texts = {text.get_text(): text for text in plane.texts}
    for one in picture.callouts:
        extent = texts["\n".join(one.rows)].get_window_extent()
        assert extent.width / figure.dpi <= one.box[2] - one.box[0]
        assert extent.height / figure.dpi <= one.box[3] - one.box[1] + 0.02


def test_where_the_variance_diverges_there_is_no_colour() -> None:
    q = np.ones((20, 30))
    q[:, 20:] = np.inf
    plane = drawn(prepare_phase(replace(chart(), q=q, correlation_depth=np.full((20, 30), np.inf)))).axes[0]
    shown = plane.images[0].get_array()
    assert shown.mask[:, 20:].all()
    assert not shown.mask[:, :20].any()
    # Infinite depth has the last colour.
    assert np.isfinite(shown[:, :20]).all()
