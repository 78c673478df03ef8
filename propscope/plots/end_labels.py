"""Names beside the ends of curves in place of a legend: those of curves that coincide stand together, none overlap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Affine2D, ScaledTranslation, blended_transform_factory

from propscope.plots import fast_text
from propscope.plots.scales import Floats
from propscope.plots.style import (
    LINE_HEIGHT,
    QUIET,
    SCREEN,
    Header,
    Legend,
    LineStyle,
    Look,
    extent_of,
    framed,
    unit,
    units_of,
    wrap,
)

Key = TypeVar("Key")
Panel = TypeVar("Panel", bound="LabelledPanel")

_LEADER = 0.22
_KEY = 0.42
_CHARACTERS = 27
# Curves that are everywhere nearer than this share of the panel's height cannot be told apart.
_COINCIDE = 0.02
# A panel's width and the margins around it, in units.
_WIDTH = 4.3
_TICKS = 0.92
_BELOW = 0.62
_GAP = 0.2
_PITCH = 1.1 * LINE_HEIGHT


@dataclass(frozen=True, slots=True)
class EndLabel:
    """One label: the `names` of curves that coincide, and a `note` on what the axis does not show.

    `end` is the height at which the curves leave the panel, as a fraction of its height; the label stands near it.
    `joined`: whether they do so on the side of the label, to which a line leads. `marks` has one verdict mark per name
    ("" for healthy), or is empty.
    """

    names: tuple[str, ...]
    note: str
    end: float
    marks: tuple[str, ...] = ()
    joined: bool = True

    @property
    def texts(self) -> list[str]:
        """The text of each name: its mark, the name and the note."""
        marks = self.marks or ("",) * len(self.names)
        named = (f"{m}\N{NO-BREAK SPACE}{name}" if m else name for m, name in zip(marks, self.names, strict=True))
        return [text + (f": {self.note}" if self.note else "") for text in named]

    @property
    def rows(self) -> list[list[str]]:
        """The text of each name, wrapped."""
        return [wrap(text, _CHARACTERS) for text in self.texts]


def height_of(labels: Sequence[EndLabel]) -> float:
    """Return the height in units of the labels stacked without a gap."""
    return sum(map(_height, labels))


def _height(label: EndLabel) -> float:
    return _PITCH * sum(map(len, label.rows)) + 0.2 * LINE_HEIGHT


def width_of(labels: Sequence[EndLabel]) -> float:
    """Return the width in units that the labels take beside a panel."""
    rows = [row for label in labels for name in label.rows for row in name]
    return _LEADER + _KEY + 0.14 + max(map(fast_text.width_of, rows), default=0.0)


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


def markers_in_turn(labels: Sequence[EndLabel], names: Sequence[str], points: int, at_most: int) -> dict[str, slice]:
    """Return which of its points each line marks, at most so many: lines that coincide in turn, so that each is seen.

    `names`: of all lines, in order, of `points` points each. A line whose turn comes behind the last point marks that.
    """
    together = {name: label.names for label in labels for name in label.names}
    found = {}
    for number, name in enumerate(names):
        group = together[name]
        step = max(-(-points // at_most), len(group), 1)
        start = number if len(group) == 1 else group.index(name) * step // len(group)
        found[name] = slice(min(start % step, max(points - 1, 0)), None, step)
    return found


class LabelledPanel(Protocol):
    """A record that is drawn into one axes, with labels beside it."""

    @property
    def labels(self) -> tuple[EndLabel, ...]:
        """The labels of the curves."""


def labelled_panels(
    figure: Figure,
    header: Header,
    rows: Sequence[Sequence[Panel | None]],
    *,
    least: float,
    above: float,
    across: float = _WIDTH,
    notes: Sequence[str] = (),
    look: Look = SCREEN,
    styles: Mapping[str, LineStyle] = MappingProxyType({}),
) -> Iterator[tuple[Axes, Panel]]:
    """Set the figure's size for rows of labelled panels, write the header and yield an axes for each panel.

    A row is at least `least` units high, and as high as its labels. `above` is the room in units for panel titles,
    `across` the width of a panel, unless the look says how wide the figure is: then the panels stand one below the
    other, and fill it. `notes`: rows of text below the panels. `styles`: of the lines that are named below all panels.
    """
    if look.units is not None:
        rows = [[panel] for row in rows for panel in row if panel is not None]
    columns = [[row[at] for row in rows if at < len(row)] for at in range(max(map(len, rows)))]
    beside = [max(width_of(panel.labels) if look.beside else 0.1 for panel in each if panel) for each in columns]
    if look.units is not None:
        across = max(look.units - _TICKS - beside[0] - 2 * _GAP, 1.0)
    lefts = [_GAP + _TICKS + at * (_TICKS + across + _GAP) + sum(beside[:at]) for at in range(len(columns))]
    heights = [
        max([least, *(height_of(panel.labels) for panel in row if panel)]) if look.beside else least for row in rows
    ]
    width = look.units or lefts[-1] + across + beside[-1] + _GAP
    legend = _flow(styles, width - 0.2) if look.legend == "below" else []
    inner = sum(heights) + len(rows) * (above + _BELOW) + _PITCH * len(legend)
    bottom = framed(figure, header, width, inner, notes=notes)
    height = units_of(figure)[1]
    for row, tall in zip(rows, heights, strict=True):
        bottom -= above + tall
        for left, panel in zip(lefts, row, strict=False):
            if panel is not None:
                yield figure.add_axes((left / width, bottom / height, across / width, tall / height)), panel
        bottom -= _BELOW
    for number, names in enumerate(legend, start=1):
        left, at = 0.1, (bottom - (number - 0.6) * _PITCH) / height
        for name in names:
            ends = [(left + x) / width for x in (0, _KEY / 2, _KEY)]
            figure.add_artist(Line2D(ends, [at] * 3, markevery=[1], **styles[name].keywords))
            figure.text((left + _KEY + 0.06) / width, at, name, va="center")
            left += _taken(name)


def _flow(names: Iterable[str], width: float) -> list[list[str]]:
    """Return the names in rows as the keys of a legend fill them."""
    rows: list[list[str]] = [[]]
    for name in names:
        if rows[-1] and sum(map(_taken, (*rows[-1], name))) > width:
            rows.append([])
        rows[-1].append(name)
    return rows


def _taken(name: str) -> float:
    return _KEY + 0.2 + fast_text.width_of(name)


def draw_names(
    axes: Axes,
    labels: Sequence[EndLabel],
    styles: Mapping[str, LineStyle],
    legend: Legend,
    unlabelled: Sequence[str] = (),
) -> Axes:
    """Write the names of the lines of an axes beside it, or in a legend within it or below it, each with its key.

    `unlabelled`: names that stand in a legend alone.
    """
    if legend == "beside":
        return draw_end_labels(axes, labels, styles)
    if legend != "none":
        named = [(name, text) for label in labels for name, text in zip(label.names, label.texts, strict=True)]
        named += [(name, name) for name in unlabelled]
        keys, texts = [Line2D([], [], **styles[name].keywords) for name, _ in named], [text for _, text in named]
        if legend == "inside":
            axes.legend(keys, texts)
        else:
            axes.legend(keys, texts, loc="upper left", bbox_to_anchor=(0, -0.22), borderaxespad=0, ncols=2)
    return axes


def draw_end_labels(axes: Axes, labels: Sequence[EndLabel], styles: Mapping[str, LineStyle]) -> Axes:
    """Write labels to the right of an axes: each name with a sample of its line, and a thin line to the curves' end.

    A bar joins the names of curves that coincide.
    """
    height = extent_of(axes)[1]
    heights = [_height(label) / height for label in labels]
    room = max(0.0, sum(heights) - 1) / 2
    centers = spread([label.end for label in labels], heights, low=-room, high=1 + room)

    # Beside the axes by so many units, wherever a layout puts it.
    figure = axes.figure
    rightwards = Affine2D().scale(unit()) + figure.dpi_scale_trans + ScaledTranslation(1, 0, axes.transAxes)  # type: ignore[arg-type]
    place = blended_transform_factory(rightwards, axes.transAxes)

    def line(points: tuple[list[float], list[float]], **keywords: Any) -> None:
        axes.add_line(Line2D(*points, transform=place, clip_on=False, **keywords))

    for label, center in zip(labels, centers, strict=True):
        top = center + _PITCH * sum(map(len, label.rows)) / 2 / height
        middles = []
        for name, rows in zip(label.names, label.rows, strict=True):
            middles.append(top - _PITCH * len(rows) / 2 / height)
            top -= _PITCH * len(rows) / height
            key = ([_LEADER, _LEADER + _KEY / 2, _LEADER + _KEY], [middles[-1]] * 3)
            line(key, markevery=[1], **styles[name].keywords)
            at = (_LEADER + _KEY + 0.06, middles[-1])
            axes.text(*at, "\n".join(rows), transform=place, va="center", linespacing=1.15)
        bar = ([_LEADER] * 2, [middles[0], middles[-1]])
        join = ([0.02, _LEADER], [label.end, center])
        for points in (*([bar] if len(middles) > 1 else ()), *([join] if label.joined else ())):
            line(points, color=QUIET, linewidth=0.7)
    return axes
