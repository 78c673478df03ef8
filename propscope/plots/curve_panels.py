"""How curves are drawn: panels with names beside the ends of the lines."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from propscope.plots.curves import BANDS_AT_MOST, Curves, Panel
from propscope.plots.end_labels import draw_end_labels, height_of, width_of
from propscope.plots.quantities import Curve, Floats
from propscope.plots.style import DPI, INK, QUIET, LineStyle, draw_header, line_style

_WIDTH = 3.8
_HEIGHT = 2.5
_TICKS = 0.95
_BELOW = 0.62
_ABOVE = 0.42
_COLUMN_NAME = 0.2
_GAP = 0.2
# More markers than this on a line would hide its dashes.
_MARKERS = 6


def draw_curves(prepared: Curves, figure: Figure | None = None) -> Figure:
    """Draw panels into a figure, whose size it sets, or a new one; those of one activation stand two by two."""
    figure = figure or Figure(dpi=DPI)
    rows = prepared.panels
    if len(rows[0]) == 1:
        flat = [row[0] for row in rows]
        rows = tuple(tuple(flat[i : i + 2]) for i in range(0, len(flat), 2))
    panels = [panel for row in rows for panel in row if panel is not None]
    margin = max(width_of(panel.labels) for panel in panels)
    cell = _TICKS + _WIDTH + margin + _GAP
    above = _ABOVE + (_COLUMN_NAME if any(panel.column for panel in panels) else 0.0)
    heights = [max([_HEIGHT, *(height_of(panel.labels) for panel in row if panel)]) for row in rows]
    width = cell * max(map(len, rows)) + _GAP
    top = prepared.header.height(width)
    height = top + sum(heights) + len(rows) * (above + _BELOW)
    figure.set_size_inches(width, height)
    draw_header(figure, prepared.header)
    styles = {name: line_style(index) for index, name in enumerate(prepared.names)}
    bottom = height - top
    for row, tall in zip(rows, heights, strict=True):
        bottom -= above + tall
        for index, panel in enumerate(row):
            if panel is None:
                continue
            left = _GAP + cell * index + (_TICKS if panel.side == "right" else margin)
            axes = figure.add_axes((left / width, bottom / height, _WIDTH / width, tall / height))
            draw_panel(axes, panel, styles)
        bottom -= _BELOW
    return figure


def draw_panel(axes: Axes, panel: Panel, styles: dict[str, LineStyle]) -> Axes:
    """Draw the curves of one panel into an axes, with their names beside it; `styles` by curve name."""
    quantity = panel.quantity
    panel.scale.apply(axes)
    axes.grid(axis="y")
    if panel.scale.kind != "log":
        axes.axhline(0, color="#9a9a9a", linewidth=0.8, zorder=1)
    marks: Counter[tuple[int, str]] = Counter()
    # The first curve of a label is the one that the label shows: it lies on top of those it coincides with.
    leaders = {label.names[0] for label in panel.labels}
    for number, curve in enumerate(panel.curves):
        _draw_curve(axes, panel, curve, styles[curve.name], number, on_top=curve.name in leaders)
        _draw_expected(axes, panel, curve, styles[curve.name])
        _draw_marks(axes, panel, curve, styles[curve.name], marks)
    positions = np.concatenate([curve.positions for curve in panel.curves])
    first, last = int(positions.min()), int(positions.max())
    room = 0.5 if first == last else 0.03 * (last - first)
    axes.set_xlim(first - room, last + room)
    axes.set_xticks(position_ticks(first, last))
    way = "signal travels →" if quantity.travels == "up" else "← gradient travels"
    axes.set_xlabel(f"{panel.axis}    {way}")
    role = "" if panel.subject != "site" else " (every site)"
    title = f"{quantity.subject}{role}, {quantity.field.label}"
    # Towards the side of the names, where there is room for a long title.
    loc: Literal["left", "right"] = "left" if panel.side == "right" else "right"
    axes.set_title("\n".join(filter(None, (panel.column, title))), pad=8, loc=loc)
    axes.set_ylabel(f"${quantity.symbol}$", fontsize=12)
    if panel.side == "left":
        axes.yaxis.tick_right()
        axes.yaxis.set_label_position("right")
        axes.spines["left"].set_visible(False)
        axes.spines["right"].set_visible(True)
    draw_end_labels(axes, panel.labels, [styles[label.names[0]] for label in panel.labels], side=panel.side)
    return axes


def position_ticks(first: int, last: int) -> list[int]:
    """Return at most 9 whole positions to mark: the first one, and multiples of 1, 2, 5, 10, ... after it."""
    steps = (digit * 10**power for power in range(7) for digit in (1, 2, 5))
    step = next((step for step in steps if (last - first) / step <= 6), last - first)
    return [first, *(tick for tick in range(0, last + 1, step) if tick > first + step / 2)]


def _draw_curve(axes: Axes, panel: Panel, curve: Curve, style: LineStyle, number: int, *, on_top: bool) -> None:
    drawable = panel.quantity.drawable(curve.center)
    center = np.where(drawable, curve.center, np.nan)
    step = max(1, -(-curve.positions.size // _MARKERS))
    axes.plot(
        curve.positions,
        center,
        markevery=(number % step, step) if on_top else [],
        zorder=3 if on_top else 2.5,
        **style.keywords,
    )
    low, high = _between(panel, drawable, curve.low, curve.high)
    if not np.isnan(low).all():
        shade = 0.2 if len(panel.curves) <= BANDS_AT_MOST else 0.11
        axes.fill_between(curve.positions, low, high, color=style.colour, alpha=shade, linewidth=0, zorder=2)


def _draw_expected(axes: Axes, panel: Panel, curve: Curve, style: LineStyle) -> None:
    """Draw what theory expects, over the curve, and where few lines leave room the band of single networks."""
    drawable = panel.quantity.drawable(curve.expected)
    if not drawable.any():
        return
    expected = np.where(drawable, curve.expected, np.nan)
    # Below the curve in its colour, which tells whose it is where the two part.
    axes.plot(curve.positions, expected, color=style.colour, linewidth=0.9, alpha=0.6, zorder=2.4)
    axes.plot(curve.positions, expected, color=INK, linewidth=0.9, linestyle=(0, (4, 4)), zorder=4)
    low, high = _between(panel, drawable, curve.expected_low, curve.expected_high)
    if panel.straying and not np.isnan(low).all():
        axes.fill_between(curve.positions, low, high, color=QUIET, alpha=0.12, linewidth=0, zorder=1.5)
        for edge in (low, high):
            axes.plot(curve.positions, edge, color=QUIET, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1.6)


def _between(panel: Panel, drawable: NDArray[np.bool_], low: Floats, high: Floats) -> tuple[Floats, Floats]:
    banded = drawable & np.isfinite(low) & np.isfinite(high)
    # A logarithmic axis has no place for the 0 that a vanished seed makes the lower limit.
    floor = low if panel.quantity.signed else np.maximum(low, 1e-300)
    return np.where(banded, floor, np.nan), np.where(banded, high, np.nan)


def _draw_marks(axes: Axes, panel: Panel, curve: Curve, style: LineStyle, marks: Counter[tuple[int, str]]) -> None:
    """Mark where a curve first is zero or not finite, with a dotted line from where it was last seen."""
    backwards = panel.quantity.travels == "down"
    for counts, marker, edge in ((curve.vanished, "v", 0.0), (curve.nonfinite, "^", 1.0)):
        at = np.flatnonzero(counts)
        if not at.size:
            continue
        met = int(at[-1] if backwards else at[0])
        before = met + 1 if backwards else met - 1
        position = int(curve.positions[met])
        stacked = marks[position, marker]
        marks[position, marker] += 1
        axes.plot(
            [position],
            [abs(edge - 0.05 * stacked)],
            transform=axes.get_xaxis_transform(),
            marker=marker,
            markersize=9,
            color=style.colour,
            markeredgecolor="white",
            clip_on=False,
            zorder=6,
        )
        if 0 <= before < curve.center.size and np.isfinite(curve.center[before]):
            goal = panel.scale.low if edge == 0 else panel.scale.high
            points = ([curve.positions[before], position], [curve.center[before], goal])
            axes.plot(*points, color=style.colour, linestyle=":", linewidth=1.2, zorder=2)
