from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from propscope.errors import InputError
from propscope.plots.loss_surface import draw_loss_map, draw_loss_maps, prepare_loss_maps
from propscope.plots.style import styled
from propscope.records.loss_surface import LossSurface

STEPS = np.linspace(-1, 1, 5)


def bowl(factor: float = 1.0, *, name: str = "bowl", lost: bool = False) -> LossSurface:
    losses = factor * (0.1 + (STEPS - 0.5) ** 2 + STEPS[:, None] ** 2)
    if lost:
        losses[0, 0] = math.inf
    return LossSurface(STEPS, losses, name)


def test_a_surface_knows_where_the_network_stands() -> None:
    assert bowl().here == pytest.approx(0.35)
    assert bowl().lowest == pytest.approx(0.1)
    assert bowl(lost=True).highest == pytest.approx(3.35)
    nowhere = LossSurface(STEPS, np.full((5, 5), math.nan))
    assert math.isnan(nowhere.lowest)


@pytest.mark.parametrize(
    ("steps", "losses", "message"),
    [
        (STEPS[:4], np.zeros((4, 4)), "odd number with 0 in the middle"),
        (STEPS + 0.1, np.zeros((5, 5)), "odd number with 0 in the middle"),
        (STEPS, np.zeros((5, 4)), r"losses must have shape \(5, 5\) for 5 steps, got \(5, 4\)"),
    ],
)
def test_a_surface_refuses(steps: np.ndarray, losses: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LossSurface(steps, losses)


def test_all_maps_have_the_same_colours_and_lines() -> None:
    prepared = prepare_loss_maps([bowl(), bowl(100.0, lost=True)])
    assert (prepared.low, prepared.high) == (pytest.approx(0.1), pytest.approx(335.0))
    assert prepared.logarithmic
    ratios = np.diff(np.log(prepared.levels))
    assert ratios == pytest.approx(ratios[0])
    assert "each 1.7 times the one before" in prepared.header.reading
    assert "Hatched" in prepared.header.reading


@pytest.mark.parametrize(
    "surface", [LossSurface(STEPS, 1 + 0.1 * bowl().losses), LossSurface(STEPS, bowl().losses - 1)]
)
def test_losses_that_are_alike_or_negative_have_a_linear_scale(surface: LossSurface) -> None:
    prepared = prepare_loss_maps([surface])
    assert not prepared.logarithmic
    assert np.diff(prepared.levels) == pytest.approx(np.diff(prepared.levels)[0])
    assert "apart" in prepared.header.reading
    assert "Hatched" not in prepared.header.reading
    with styled():
        draw_loss_maps(prepared).canvas.draw()


def test_without_a_finite_loss_there_is_no_picture() -> None:
    with pytest.raises(InputError, match="not finite anywhere"):
        prepare_loss_maps([LossSurface(STEPS, np.full((5, 5), math.inf))])


def test_the_network_and_the_lowest_loss_are_marked() -> None:
    prepared = prepare_loss_maps([bowl()])
    with styled():
        axes = Figure().add_subplot()
        assert draw_loss_map(axes, prepared, bowl()) is axes
        lowest, here = ([float(at[0]) for at in line.get_data()] for line in axes.lines)
    assert (lowest, here) == ([0.5, 0.0], [0.0, 0.0])
    assert axes.get_title(loc="left") == "bowl\nloss 0.35; map 0.1 to 3.4"


def test_maps_stand_row_by_row_and_share_one_key() -> None:
    with styled():
        figure = draw_loss_maps(prepare_loss_maps([bowl(name=str(number)) for number in range(3)], columns=2))
        figure.canvas.draw()
    *maps, key = figure.axes
    assert [axes.get_title(loc="left")[0] for axes in maps] == ["0", "1", "2"]
    boxes = [axes.get_position() for axes in maps]
    assert boxes[0].y0 == boxes[1].y0 > boxes[2].y1
    assert key.get_position().x0 > boxes[1].x1
    assert key.get_ylabel() == "loss"
