"""How a grid of histograms is drawn: one axes in inches and a few collections, since 160 axes would take seconds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from propscope.plots.fast_text import Lettering, draw_lettering
from propscope.plots.histogram_cells import Cell
from propscope.plots.histograms import HistogramGrid
from propscope.plots.style import (
    ALARM,
    CHARACTER,
    DPI,
    FAINT,
    INK,
    LINE_HEIGHT,
    QUIET,
    draw_header,
    wrap,
)

Points = NDArray[np.float64]

WIDTH = 1.62
GAP = 0.22
_SHAPE = 0.5
_BETWEEN_ROWS = 0.16
_NAME_CHARACTERS = 19
_RIGHT = 0.25
_HEADINGS = 0.3
_TICKS = 0.62
_LEAST_WIDTH = 9.5
_ZERO_BAR = 0.05
# Bold letters are that much wider.
_BOLD = 1.13


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a cell stands: the `left` end of its base line and the line's height `base`, in inches."""

    cell: Cell
    left: float
    base: float


def draw_histograms(prepared: HistogramGrid, figure: Figure | None = None) -> Figure:
    """Draw a grid into a figure, whose size it sets, or a new one."""
    figure = figure or Figure(dpi=DPI)
    names = [wrap(name, _NAME_CHARACTERS) for name in prepared.rows]
    margin = 0.45 + _BOLD * CHARACTER * max(len(row) for rows in names for row in rows)
    content = margin + len(prepared.columns) * (WIDTH + GAP) + _RIGHT
    width = max(_LEAST_WIDTH, content)
    top = prepared.header.height(width)
    pitch = row_height(prepared)
    height = top + _HEADINGS + pitch * len(prepared.rows) + _TICKS
    figure.set_size_inches(width, height)
    draw_header(figure, prepared.header)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    places = [
        _Place(cell, margin + column * (WIDTH + GAP), height - top - _HEADINGS - (row + 1) * pitch)
        for row, cells in enumerate(prepared.cells)
        for column, cell in enumerate(cells)
    ]
    _draw_cells(axes, prepared, places)
    draw_lettering(axes, [_lettering(place) for place in places])
    for row, name in enumerate(names):
        middle = height - top - _HEADINGS - (row + 0.5) * pitch
        axes.text(0.2, middle, "\n".join(name), va="center", weight="bold", linespacing=1.2)
    _draw_margins(axes, prepared, margin, height - top)
    return figure


def row_height(prepared: HistogramGrid) -> float:
    """Return the inches from one row to the next."""
    texts = max(len(cell.rows) for row in prepared.cells for cell in row)
    names = max(len(wrap(name, _NAME_CHARACTERS)) for name in prepared.rows)
    return max(_SHAPE + LINE_HEIGHT * texts + 0.08, LINE_HEIGHT * names) + _BETWEEN_ROWS


def _lettering(place: _Place) -> Lettering:
    broken = place.cell.nan or place.cell.inf
    colour = ALARM if broken else INK if place.cell.seen else QUIET
    return Lettering(place.left, place.base + _SHAPE + 0.08, place.cell.rows, colour)


