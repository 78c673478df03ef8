import numpy as np
import pytest

from propscope.plots.style import styled
from propscope.plots.width_check import LINES_AT_MOST, STEPS_AT_MOST, draw_width_check, prepare_width_check
from propscope.records.width_check import WidthCheck, WidthRow

WIDTHS = (16, 32, 128)


def row(name, quantity, power, *, role="hidden", expected=None, steps=2):
    sizes = np.full((2, 3, steps + 1), np.nan)
    first = 0 if quantity == "size" else 1
    growth = np.array(WIDTHS, dtype=float) ** power
    sizes[:, :, first:] = growth[None, :, None] * np.array([0.5, 2.0])[:, None, None]
    return WidthRow(name, "Linear", role, True, quantity, WIDTHS, sizes, 0 if quantity == "size" else steps, expected)


def check(names=("lift", "head"), steps=2, **of):
    rows = [
        row(name, quantity, power, expected=(0.0, 0.0), steps=steps)
        for name in names
        for quantity, power in (("size", 0.0), ("change", 1.0), ("weights_part", 1.0), ("input_part", 0.5))
    ]
    relu = row("relu", "size", 0.0, role="", steps=steps)
    return WidthCheck("net$", WIDTHS, 2, steps, "adam", 0.1, "mse", (*rows, relu), **of)


def test_the_lines_are_geometric_means_over_seeds_with_the_expected_slopes():
    picture = prepare_width_check(check(expect="mup"))
    assert picture.names == ("lift (hidden)", "head (hidden)")
    places = {(panel.quantity, panel.step): panel for panel in picture.panels}
    assert set(places) == {("size", 0)} | {
        (quantity, step) for quantity in ("size", "change", "weights_part", "input_part") for step in (1, 2)
    }
    assert places["size", 1].lines.tolist() == [pytest.approx([1, 1, 1])] * 2
    assert places["change", 2].lines.tolist() == [pytest.approx(WIDTHS)] * 2
    ((slope, guide),) = places["change", 2].guides
    assert (slope, guide.tolist()) == (0.0, pytest.approx([16, 16, 16]))
    assert (len(places["size", 0].guides), len(places["size", 1].guides)) == (1, 0)
    assert "the slopes of muP" in picture.header.reading
    assert r"net\$ at widths 16, 32, 128" in picture.header.facts
    assert "dashes" not in prepare_width_check(check()).header.reading


def test_zeros_and_what_was_not_measured_are_left_out():
    rows = (row("lift", "size", 0.0), row("lift", "change", 0.0))
    rows[1].sizes[0, 1, 2] = 0.0
    picture = prepare_width_check(WidthCheck("net", WIDTHS, 2, 2, "adam", 0.1, "mse", rows))
    lines = {(panel.quantity, panel.step): panel.lines for panel in picture.panels}
    assert np.isnan(lines["change", 2]).tolist() == [[False, True, False]]
    assert ("change", 0) not in lines


def test_many_layers_and_steps_are_thinned_out():
    picture = prepare_width_check(check([f"blocks.{number}.project" for number in range(31)], steps=12))
    assert len(picture.names) == LINES_AT_MOST
    assert (picture.names[0], picture.names[-1]) == ("blocks.0.project (hidden)", "blocks.30.project (hidden)")
    steps = sorted({panel.step for panel in picture.panels})
    assert (len(steps), steps[0], steps[-1]) == (STEPS_AT_MOST, 0, 12)
    assert "10 of 31 layers" in picture.header.facts


@pytest.mark.slow
def test_every_line_is_drawn_and_no_text_leaves_the_figure():
    with styled():
        figure = draw_width_check(prepare_width_check(check([f"a.long.name.of.a.layer.{n}" for n in range(9)])))
        figure.draw_without_rendering()
    drawn = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title(loc="left") for axes in drawn[:3]] == ["t = 0", "t = 1", "t = 2"]
    assert all(len(axes.lines) == 9 + bool(index in (0,) or index > 2) for index, axes in enumerate(drawn))
    guides = [line for axes in drawn for line in axes.lines if line.get_gid() == "expected"]
    # Under the lines, which have a zorder of 3.
    assert {line.get_zorder() for line in guides} == {2.3}
    box = figure.bbox
    texts = [*figure.texts, *(axes.yaxis.label for axes in drawn), *(axes.xaxis.label for axes in drawn)]
    for text in texts:
        extent = text.get_window_extent()
        if text.get_text():
            assert box.x0 <= extent.x0, text
            assert extent.x1 <= box.x1, text
            assert box.y0 <= extent.y0, text
