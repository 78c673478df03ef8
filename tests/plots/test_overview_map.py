from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from building.records import constant, grid, mlp, model, sixteen, without_theory
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from propscope.diagnosis import diagnose
from propscope.plots.overview_map import Overview, cell_of, draw_overview, factor_of, prepare_overview
from propscope.plots.style import LINE_HEIGHT, styled
from propscope.records import Expected, NetworkProfile, ProfileSet, TensorSummary
from propscope.records.interval import geometric_interval


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


def expecting(start: float, end: float, *, log_std: float = 0.1, initializer: str = "a") -> NetworkProfile:
    """A network of rms 1 throughout, of which theory expects these rms forward and nothing backward."""
    profile = constant(1.0, depth=2, initializer=initializer)
    expected = {"layers.1": Expected(forward_rms=start), "layers.2": Expected(forward_rms=end, forward_log_std=log_std)}
    return replace(profile, sites=tuple(replace(site, expected=expected.get(site.name)) for site in profile.sites))


def test_theory_stands_in_a_cell_only_where_the_networks_lie_outside_its_band() -> None:
    def text(*networks: NetworkProfile) -> str:
        return cell_of(networks, "forward").text

    assert text(expecting(1.0, 1e-3)) == "0.0\ntheory −3.0"
    assert text(expecting(2.0, 2e-3), expecting(2.0, 2e-3)) == "0.0 ± 0.0\ntheory −3.0"
    assert text(expecting(1.0, 1e-3, log_std=10.0)) == "0.0"
    # Outside a narrow band, but the same number.
    assert text(expecting(1.0, 1.01, log_std=1e-3)) == "0.0"
    assert text(expecting(1.0, math.nan)) == text(constant(1.0)) == "0.0"
    assert text(expecting(1.0, 0.0)) == "0.0"
    gone = expecting(1.0, 1e-60)
    gone = replace(gone, sites=tuple(replace(site, forward=TensorSummary.of([0.0])) for site in gone.sites))
    assert text(gone) == "zero\ntheory −60.0"
    assert cell_of([expecting(1.0, 1e-3)], "backward").text == "0.0"


def test_the_overview_says_what_theory_adds() -> None:
    zeros = without_theory(constant(0.0, initializer="zeros"), "the weights are equal")
    reading = prepared(ProfileSet((expecting(1.0, 1e-3), zeros))).header.reading.splitlines()
    assert "infinite-width theory" in reading[0]
    assert "95% band" in reading[0]
    assert "✗ above 2896 or below 1e−6" in reading[0]
    assert reading[0].endswith("by all that was measured of it.")
    assert " Hatched: exactly zero." in reading[0]
    assert "Cross-hatched" not in reading[0]
    assert reading[1:] == ["No theory for zeros: the weights are equal."]
    assert "theory" not in prepared(ProfileSet((constant(1.0),))).header.reading
    assert "theory" not in prepared(ProfileSet((expecting(1.0, 1e-3, log_std=10.0),))).header.reading
    figure = drawn(ProfileSet((expecting(1.0, 1e-3), zeros)))
    assert figure.axes[0].bbox.height / figure.dpi >= 2 * (2 * LINE_HEIGHT + 0.08) - 1e-9


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
    assert prepared(profiles).verdicts.cells == ((diagnose(profiles[:1]).verdict, ""), ("", "broken"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "profiles_of",
    [
        sixteen,
        lambda: grid(("he_normal",), ("relu", "tanh", "sigmoid", "selu"), seeds=2, depths=(3,)),
        lambda: ProfileSet.of(mlp("he_normal", "relu", depth=2, tag=tag) for tag in ("a", "b")),
        lambda: ProfileSet((constant(math.nan),)),
        lambda: ProfileSet((model(),)),
        lambda: ProfileSet.of(
            NetworkProfile(p.sites, labels={"activation": f"function_{n}"}) for n in range(12) for p in [mlp(depth=2)]
        ),
    ],
    ids=["sixteen", "four activations", "tags", "not finite", "any model", "twelve activations"],
)
def test_every_case_is_drawn_with_its_numbers(profiles_of: Callable[[], ProfileSet]) -> None:
    profiles = profiles_of()
    figure = drawn(profiles)
    found = prepared(profiles)
    for axes, part in zip(figure.axes, found.maps, strict=False):
        assert [text.get_text() for text in axes.texts] == [cell.texts[0] for row in part.cells for cell in row]
    verdicts = [text.get_text().split()[-1] for text in figure.axes[len(found.maps)].texts]
    assert verdicts == [verdict or "–" for row in found.verdicts.cells for verdict in row]
    titles = [axes._left_title.get_window_extent() for axes in figure.axes[: len(found.maps) + 1]]
    for one, other in itertools.combinations(titles, 2):
        assert Bbox.intersection(one, other) is None
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


def test_a_cell_is_marked_and_coloured_by_its_own_factor() -> None:
    """A network that is broken backward alone has a forward cell like that of a healthy one."""
    broken = replace(mlp("he_normal", depth=6), labels={"initializer": "broken", "activation": "relu"})
    tiny = TensorSummary.of(np.array([1e-12, -1e-12]))
    sites = [replace(site, backward=tiny if site.layer == 1 else site.backward) for site in broken.sites]
    profiles = ProfileSet((mlp("he_normal", depth=6), replace(broken, sites=tuple(sites))))
    found = prepared(profiles)
    forward, backward = ([cell.mark for row in part.cells for cell in row] for part in found.maps)
    assert (forward, backward) == (["", ""], ["", "✗"])
    assert [row[0] for row in found.verdicts.cells] == ["strained", "broken"]
    axes = drawn(profiles).axes
    faces = [[to_hex(face) for face in one.collections[0].get_facecolors()] for one in axes[:2]]
    assert faces[0][0] == faces[0][1]
    assert faces[1][0] != faces[1][1]
    assert [text.get_text() for text in axes[2].texts] == ["! strained", "✗ broken"]


def test_marks_follow_the_limits_of_the_rules() -> None:
    decades = (-6.1, -3.7, -3.5, 0.0, 2.0, 2.2, 3.5)
    assert [factor_of([10.0**each]).mark for each in decades] == ["✗", "!", "", "", "", "!", "✗"]
    assert [factor_of([each]).mark for each in (0.0, math.inf, math.nan)] == ["✗", "✗", ""]
