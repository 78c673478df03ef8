from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from building.records import INITIALIZERS, constant, grid, mlp, model, predicted, sixteen, without_theory
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from propscope.plots.curve_panels import Curves, Panel, draw_curves, prepare_curves
from propscope.plots.style import styled
from propscope.records import Expected, NetworkProfile, ProfileSet

# Each makes its profiles when a test asks for them, which takes a while.
CASES = {
    "one initializer, one seed": lambda: ProfileSet((mlp(),)),
    "sixteen initializers": lambda: sixteen(),
    "two activations": lambda: grid(activations=("relu", "tanh"), seeds=2, depths=(6,), width=16),
    "depth 1": lambda: grid(depths=(1,), seeds=2),
    "depth 2": lambda: grid(depths=(2,), seeds=1),
    "depth 100": lambda: grid(("he_normal", "normal:std=1", "default"), depths=(100,), seeds=2, width=12, batch=8),
    "two depths": lambda: grid(("he_normal", "default"), depths=(3, 5), seeds=2),
    "all zero": lambda: ProfileSet((constant(0.0),)),
    "all NaN": lambda: ProfileSet((constant(math.nan),)),
    "all Inf": lambda: ProfileSet((constant(math.inf, seed=0), constant(math.inf, seed=1))),
    "forward only": lambda: grid(backward=False, seeds=2, depths=(4,)),
    "theory": lambda: ProfileSet.of(predicted(profile, times=1.5) for profile in grid(seeds=2)),
    "theory, sixteen initializers": lambda: ProfileSet.of(
        predicted(p) if i % 4 else without_theory(p, f"reason {i}, which is as long as a reason may be, {'so ' * 20}")
        for i, p in enumerate(sixteen())
    ),
    "theory of what is zero, NaN and Inf": lambda: ProfileSet.of(
        predicted(constant(value, initializer=f"{value}"), times=times, log_std=log_std)
        for value in (0.0, math.nan, math.inf, -1.0)
        for times, log_std in ((1.0, 0.1), (1e300, 10.0))
    ),
    "any model": lambda: ProfileSet((model(),)),
    "two models": lambda: ProfileSet((model(seed=1, model="resnet"), model(seed=2, model="vit"))),
}


def prepared(profiles: ProfileSet) -> Curves:
    curves = prepare_curves(profiles)
    assert curves is not None
    return curves


def panel(profiles: ProfileSet, row: int, column: int = 0) -> Panel:
    found = prepared(profiles).panels[row][column]
    assert found is not None
    return found


def drawn(profiles: ProfileSet) -> Figure:
    with styled():
        figure = draw_curves(prepared(profiles))
        FigureCanvasAgg(figure)
        # Places every text; no pixel is looked at.
        figure.draw_without_rendering()
    return figure


def texts(figure: Figure) -> list[tuple[str, Bbox]]:
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent()) for text in found]


def test_rows_are_quantities_and_columns_activations() -> None:
    curves = prepared(CASES["two activations"]())
    assert [[found.column for found in row if found] for row in curves.panels] == [["relu", "tanh"]] * 4
    assert curves.names == ("he_normal", "xavier_normal", "normal:std=0.01", "zeros")
    for row in curves.panels:
        assert row[0] is not None
        assert row[1] is not None
        assert row[0].scale == row[1].scale
    assert curves.header.facts == "depth 6 · width 16 · 2 seeds · batch 32"
    assert "95% confidence interval" in curves.header.reading


def test_a_vanished_layer_is_stated() -> None:
    forward = panel(grid(("he_normal", "zeros"), seeds=3, depths=(5,)), 0)
    he, zeros = forward.curves
    np.testing.assert_array_equal(zeros.vanished, [3] * 5)
    assert not he.vanished.any()
    assert [(label.names, label.note) for label in forward.labels] == [
        (("he_normal",), ""),
        (("zeros",), "zero throughout"),
    ]
    assert forward.labels[1].end == 0.0


def test_the_layers_from_which_a_signal_is_gone_are_stated() -> None:
    profile = mlp("normal:std=0.01", "tanh", depth=60, width=16)
    forward, _, backward, _ = (panel(ProfileSet((profile,)), row) for row in range(4))
    rms = np.array([site.forward.std for site in profile.with_role("activation")])
    first = int(np.flatnonzero(rms == 0)[0]) + 1
    assert forward.labels[0].note == f"zero at {first}–60"
    rms = np.array([site.backward.rms for site in profile.with_role("pre-activation")])
    assert backward.labels[0].note == f"zero at 1–{int(np.flatnonzero(rms == 0)[-1]) + 1}"