def _draw_cells(axes: Axes, prepared: HistogramGrid, places: list[_Place]) -> None:
    mirrored = prepared.axis.kind == "log"
    at = WIDTH * prepared.axis.fraction(prepared.axis.edges)
    seen = [place for place in places if place.cell.seen]
    guides = WIDTH * prepared.axis.fraction(np.array(prepared.axis.ticks))
    axes.add_collection(
        LineCollection(
            [[(p.left + x, p.base), (p.left + x, p.base + _SHAPE)] for p in seen for x in guides],
            colors=FAINT,
            linewidths=0.7,
            zorder=0.5,
        ),
        autolim=False,
    )
    broken = [_box(p.left, p.base, WIDTH, _SHAPE) for p in seen if p.cell.nan or p.cell.inf]
    axes.add_collection(
        PolyCollection(broken, facecolors="none", edgecolors=ALARM, hatch="xxx", linewidths=0.8), autolim=False
    )
    shapes = [shape for place in seen for shape in _shapes(place, at, mirrored=mirrored)]
    axes.add_collection(
        PolyCollection(shapes, facecolors=prepared.subject.colour, edgecolors=prepared.subject.colour, linewidths=0.5),
        autolim=False,
    )
    lines = [[(p.left, _line(p, mirrored)), (p.left + WIDTH, _line(p, mirrored))] for p in places]
    axes.add_collection(LineCollection(lines, colors=QUIET, linewidths=0.8), autolim=False)
    zero = -0.12 if mirrored else WIDTH * float(prepared.axis.fraction(0.0))
    bars = [
        _box(p.left + zero - _ZERO_BAR / 2, p.base, _ZERO_BAR, _SHAPE * p.cell.zero) for p in seen if p.cell.zero > 0
    ]
    axes.add_collection(PolyCollection(bars, facecolors=INK, edgecolors="white", linewidths=0.4), autolim=False)
    _draw_arrows(axes, seen, mirrored=mirrored)


def _line(place: _Place, mirrored: bool) -> float:
    return place.base + _SHAPE / 2 if mirrored else place.base


def _shapes(place: _Place, at: Points, *, mirrored: bool) -> Iterator[Points]:
    line = _line(place, mirrored)
    tall = (_SHAPE / 2 if mirrored else _SHAPE) * 0.97
    for heights, sign in ((place.cell.up, 1), (place.cell.down, -1)):
        if not heights.any():
            continue
        x = np.repeat(at, 2) + place.left
        y = np.concatenate([[0.0], np.repeat(heights, 2), [0.0]]) * (sign * tall) + line
        yield np.column_stack([x, y])


def _draw_arrows(axes: Axes, seen: list[_Place], *, mirrored: bool) -> None:
    """Point beyond the end of the axis where a notable share of a cell's values is."""
    for side, end, marker in (("below", -0.015, "<"), ("above", WIDTH + 0.03, ">")):
        beyond = [place for place in seen if place.cell.notable(2 * getattr(place.cell, side))]
        axes.plot(
            [place.left + end for place in beyond],
            [_line(place, mirrored) + (0 if mirrored else 0.06) for place in beyond],
            linestyle="none",
            marker=marker,
            markersize=6,
            color=INK,
        )


def _box(left: float, bottom: float, width: float, height: float) -> Points:
    right, top = left + width, bottom + height
    return np.array([(left, bottom), (right, bottom), (right, top), (left, top)])


def _draw_margins(axes: Axes, prepared: HistogramGrid, margin: float, top: float) -> None:
    """Write the columns' positions above and the axis' ticks below every column."""
    pitch = row_height(prepared)
    counted = re.split(r"\W", prepared.counts)[0]
    bottom = top - _HEADINGS - pitch * len(prepared.rows)
    marks = []
    for column, position in enumerate(prepared.columns):
        left = margin + column * (WIDTH + GAP)
        axes.text(left, top - 0.1, f"{counted} {position}", va="top", weight="bold")
        for tick, label in zip(prepared.axis.ticks, prepared.axis.labels, strict=True):
            x = left + WIDTH * float(prepared.axis.fraction(tick))
            marks.append([(x, bottom), (x, bottom - 0.05)])
            axes.text(x, bottom - 0.08, label, ha="center", va="top")
    axes.add_collection(LineCollection(marks, colors=QUIET, linewidths=0.8), autolim=False)
    thinned = (
        f", {len(prepared.columns)} of {prepared.of}, evenly spread" if len(prepared.columns) < prepared.of else ""
    )
    kind = "logarithmic" if prepared.axis.kind == "log" else "linear"
    note = f"${prepared.subject.symbol}$, {kind} axis, the same in every cell.  Columns: {prepared.counts}{thinned}."
    axes.text(margin, bottom - 0.08 - 1.6 * LINE_HEIGHT, note, va="top", color=QUIET)
