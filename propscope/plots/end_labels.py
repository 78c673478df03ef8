"""Names beside the ends of curves in place of a legend: curves that coincide share one, and names never overlap."""

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
# Curves that are everywhere nearer than this share of the panel's height cannot be told apart.
_COINCIDE = 0.02
# A panel's width and the margins around it, in inches.
_WIDTH = 3.8
_TICKS = 0.95
_BELOW = 0.62
_GAP = 0.2


@dataclass(frozen=True, slots=True)
class EndLabel:
    """One label: the `names` of curves that coincide, and a `note` on what the axis does not show.

    `end` is the height at which the first curve meets the side of the panel, as a fraction of the panel's height.
    `marks` has one verdict mark per name ("" for healthy), or is empty.
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
    """Return the height in inches of the labels stacked without a gap."""
    return LINE_HEIGHT * sum(len(label.rows) + 0.25 for label in labels)


def width_of(labels: Sequence[EndLabel]) -> float:
    """Return the width in inches that the labels take beside a panel."""
    longest = max((len(row) for label in labels for row in label.rows), default=0)
    return _LEADER + _KEY + 0.12 + CHARACTER * longest


def spread(wanted: Sequence[float], heights: Sequence[float], *, low: float = 0.0, high: float = 1.0) -> Floats:
    """Return centers of labels that do not overlap and are as near as possible to where they are `wanted`.

    Shape (n,), in the order given. The centers minimize the squared distances (pool-adjacent-violators algorithm) and
    are then moved between `low` and `high`. Labels that need more room than that stand in order from `low` upwards.
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
    clamped = np.maximum(np.minimum(pooled, high - half[-1] - offset[-1]), low + half[0])
    result = np.empty_like(center)
    result[order] = clamped + offset
    return result


def coinciding(curves: Iterable[tuple[str, Key, Floats]]) -> list[tuple[tuple[str, ...], Key, Floats]]:
    """Group curves (name, key, heights) that have the same key and cannot be told apart in a panel.

    `heights` are fractions of the panel's height. Return the names, the key and the first curve's heights of each
    group.
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
    """A record that is drawn into one axes, with labels beside it."""

    @property
    def labels(self) -> tuple[EndLabel, ...]:
        """The labels of the curves."""

    @property
    def side(self) -> Side:
        """The side on which the labels stand."""


def labelled_panels(
    figure: Figure,
    header: Header,
    rows: Sequence[Sequence[Panel | None]],
    *,
    least: float,
    above: float,
    across: float = _WIDTH,
    below_header: float = 0.0,
) -> Iterator[tuple[Axes, Panel]]:
    """Set the figure's size for rows of labelled panels, write the header and yield an axes for each panel.

    A row is at least `least` inches high, and as high as its labels. `above` is the room in inches for panel titles,
    `across` the width of a panel, and `below_header` the room that is left there.
    """
    margin = max(width_of(panel.labels) for row in rows for panel in row if panel)
    cell = _TICKS + across + margin + _GAP
    heights = [max([least, *(height_of(panel.labels) for panel in row if panel)]) for row in rows]
    width = cell * max(map(len, rows)) + _GAP
    top = header.height(width) + below_header
    height = top + sum(heights) + len(rows) * (above + _BELOW)
    figure.set_size_inches(width, height)
    draw_header(figure, header)
    bottom = height - top
    for row, tall in zip(rows, heights, strict=True):
        bottom -= above + tall
        for index, panel in enumerate(row):
            if panel is not None:
                left = _GAP + cell * index + (_TICKS if panel.side == "right" else margin)
                yield figure.add_axes((left / width, bottom / height, across / width, tall / height)), panel
        bottom -= _BELOW


def draw_end_labels(axes: Axes, labels: Sequence[EndLabel], styles: Sequence[LineStyle], *, side: Side) -> Axes:
    """Write labels beside an axes, each with a sample of its first curve's line and a thin line to the curve's end.

    `styles` holds the style of each label's first curve.
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