def test_an_overflow_is_stated_with_the_seeds_it_struck() -> None:
    both = ProfileSet((constant(1.0, depth=3, seed=0), constant(math.inf, depth=3, seed=1)))
    for row in (1, 2, 3):
        assert panel(both, row).labels[0].note == "NaN/Inf throughout (1 of 2 seeds)"
        assert panel(both, row).labels[0].end == 1.0


def test_a_curve_that_leaves_its_axis_says_where_it_ends() -> None:
    forward = panel(grid(("he_normal", "normal:std=0.01"), seeds=1, depths=(20,)), 0)
    end = forward.curves[1].center[-1]
    assert forward.scale.clipped
    assert end < forward.scale.low
    assert forward.labels[1].note.startswith("↓")
    assert float(forward.labels[1].note[2:].replace("−", "-")) == pytest.approx(end, rel=0.05)


def test_curves_that_coincide_share_a_label() -> None:
    wide = grid(("he_normal", "xavier_normal", "lecun_normal", "normal:std=0.01"), seeds=1, depths=(10,))
    assert [label.names for label in panel(wide, 0).labels] == [
        ("he_normal",),
        ("xavier_normal", "lecun_normal"),
        ("normal:std=0.01",),
    ]


def test_names_stand_on_the_right_in_the_order_in_which_the_signal_ends() -> None:
    profiles = grid(("he_normal", "xavier_normal"), seeds=1)
    forward, backward = panel(profiles, 0), panel(profiles, 2)
    assert [[label.joined for label in found.labels] for found in (forward, backward)] == [[True] * 2, [False] * 2]
    for found, at in ((forward, -1), (backward, 0)):
        ends = [float(found.scale.fraction(curve.center[at])) for curve in found.curves]
        assert [label.end for label in found.labels] == ends
    for axes in drawn(profiles).axes:
        assert min(text.get_window_extent().x0 for text in axes.texts) > axes.bbox.x1
        assert axes.spines["left"].get_visible()


def test_lines_that_coincide_are_each_seen_and_named() -> None:
    one = mlp(depth=12)
    profiles = ProfileSet.of(replace(one, labels={**one.labels, "initializer": name}) for name in ("a", "b", "c"))
    (label,) = panel(profiles, 0).labels
    assert label.names == ("a", "b", "c")
    axes = drawn(profiles).axes[0]
    assert [text.get_text() for text in axes.texts] == label.texts
    keys = [line for line in axes.lines if not line.get_clip_on() and len(line.get_xdata()) == 3]
    markers = [line for line in axes.lines if line.get_zorder() == 3.2]
    assert [key.get_marker() for key in keys] == [line.get_marker() for line in markers]
    at = [position for line in markers for position in line.get_xdata()]
    assert len(at) == len(set(at)) >= 6


def test_only_what_was_recorded_gets_a_panel() -> None:
    assert [row[0].quantity.reads for row in prepared(CASES["forward only"]()).panels if row[0]] == ["std", "mean"]
    assert [row[0].quantity.reads for row in prepared(CASES["any model"]()).panels if row[0]] == ["std", "mean", "rms"]
    assert prepare_curves(ProfileSet((NetworkProfile(()),))) is None
    assert prepare_curves(ProfileSet(())) is None


def test_depths_in_one_picture_are_lines_of_their_own() -> None:
    assert prepared(CASES["two depths"]()).names == (
        "he_normal, depth 3",
        "default, depth 3",
        "he_normal, depth 5",
        "default, depth 5",
    )


def theory_lines(axes: Axes) -> list[Line2D]:
    return [line for line in axes.lines if line.get_gid() == "expected"]


@pytest.mark.slow
def test_the_prediction_lies_under_every_curve_and_its_band_under_few() -> None:
    one = predicted(mlp(depth=5), times=2.0, log_std=0.5)
    axes = drawn(ProfileSet((one,))).axes
    for number, read in ((0, lambda s: s.forward.std), (1, lambda s: s.forward.mean), (2, lambda s: s.backward.rms)):
        role = "pre-activation" if number == 2 else "activation"
        (line,) = theory_lines(axes[number])
        assert line.get_ydata() == pytest.approx([2 * read(site) for site in one.with_role(role)])
        assert line.is_dashed()
        (curve,) = (entry for entry in axes[number].lines if entry.get_zorder() == 3)
        assert line.get_zorder() < curve.get_zorder()
        assert line.get_linewidth() > 2 * curve.get_linewidth()
        edges = [entry for entry in axes[number].lines if entry.get_zorder() == 1.6]
        limits = [0.02, 1.98] if number == 1 else [math.exp(-0.98), math.exp(0.98)]
        assert [edge.get_ydata()[0] / line.get_ydata()[0] for edge in edges] == pytest.approx(limits)
    assert not theory_lines(axes[3])
    many = ProfileSet.of(predicted(mlp(name, depth=2)) for name in list(INITIALIZERS)[:7])
    assert len(theory_lines(drawn(many).axes[0])) == 7
    assert not [line for line in drawn(many).axes[0].lines if line.get_zorder() == 1.6]


