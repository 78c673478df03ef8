from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from propscope.plots.end_labels import EndLabel, coinciding, draw_names, height_of, markers_in_turn, spread, width_of
from propscope.plots.style import line_styles


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 0.1)), min_size=1, max_size=10))
def test_labels_never_overlap_and_stay_inside(wanted: list[tuple[float, float]]) -> None:
    ends, heights = [end for end, _ in wanted], [height for _, height in wanted]
    centers = spread(ends, heights)
    order = np.argsort(centers)
    lower = (centers - np.array(heights) / 2)[order]
    upper = (centers + np.array(heights) / 2)[order]
    assert lower[0] >= -1e-9
    assert upper[-1] <= 1 + 1e-9
    assert (upper[:-1] <= lower[1:] + 1e-9).all()


def test_labels_with_room_stay_where_they_are_wanted() -> None:
    assert spread([0.5, 0.2, 0.8], [0.1, 0.1, 0.1]) == pytest.approx([0.5, 0.2, 0.8])


def test_labels_that_meet_share_the_shift() -> None:
    assert spread([0.5, 0.5], [0.1, 0.1]) == pytest.approx([0.45, 0.55])
    assert spread([0.0, 0.0, 1.0], [0.2, 0.2, 0.2]) == pytest.approx([0.1, 0.3, 0.9])
    assert spread([], []).size == 0


def test_a_label_states_its_names_and_note() -> None:
    label = EndLabel(("xavier_normal", "lecun_normal"), "", 0.5)
    assert label.rows == [["xavier_normal"], ["lecun_normal"]]
    noted = EndLabel(("zeros", "sparse"), "zero throughout", 0.0)
    assert noted.rows == [["zeros: zero throughout"], ["sparse: zero throughout"]]
    assert height_of([label, noted]) > height_of([noted])
    assert width_of([noted]) > width_of([])


def test_curves_that_coincide_share_a_group_where_their_keys_agree() -> None:
    flat, near, low = np.array([0.5, 0.5]), np.array([0.51, np.nan]), np.array([0.1, 0.1])
    near_flat = np.array([0.51, 0.49])
    curves = [("a", "", flat), ("b", "", near_flat), ("c", "zero", flat), ("d", "", low), ("e", "", near)]
    groups = coinciding([*curves, ("f", "", near.copy()), ("g", "", flat[:1])])
    assert [(names, key) for names, key, _ in groups] == [
        (("a", "b"), ""),
        (("c",), "zero"),
        (("d",), ""),
        (("e", "f"), ""),
        (("g",), ""),
    ]
    assert groups[0][2] is flat


NAMES = ("he_normal", "xavier_normal", "zeros")
LABELS = (EndLabel(NAMES[:2], "", 0.9), EndLabel(NAMES[2:], "zero throughout", 0.0, joined=False))


def keys_of(axes: Axes) -> list[tuple[object, object]]:
    return [(line.get_color(), line.get_marker()) for line in axes.lines if len(line.get_xdata()) == 3]


def test_each_name_has_the_key_of_its_own_line() -> None:
    styles = line_styles(NAMES)
    axes = Figure().add_subplot()
    draw_names(axes, LABELS, styles, "beside")
    assert [text.get_text() for text in axes.texts] == ["he_normal", "xavier_normal", "zeros: zero throughout"]
    assert keys_of(axes) == [(style.colour, style.marker) for style in styles.values()]
    heights = [text.get_position()[1] for text in axes.texts]
    assert heights == sorted(heights, reverse=True)
    # A bar joins the two, a line leads to them, and none to the third.
    assert sum(len(line.get_xdata()) == 2 for line in axes.lines) == 2


def test_a_legend_within_the_axes_names_every_line() -> None:
    styles = line_styles(NAMES)
    axes = Figure().add_subplot()
    draw_names(axes, LABELS, styles, "inside")
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [text for label in LABELS for text in label.texts]
    assert [line.get_marker() for line in legend.get_lines()] == [style.marker for style in styles.values()]
    assert draw_names(Figure().add_subplot(), LABELS, styles, "none").get_legend() is None


def test_lines_that_coincide_mark_points_in_turn() -> None:
    names = ("a", "b", "c", "alone")
    labels = (EndLabel(names[:3], "", 0.5), EndLabel(names[3:], "", 0.1))
    marked = {name: list(range(12))[where] for name, where in markers_in_turn(labels, names, 12, 4).items()}
    assert marked == {"a": [0, 3, 6, 9], "b": [1, 4, 7, 10], "c": [2, 5, 8, 11], "alone": [0, 3, 6, 9]}
    assert markers_in_turn(labels[1:], names[3:], 1, 6) == {"alone": slice(0, None, 1)}


def test_each_of_many_lines_that_coincide_at_few_points_marks_one() -> None:
    names = tuple("abcdef")
    marked = markers_in_turn([EndLabel(names, "", 0.5)], names, 2, 4)
    assert all(list(range(2))[where] for where in marked.values())
