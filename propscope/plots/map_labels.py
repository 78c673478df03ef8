"""Labels within a map: each stands beside its point, joined by a leader line, and none covers another.

All coordinates are inches from the lower left corner of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from propscope.plots.fast_text import width_of
from propscope.plots.style import LINE_HEIGHT

Box = tuple[float, float, float, float]

_GAP = 0.05
_MARKER = 0.09
_STEP = 0.11


@dataclass(frozen=True, slots=True)
class MapLabel:
    """A label: `rows` of text in a `box` (left, bottom, right, top) for the point (`x`, `y`)."""

    rows: tuple[str, ...]
    x: float
    y: float
    box: Box

    @property
    def leader(self) -> Box:
        """The line from the point to the label, as (x, y, x, y)."""
        left, bottom, right, top = self.box
        end = min(max(self.x, left + _GAP), right - _GAP)
        return self.x, self.y, end, bottom if self.y <= bottom else top if self.y >= top else self.y


def size_of(rows: Sequence[str]) -> tuple[float, float]:
    """Return the width and height of rows of text with a little room around them."""
    return max(map(width_of, rows)) + 0.1, LINE_HEIGHT * len(rows) + 0.06


@dataclass(frozen=True, slots=True)
class _Blocks:
    """What a label must not cover (`solid`) or should not cover (`lines`); a leader must not cross `labels`.

    `waiting` holds the points further left that have no label yet: their leaders need room above them.
    """

    solid: list[Box]
    labels: list[Box]
    lines: list[Box]
    waiting: list[tuple[float, float]]

    def cost(self, one: MapLabel) -> float:
        left, bottom, right, _ = one.box
        covered = sum(10 + _overlap(one.box, box) for box in self.solid if _overlap(one.box, box))
        crossed = sum(_overlap(_corners(one.leader), box) > 0 for box in self.labels)
        roofed = sum(left - _GAP < x < right + _GAP and y < bottom for x, y in self.waiting)
        return covered + 3 * crossed + 2 * roofed + sum(_overlap(one.box, box) > 0 for box in self.lines)


def place_labels(
    points: Sequence[tuple[tuple[str, ...], float, float]],
    width: float,
    height: float,
    *,
    taken: Sequence[Box] = (),
    kept_clear: Sequence[Box] = (),
) -> tuple[MapLabel, ...]:
    """Return a label for each of `points` (rows, x, y) in a map of that size, in the order given.

    Labels are placed from right to left, each as near to its point as there is room. No label covers another label, a
    marker or a box that is `taken`, and no leader crosses a label. Where possible, labels also stay off leaders and the
    boxes to be `kept_clear`. A label without room stands where it covers least.
    """
    markers = [_around(x, y) for _, x, y in points]
    found: dict[int, MapLabel] = {}
    for index in sorted(range(len(points)), key=lambda i: (-points[i][1], -points[i][2])):
        rows, x, y = points[index]
        placed = list(found.values())
        solid = [*taken, *(box for i, box in enumerate(markers) if i != index), *(one.box for one in placed)]
        labels = [*taken, *(one.box for one in placed)]
        lines = [*kept_clear, *(_corners(one.leader) for one in placed)]

        waiting = [(left, bottom) for i, (_, left, bottom) in enumerate(points) if i != index and i not in found]

        blocks = _Blocks(solid, labels, lines, waiting)
        candidates = [MapLabel(rows, x, y, box) for box in _candidates(rows, x, y, width, height)]
        found[index] = min(candidates, key=blocks.cost)
    return tuple(found[index] for index in range(len(points)))


def _candidates(rows: Sequence[str], x: float, y: float, width: float, height: float) -> list[Box]:
    """Return possible boxes within the map, nearest first, since `min` keeps the first of equals."""
    wide, high = size_of(rows)
    boxes = []
    for step in range(60):
        for bottom in (y + _MARKER + _GAP + step * _STEP, y - _MARKER - _GAP - high - step * _STEP):
            if bottom < _GAP or bottom + high > height - _GAP:
                continue
            # To the right of its point, then to the left of it.
            for wanted in (x - 2 * _GAP, x + 2 * _GAP - wide):
                left = min(max(wanted, _GAP), max(_GAP, width - wide - _GAP))
                boxes.append((left, bottom, left + wide, bottom + high))
        # Beside it, where that is within the map.
        beside = 4 * _GAP + step * _STEP
        sides = (x + beside, x - beside - wide) if _GAP <= y - high / 2 <= height - high - _GAP else ()
        boxes += [
            (left, y - high / 2, left + wide, y + high / 2) for left in sides if _GAP <= left <= width - wide - _GAP
        ]
    return boxes or [(_GAP, _GAP, _GAP + wide, _GAP + high)]


def _around(x: float, y: float) -> Box:
    return x - _MARKER, y - _MARKER, x + _MARKER, y + _MARKER


def _corners(line: Box) -> Box:
    return min(line[0], line[2]) - 0.01, min(line[1], line[3]), max(line[0], line[2]) + 0.01, max(line[1], line[3])


def _overlap(one: Box, other: Box) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0]) + _GAP / 2
    upwards = min(one[3], other[3]) - max(one[1], other[1]) + _GAP / 2
    return across * upwards if across > 0 and upwards > 0 else 0.0