def test_the_header_explains_what_theory_adds_and_only_then() -> None:
    reading = prepared(ProfileSet((predicted(mlp(depth=2)),))).header.reading
    assert "infinite-width theory" in reading
    assert "Grey band" in reading
    assert "95% of networks" in reading
    many = ProfileSet.of(predicted(mlp(name, depth=2)) for name in list(INITIALIZERS)[:7])
    assert "Grey band" not in prepared(many).header.reading
    assert "dashes" in prepared(many).header.reading
    assert "theory" not in prepared(ProfileSet((mlp(depth=2),))).header.reading


def test_the_header_explains_marks_only_where_they_are_drawn() -> None:
    sound = prepared(ProfileSet((mlp(depth=2),))).header.reading
    assert "▼" not in sound
    assert "▲" not in sound
    assert "▼: exactly zero" in prepared(ProfileSet((constant(0.0),))).header.reading
    assert "▲: NaN or Inf" in prepared(ProfileSet((constant(math.nan),))).header.reading


def test_a_reason_for_no_theory_is_a_paragraph_of_its_own() -> None:
    profiles = ProfileSet((predicted(mlp(depth=2)), without_theory(mlp("zeros", depth=2), "the weights are equal")))
    reading = prepared(profiles).header.reading.splitlines()
    assert reading[1:] == ["No theory for zeros: the weights are equal."]


def test_a_prediction_far_from_the_curve_is_in_sight() -> None:
    far = panel(ProfileSet((predicted(mlp(depth=5), times=1e4),)), 0)
    assert far.scale.low < far.curves[0].center.min()
    assert far.scale.high > far.curves[0].expected.max()
    mean = panel(ProfileSet((predicted(mlp(depth=5), times=5.0),)), 1)
    assert mean.scale.high > mean.curves[0].expected.max()


def test_a_prediction_without_a_curve_beside_it_does_not_stretch_the_axis() -> None:
    gone = predicted(constant(0.0, initializer="gone"))
    sites = tuple(replace(site, expected=Expected(forward_std=1e-12, forward_log_std=0.1)) for site in gone.sites)
    both = panel(ProfileSet((mlp(), replace(gone, sites=sites))), 0)
    assert both.scale == panel(ProfileSet((mlp(), constant(0.0, initializer="gone"))), 0).scale


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_case_is_drawn_with_all_text_inside_and_none_overlapping(case: str) -> None:
    figure = drawn(CASES[case]())
    width, height = figure.get_size_inches() * figure.dpi
    found = texts(figure)
    for text, box in found:
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text
    for (text, box), (other, another) in itertools.combinations(found, 2):
        # A pixel of the line spacing may be shared.
        overlap = Bbox.intersection(box, another)
        assert overlap is None or min(overlap.width, overlap.height) < 2, (text, other)


@pytest.mark.slow
def test_every_name_is_written_beside_every_panel() -> None:
    figure = drawn(CASES["sixteen initializers"]())
    for axes in figure.axes:
        written = " ".join(text.get_text() for text in axes.texts).replace("\n", " ").replace(": ", ":")
        for name in INITIALIZERS:
            assert name in written


def test_marks_stand_on_the_edges() -> None:
    figure = drawn(ProfileSet((constant(0.0, initializer="zeros"), constant(math.inf, initializer="ones"))))
    axes = figure.axes[0]
    marks = {line.get_marker(): line.get_ydata()[0] for line in axes.lines if line.get_marker() in ("v", "^")}
    edges = {"v": 0.0, "^": 1.0}
    assert {marker: marks[marker] for marker in edges} == edges


def test_a_mark_stands_where_the_signal_is_first_gone_on_its_way() -> None:
    profile = mlp("normal:std=0.01", "tanh", depth=60, width=16)
    figure = drawn(ProfileSet((profile,)))
    rms = np.array([site.forward.std for site in profile.with_role("activation")])
    back = np.array([site.backward.rms for site in profile.with_role("pre-activation")])
    expected = {0: np.flatnonzero(rms == 0)[0] + 1, 2: np.flatnonzero(back == 0)[-1] + 1}
    for number, position in expected.items():
        (mark,) = (line for line in figure.axes[number].lines if line.get_marker() == "v")
        assert mark.get_xdata()[0] == position
        assert mark.get_markersize() > 5
