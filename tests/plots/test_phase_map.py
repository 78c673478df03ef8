from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from building.records import chart
from matplotlib.collections import PathCollection
from matplotlib.text import Text

from propscope.plots.phase_map import HEIGHT, WIDTH, draw_phase, prepare_phase
from propscope.plots.style import styled
from propscope.records.phase import MeasuredDepth


def labels(picture):
    return {" ".join(one.rows): (mark, one) for mark, one in zip(picture.marks, picture.labels, strict=True)}


def test_measured_depths_are_dots_in_the_colours_of_the_map() -> None:
    depths = (MeasuredDepth(1.0, 0.1, 5.0), MeasuredDepth(2.0, 0.2, 1e9), MeasuredDepth(1.5, 0.3, math.nan))
    prepared = prepare_phase(chart(), measured=depths)
    assert prepared.measured == depths
    assert "Dots: ξ_c as measured" in prepared.header.reading
    assert "×: not resolved" in prepared.header.reading
    axes = draw_phase(prepared).axes[0]
    (dots,) = (each for each in axes.collections if isinstance(each, PathCollection))
    assert np.asarray(dots.get_offsets()).tolist() == [[1.0, 0.1], [2.0, 0.2]]
    image = axes.images[0]
    assert (dots.norm.vmin, dots.norm.vmax) == (image.norm.vmin, image.norm.vmax)
    assert dots.get_cmap().name == image.get_cmap().name
    crosses = [line for line in axes.get_lines() if line.get_marker() == "x"]
    assert [list(line.get_xydata()[0]) for line in crosses] == [[1.5, 0.3]]
    assert "Dots" not in prepare_phase(chart()).header.reading


def test_who_stands_together_is_named_together_where_he_stands() -> None:
    found = labels(prepare_phase(chart()))
    mark, together = found["critical, xavier_*"]
    assert mark == "critical"
    assert (together.x, together.y) == pytest.approx((WIDTH / 3, 0))
    mark, he = found["he_normal"]
    assert mark == "initializer"
    assert (he.x, he.y) == pytest.approx((WIDTH * 2 / 3, 0))
    assert found["critical line"][0] == "none"


def test_who_is_off_the_axes_is_named_at_the_edge_with_an_arrow() -> None:
    found = labels(prepare_phase(chart()))
    mark, one = found["normal:std=1 (256, 0.01), normal:std=2 (1024, 0.01)"]
    assert mark == "right"
    assert (one.x, one.y) == pytest.approx((WIDTH, HEIGHT / 50))
    mark, odd = found["odd (0.5, 3)"]
    assert mark == "top"
    assert odd.y == HEIGHT
    inner = chart(weight_variance=1.5 + (np.arange(30) + 0.5) / 10, bias_variance=0.1 + (np.arange(20) + 0.5) / 40)
    found = labels(prepare_phase(inner))
    assert found["critical (1, 0), xavier_uniform (1, 0), xavier_normal (1, 0)"][0] == "left"
    assert found["he_normal (2, 0)"][0] == "bottom"


def test_no_label_lies_on_another() -> None:
    picture = prepare_phase(chart())
    for one, other in itertools.combinations([one.box for one in picture.labels], 2):
        assert min(one[2], other[2]) <= max(one[0], other[0]) or min(one[3], other[3]) <= max(one[1], other[1])


def test_the_regions_are_named_within_them() -> None:
    picture = prepare_phase(chart())
    assert [region.name for region in picture.regions] == ["ordered", "chaotic"]
    for region in picture.regions:
        weight, bias = region.x / WIDTH * 3, region.y / HEIGHT * 0.5
        assert (weight > 1 + 2 * bias) == (region.name == "chaotic")
    diverging = np.where(chart().weight_variance > 2, np.inf, 1.0) * np.ones((20, 1))
    assert [region.name for region in prepare_phase(chart(q=diverging)).regions][-1] == "variance diverges"


def test_a_name_stands_beside_the_dots() -> None:
    for region in prepare_phase(chart()).regions:
        # A dot where the name would stand, and then one where it stands instead.
        dots: list[MeasuredDepth] = []
        for _ in range(3):
            named = {each.name: each for each in prepare_phase(chart(), measured=dots).regions}[region.name]
            (left, right), (low, high) = chart().weight_limits, chart().bias_limits
            weight = left + named.x / WIDTH * (right - left)
            dots.append(MeasuredDepth(weight, low + named.y / HEIGHT * (high - low), 5.0))
        assert len(set(dots)) == 3


def test_the_line_is_cut_to_the_map_and_dashed_where_it_does_not_hold() -> None:
    (whole,) = prepare_phase(chart()).pieces
    assert whole[2]
    assert whole[1][-2] <= 0.5 < whole[1][-1]
    halves = prepare_phase(chart(line_stable=np.linspace(0, 2, 50) < 0.25)).pieces
    assert [solid for *_, solid in halves] == [True, False]
    # They meet.
    assert halves[0][1][-1] == halves[1][1][0]
    outside = chart(line_weight=np.full(50, 9.0))
    assert prepare_phase(outside).pieces == ()
    assert "critical line" not in labels(prepare_phase(outside))


def test_the_header_says_what_the_map_cannot() -> None:
    reading = prepare_phase(chart()).header.reading
    assert reading.splitlines()[1:] == ["Not in the map: zeros, ones (it is zero).", "Not in the map: eye (no draw)."]
    assert "1000 layers" in reading
    assert "Star" in reading
    assert "Dashed" not in reading
    assert "Hatched" not in reading
    without = chart(
        critical=None, no_line="its slope is too small", q=np.full((20, 30), np.inf), **dict.fromkeys(
            ("line_weight", "line_bias", "line_stable"), np.empty(0)
        )
    )  # fmt: skip
    reading = prepare_phase(without).header.reading
    assert "No critical line: its slope is too small." in reading
    assert "Star" not in reading
    assert "Hatched" in reading
    point = chart(line_weight=np.array([2.0]), line_bias=np.zeros(1), line_stable=np.ones(1, dtype=bool))
    assert "The critical line is one point, (2, 0)" in prepare_phase(point).header.reading
    assert "width 7" in prepare_phase(chart(), note="width 7").header.facts


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
    assert {"\n".join(one.rows) for one in picture.labels} <= written
    assert {"ordered", "chaotic"} <= written
    assert plane.get_xlim() == pytest.approx((0, 3))
    assert plane.get_ylim() == pytest.approx((0, 0.5))
    assert "≥ 1000" in {label.get_text() for label in bar.get_yticklabels()}


def test_a_label_fits_its_card() -> None:
    picture = prepare_phase(chart())
    figure = drawn(picture)
    plane = figure.axes[0]
    texts = {text.get_text(): text for text in plane.texts}
    for one in picture.labels:
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
