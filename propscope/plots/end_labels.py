"""Names beside the ends of curves, instead of a legend: grouped where curves coincide, and never overlapping."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from propscope.plots.scales import Floats
from propscope.plots.style import CHARACTER, LINE_HEIGHT, QUIET, Header, LineStyle, draw_header, wrap

Side = Literal["left", "right"]
Key = TypeVar("Key")
Panel = TypeVar("Panel", bound="LabelledPanel")

_LEADER = 0.22
_KEY = 0.42
_CHARACTERS = 27
# Curves nearer to each other than this share of the panel's height, everywhere, cannot be told apart.
_COINCIDE = 0.02
# Inches of a panel, and around it.
_WIDTH = 3.8
_TICKS = 0.95
_BELOW = 0.62
_GAP = 0.2


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


def coinciding(curves: Iterable[tuple[str, Key, Floats]]) -> list[tuple[tuple[str, ...], Key, Floats]]:
    """Return the curves (name, key, heights), those with the same key together that cannot be told apart.

    `heights` are fractions of the panel's height; those of the first curve stand for all of its group.
    """
    groups: list[tuple[list[str], Key, Floats]] = []
    for name, key, heights in curves:
        for names, its_key, at in groups:
            same = key == its_key and at.shape == heights.shape
            if same and np.allclose(heights, at, rtol=0, atol=_COINCIDE, equal_nan=True):
                names.append(name)
                break
        else:
            groups.append(([name], key, heights))
    return [(tuple(names), key, at) for names, key, at in groups]


class LabelledPanel(Protocol):
    """What is drawn into one axes, with `labels` beside it at a `side`."""

    @property
    def labels(self) -> tuple[EndLabel, ...]:
        """The labels of its curves."""

    @property
    def side(self) -> Side:
        """The side at which the labels stand."""


def labelled_panels(
    figure: Figure, header: Header, rows: Sequence[Sequence[Panel | None]], *, least: float, above: float
) -> Iterator[tuple[Axes, Panel]]:
    """Size a figure for rows of panels with labels beside them, write its header, and yield an axes for each panel.

    A row is `least` inches high, or as high as its labels; `above` is the room for the panels' titles, in inches.
    """
    margin = max(width_of(panel.labels) for row in rows for panel in row if panel)
    cell = _TICKS + _WIDTH + margin + _GAP
    heights = [max([least, *(height_of(panel.labels) for panel in row if panel)]) for row in rows]
    width = cell * max(map(len, rows)) + _GAP
    top = header.height(width)
    height = top + sum(heights) + len(rows) * (above + _BELOW)
    figure.set_size_inches(width, height)
    draw_header(figure, header)
    bottom = height - top
    for row, tall in zip(rows, heights, strict=True):
        bottom -= above + tall
        for index, panel in enumerate(row):
            if panel is not None:
                left = _GAP + cell * index + (_TICKS if panel.side == "right" else margin)
                yield figure.add_axes((left / width, bottom / height, _WIDTH / width, tall / height)), panel
        bottom -= _BELOW


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
