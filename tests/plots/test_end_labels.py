from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propscope.plots.end_labels import EndLabel, coinciding, height_of, spread, width_of


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
    assert " ".join(label.rows) == "xavier_normal, lecun_normal"
    noted = EndLabel(("zeros",), "zero throughout", 0.0)
    assert noted.rows == ["zeros: zero throughout"]
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
