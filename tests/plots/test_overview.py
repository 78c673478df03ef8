from __future__ import annotations

import math

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from synthetic_profiles import constant, grid, mlp, model, sixteen

from propscope.plots.overview import Overview, factor_of, prepare_overview
from propscope.plots.overview_map import draw_overview
from propscope.plots.style import styled
from propscope.results import NetworkProfile, ProfileSet
from propscope.results.interval import geometric_interval


def prepared(profiles: ProfileSet) -> Overview:
    found = prepare_overview(profiles)
    assert found is not None
    return found


def drawn(profiles: ProfileSet) -> Figure:
    with styled():
        figure = draw_overview(prepared(profiles))
        FigureCanvasAgg(figure).draw()
    return figure


def test_cells_are_the_factors_over_seeds_in_decades() -> None:
    profiles = grid(("he_normal", "xavier_normal"), ("relu", "tanh"), seeds=3, depths=(6,))
    found = prepared(profiles)
    assert (found.rows, found.columns) == (("he_normal", "xavier_normal"), ("relu", "tanh"))
    assert [part.direction for part in found.maps] == ["forward", "backward"]
    for part in found.maps:
        for row, initializer in zip(part.cells, found.rows, strict=True):
            for cell, activation in zip(row, found.columns, strict=True):
                pair = profiles.subset(initializer=initializer, activation=activation)
                interval = geometric_interval(profile.factor(part.direction) for profile in pair)
                assert cell.decades == pytest.approx(math.log10(interval.center))
                assert cell.half == pytest.approx(math.log10(interval.high / interval.center))


@pytest.mark.parametrize(
    ("factors", "state", "text"),
    [
        ([1e-3], "seen", "−3.0"),
        ([1e3, 1e3], "seen", "+3.0 ± 0.0"),
        ([0.999], "seen", "0.0"),
        ([1e2, 1e4], "seen", "+3.0 ± 12.7"),
        ([0.0, 0.0], "vanished", "zero"),
        ([1.0, 0.0, math.nan], "vanished", "zero (1 of 2)"),
        ([math.inf], "overflowed", "NaN/Inf"),
        ([0.0, math.inf, 1.0], "overflowed", "NaN/Inf (1 of 3)"),
        ([math.nan], "not seen", "–"),
        ([], "not seen", "–"),
    ],
)
def test_a_cell_in_words(factors: list[float], state: str, text: str) -> None:
    cell = factor_of(factors)
    assert (cell.state, cell.text) == (state, text)


def test_colours_are_clipped_and_the_limit_stated() -> None:
    assert prepared(grid(("he_normal",), seeds=1, depths=(3,))).limit == 1
    far = prepared(grid(("he_normal", "normal:std=0.01"), seeds=1))
    assert far.limit == 8
    assert "clipped at ±8 decades" in far.header.reading


def test_only_the_directions_that_were_seen_are_shown() -> None:
    assert [part.direction for part in prepared(grid(backward=False, seeds=1, depths=(3,))).maps] == ["forward"]
    assert prepare_overview(ProfileSet((NetworkProfile(()),))) is None
    assert prepare_overview(ProfileSet(())) is None


def test_a_pair_that_was_not_run_is_blank() -> None:
    profiles = grid(("he_normal",), ("relu",), seeds=1, depths=(3,)) + grid(("zeros",), ("tanh",), seeds=1, depths=(3,))
    cells = prepared(profiles).maps[0].cells
    assert [[cell.text for cell in row] for row in cells] == [[cells[0][0].text, "–"], ["–", "zero"]]


@pytest.mark.parametrize(
    "profiles",
    [
        sixteen(),
        grid(("he_normal",), ("relu", "tanh", "sigmoid", "selu"), seeds=2, depths=(3,)),
        ProfileSet.of(mlp("he_normal", "relu", depth=2, tag=tag) for tag in ("a", "b")),
        ProfileSet((constant(math.nan),)),
        ProfileSet((model(),)),
        ProfileSet.of(
            NetworkProfile(p.sites, labels={"activation": f"function_{n}"}) for n in range(12) for p in [mlp(depth=2)]
        ),
    ],
    ids=["sixteen", "four activations", "tags", "not finite", "any model", "twelve activations"],
)
def test_every_case_is_drawn_with_its_numbers(profiles: ProfileSet) -> None:
    figure = drawn(profiles)
    found = prepared(profiles)
    for axes, part in zip(figure.axes, found.maps, strict=False):
        assert [text.get_text() for text in axes.texts] == [cell.text for row in part.cells for cell in row]
    width, height = figure.get_size_inches() * figure.dpi
    for text in figure.findobj(Text):
        if text.get_text().strip() and text.get_visible():
            box = text.get_window_extent()
            assert box.x0 >= 0, text
            assert box.x1 <= width, text
            assert box.y0 >= 0, text
            assert box.y1 <= height, text


def test_vanished_and_overflowed_cells_are_hatched() -> None:
    figure = drawn(ProfileSet((constant(0.0, initializer="zeros"), constant(math.inf, initializer="ones"))))
    hatches = {part.get_hatch(): len(part.get_paths()) for part in figure.axes[0].collections}
    assert (hatches["////"], hatches["xxxx"]) == (1, 1)
