"""Names beside the ends of curves, instead of a legend: grouped where curves coincide, and never overlapping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from propscope.plots.scales import Floats
from propscope.plots.style import CHARACTER, LINE_HEIGHT, QUIET, LineStyle, wrap

Side = Literal["left", "right"]

_LEADER = 0.22
_KEY = 0.42
_CHARACTERS = 27


@dataclass(frozen=True, slots=True)
class EndLabel:
    """One label: the `names` of the curves that coincide, a `note` on what the axis does not show, and the `end`.

    `end` is where the first of them meets the side of the panel, as a fraction of its height. `marks`: one a name, ""
    for none; none at all without any.
    """

    names: tuple[str, ...]
    note: str
    end: float
    marks: tuple[str, ...] = ()

    @property
    def rows(self) -> list[str]:
        """The label's text, wrapped."""
        marks = self.marks or ("",) * len(self.names)
        named = (f"{m}\N{NO-BREAK SPACE}{name}" if m else name for m, name in zip(marks, self.names, strict=True))
        text = ", ".join(named) + (f": {self.note}" if self.note else "")
        return wrap(text, _CHARACTERS)


def height_of(labels: Sequence[EndLabel]) -> float:
    """Return the inches that the labels take when stacked without a gap."""
    return LINE_HEIGHT * sum(len(label.rows) + 0.25 for label in labels)


def width_of(labels: Sequence[EndLabel]) -> float:
    """Return the inches that the labels take beside a panel."""
    longest = max((len(row) for label in labels for row in label.rows), default=0)
    return _LEADER + _KEY + 0.12 + CHARACTER * longest


def spread(wanted: Sequence[float], heights: Sequence[float], *, low: float = 0.0, high: float = 1.0) -> Floats:
    """Return the centers of labels that stand as near to where they are `wanted` as they can without overlapping.

    Least squares by pooling adjacent violators, then held between `low` and `high`; shape (n,), in the order given.
    Labels higher than the room in all stand in order from `low` upwards.
    """
    center, height = np.asarray(wanted, dtype=np.float64), np.asarray(heights, dtype=np.float64)
    if not center.size:
        return center
    order = np.argsort(center, kind="stable")
    half = height[order] / 2
    offset = np.concatenate([[0.0], np.cumsum(half[:-1] + half[1:])])
    blocks: list[list[float]] = []
    for value in center[order] - offset:
        blocks.append([value, 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (above, n), (below, m) = blocks.pop(), blocks.pop()
            blocks.append([(above * n + below * m) / (n + m), n + m])
    pooled = np.concatenate([np.full(int(count), value) for value, count in blocks])
    held = np.maximum(np.minimum(pooled, high - half[-1] - offset[-1]), low + half[0])
    result = np.empty_like(center)
    result[order] = held + offset
    return result


def draw_end_labels(axes: Axes, labels: Sequence[EndLabel], styles: Sequence[LineStyle], *, side: Side) -> Axes:
    """Write labels beside an axes, each with a sample of its first curve's line; `styles` are those curves' styles.

    A thin line joins a label to the end of its curve.
    """
    width, height = _inches(axes)
    heights = [LINE_HEIGHT * (len(label.rows) + 0.25) / height for label in labels]
    room = max(0.0, sum(heights) - 1) / 2
    centers = spread([label.end for label in labels], heights, low=-room, high=1 + room)

    def beside(inches: float) -> float:
        return 1 + inches / width if side == "right" else -inches / width

    for label, style, center in zip(labels, styles, centers, strict=True):
        join = ([beside(0.02), beside(_LEADER)], [label.end, center])
        axes.add_line(_beside(axes, join, color=QUIET, linewidth=0.7))
        key = ([beside(_LEADER), beside(_LEADER + _KEY / 2), beside(_LEADER + _KEY)], [center] * 3)
        axes.add_line(_beside(axes, key, markevery=[1], **style.keywords))
        axes.text(
            beside(_LEADER + _KEY + 0.06),
            center,
            "\n".join(label.rows),
            transform=axes.transAxes,
            ha="left" if side == "right" else "right",
            va="center",
            linespacing=1.15,
        )
    return axes


def _beside(axes: Axes, points: tuple[list[float], list[float]], **keywords: object) -> Line2D:
    return Line2D(*points, transform=axes.transAxes, clip_on=False, **keywords)  # type: ignore[arg-type]


def _inches(axes: Axes) -> tuple[float, float]:
    return axes.bbox.width / axes.figure.dpi, axes.bbox.height / axes.figure.dpi
