from __future__ import annotations

import itertools

import numpy as np
import pytest

from propscope.plots.map_labels import MapLabel, place_labels, size_of


def overlap(one, other) -> bool:
    return min(one[2], other[2]) > max(one[0], other[0]) and min(one[3], other[3]) > max(one[1], other[1])


def names(count):
    return [(f"initializer_{i}",) for i in range(count)]


@pytest.mark.parametrize(
    "places",
    [
        [(x, 0.0) for x in (0.0, 0.1, 0.3, 0.35, 1.6, 3.2, 6.6)],
        [(2.0, 0.0), (2.1, 0.0), (2.2, 0.0), (6.6, 4.6), (0.0, 4.6), (6.5, 4.6)],
        [(float(x), float(y)) for x, y in np.random.default_rng(0).uniform((0, 0), (6.6, 4.6), (9, 2))],
    ],
    ids=["along the edge", "corners", "anywhere"],
)
def test_no_label_lies_on_another_or_on_a_marker_and_all_are_within(places) -> None:
    points = [(rows, x, y) for rows, (x, y) in zip(names(len(places)), places, strict=True)]
    labels = place_labels(points, 6.6, 4.6, taken=[(3.0, 2.0, 4.0, 2.4)])
    assert [(one.rows, one.x, one.y) for one in labels] == points
    for one, other in itertools.combinations([(3.0, 2.0, 4.0, 2.4), *(one.box for one in labels)], 2):
        assert not overlap(one, other)
    for one in labels:
        left, bottom, right, top = one.box
        assert 0 <= left < right <= 6.6
        assert 0 <= bottom < top <= 4.6
        assert (right - left, top - bottom) == pytest.approx(size_of(one.rows))
        for x, y in places:
            assert not overlap(one.box, (x - 0.05, y - 0.05, x + 0.05, y + 0.05))


def test_a_label_alone_is_near_its_point_and_joined_to_it() -> None:
    (one,) = place_labels([(("a", "bc"), 3.0, 1.0)], 6.6, 4.6)
    assert one.box[1] - 1.0 < 0.2
    x, y, end_x, end_y = one.leader
    assert (x, y) == (3.0, 1.0)
    assert one.box[0] <= end_x <= one.box[2]
    assert end_y == one.box[1]


def test_what_is_to_be_kept_clear_is_where_there_is_room() -> None:
    kept = [(2.9, 1.0 + 0.1 * i, 3.5, 1.1 + 0.1 * i) for i in range(1, 10)]
    (one,) = place_labels([(("name",), 3.0, 1.0)], 6.6, 4.6, kept_clear=kept)
    assert not any(overlap(one.box, box) for box in kept)


def test_a_map_without_room_still_gets_its_labels() -> None:
    labels = place_labels([(("a name too long for the map",), 0.1, 0.1)] * 3, 0.5, 0.3)
    assert len(labels) == 3


def test_the_leader_of_a_label_beside_its_point_is_level() -> None:
    assert MapLabel(("a",), 1.0, 1.0, (2.0, 0.9, 3.0, 1.1)).leader == (1.0, 1.0, 2.05, 1.0)
    assert MapLabel(("a",), 2.5, 2.0, (2.0, 0.9, 3.0, 1.1)).leader == (2.5, 2.0, 2.5, 1.1)
