"""Grids of histograms: one row per initializer, one column per layer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from propscope.plots.depth_series import DepthSeries, evenly, merged_at, positions_of, site_series, weight_series
from propscope.plots.fast_text import FastText, draw_texts
from propscope.plots.pages import facts, lines
from propscope.plots.scales import Floats, exponents, log_window
from propscope.plots.style import (
    ALARM,
    CHARACTER,
    DPI,
    FAINT,
    INK,
    LINE_HEIGHT,
    QUIET,
    Header,
    draw_header,
    percent,
    power_of_ten,
    short,
    wrap,
)
from propscope.records import LogHistogram, NetworkProfile, ProfileSet, TensorSummary
from propscope.records.histogram import ZERO

# A smaller share of a shape's values beyond the axis is an ordinary tail.
_NOTABLE = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """The horizontal axis that all cells share; the `edges` of its bins ascend, shape (bins + 1,).

    A linear axis shows values. A logarithmic axis shows magnitudes, and negative values point down from the base line.
    """

    kind: Literal["linear", "log"]
    edges: Floats
    ticks: tuple[float, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The text at each tick."""
        if self.kind == "linear":
            return tuple(short(tick) for tick in self.ticks)
        return tuple(power_of_ten(round(math.log10(tick))) for tick in self.ticks)

    def fraction(self, values: Floats | float) -> Floats:
        """Return where values stand on the axis: 0 at its low end, 1 at its high end."""
        low, high, at = self.edges[0], self.edges[-1], np.asarray(values, dtype=np.float64)
        if self.kind == "linear":
            return np.asarray((at - low) / (high - low))
        return np.asarray(np.log(at / low) / np.log(high / low))


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """What is drawn of one tensor: the heights of its bins `up` and `down`, at most 1, shape (bins,).

    The finite elements other than zero make the shape. Its highest bin has height 1, or, if some of these elements lie
    beyond the axis, the share of those within it. Zeros stand apart (`zero` is their share): half of a ReLU's values
    are zero and would squash everything else.

    `down` holds the negative values on a logarithmic axis and is 0 on a linear one. `below` and `above` are the shares
    of all elements beyond the ends of the axis, in magnitude on a logarithmic axis. `nan` and `inf` are the shares of
    elements that are not finite. `rows` is the text in the cell. `seen` is False if the tensor was not recorded.
    """

    up: Floats
    down: Floats
    zero: float
    below: float
    above: float
    nan: float
    inf: float
    rows: tuple[str, ...]
    seen: bool = True

    def notable(self, share: float) -> bool:
        """Return whether a share beyond the axis is larger than the tail of an ordinary shape."""
        return share > 0 and share >= _NOTABLE * (1 - self.zero - self.nan - self.inf)


def cell_of(summary: TensorSummary | None, axis: Axis) -> Cell:
    """Return the cell of a tensor; an empty or missing summary gives a cell without a shape."""
    blank = np.zeros(axis.edges.size - 1)
    if summary is None or not summary.count:
        return Cell(blank, blank, 0.0, 0.0, 0.0, 0.0, 0.0, ("not seen",), seen=False)
    nan = summary.nan_count / summary.count
    inf = (summary.posinf_count + summary.neginf_count) / summary.count
    up, down, below, above = blank, blank, 0.0, 0.0
    if summary.histogram is not None:
        up, down, below, above = _shares(summary, summary.histogram, axis)
    peak = max(float(up.max()), float(down.max()))
    inside = float(up.sum() + down.sum())
    height = inside / (inside + below + above) / peak if peak else 0.0
    cell = Cell(
        up=up * height,
        down=down * height,
        zero=summary.zero_fraction,
        below=below,
        above=above,
        nan=nan,
        inf=inf,
        rows=(),
    )
    return _with_rows(cell, summary)


def _with_rows(cell: Cell, summary: TensorSummary) -> Cell:
    rows = [f"{short(summary.mean)} ± {short(summary.std)}", f"[{short(summary.min)}, {short(summary.max)}]"]
    if not summary.finite_count:
        rows = []
    out = cell.below + cell.above
    broken = " and ".join(name for name, share in (("NaN", cell.nan), ("Inf", cell.inf)) if share)
    shares = ((broken, cell.nan + cell.inf), ("zero", cell.zero), ("out", out if cell.notable(out) else 0.0))
    notes = [f"{percent(share)} {what}" for what, share in shares if share > 0]
    if summary.histogram is None:
        notes.append("no histogram")
    # The row has room for two; the third one still shows as a bar at zero or an arrow at the end.
    return replace(cell, rows=tuple(filter(None, (*rows, ", ".join(notes[:2])))))


def _shares(summary: TensorSummary, histogram: LogHistogram, axis: Axis) -> tuple[Floats, Floats, float, float]:
    """Return the shares of all elements in each bin, upwards and downwards, and beyond the low and the high end.

    The bins end at the summary's minimum and maximum. Those are exact, while a bin's edges are known to 12.5% only, so
    that a saturated tanh would seem to exceed 1.
    """
    finite = histogram.finite
    solid = finite.bins != ZERO
    lower, upper, shares = finite.lower[solid], finite.upper[solid], finite.counts[solid] / max(1, histogram.total)
    if axis.kind == "linear":
        low, high = np.clip(lower, summary.min, summary.max), np.clip(upper, summary.min, summary.max)
        up, below, above = _binned(low, high, shares, axis.edges)
        return up, np.zeros_like(up), below, above
    positive = lower >= 0
    high = np.minimum(upper, summary.max)[positive]
    up, small, large = _binned(np.minimum(lower[positive], high), high, shares[positive], axis.edges)
    far = np.minimum(-lower, -summary.min)[~positive]
    down, less, more = _binned(np.minimum(-upper[~positive], far), far, shares[~positive], axis.edges)
    return up, down, small + less, large + more


def _binned(lower: Floats, upper: Floats, shares: Floats, edges: Floats) -> tuple[Floats, float, float]:
    """Return the shares between consecutive `edges`, below the first and above the last; each bin is uniform."""
    if not shares.size:
        return np.zeros(edges.size - 1), 0.0, 0.0
    order = np.argsort(lower, kind="stable")
    total = np.cumsum(shares[order])
    # A bin without width is a step: it belongs to the interval that starts at or contains it.
    knots = np.column_stack([lower[order], np.maximum(upper[order], np.nextafter(lower[order], np.inf))])
    heights = np.column_stack([total - shares[order], total])
    at = np.interp(edges, knots.ravel(), heights.ravel())
    return np.diff(at), float(at[0]), float(total[-1] - at[-1])


COLUMNS_AT_MOST = 8
_LINEAR_BINS = 50
_LOG_BINS = 80
# 2% of a normal distribution lie 1.6 decades below its rms or lower; the largest of 10^5 lies 0.65 decades above it.
_TAIL_BELOW = 1.8
_TAIL_ABOVE = 0.9
# Cells whose values reach this many times further than in the typical first column do not set the axis.
_WIDER = 4.0

_Grid = list[list[TensorSummary | None]]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a grid shows: a `series` of tensors on a linear or logarithmic axis, and the text on how to read it.

    `symbol` names the values in mathtext. `starts_last` is True if the signal starts at the last column.
    """

    name: str
    title: str
    symbol: str
    series: Callable[[NetworkProfile], DepthSeries]
    logarithmic: bool
    starts_last: bool
    colour: str
    reading: str


_WRITTEN = (
    "Numbers: mean ± std, [min, max]. Dark bar: share of exact zeros, which the shape leaves out. "
    "Out: share beyond the axis. Each shape is scaled to its own peak."
)
_MIRROR = "Magnitudes: positive values above the line, negative values below it. "

ACTIVATIONS = Subject(
    name="activations",
    title="Activations, layer by layer",
    symbol="h",
    series=partial(site_series, role="activation", direction="forward"),
    logarithmic=False,
    starts_last=False,
    colour="#3b7bb5",
    reading="Healthy: the same shape in every column. Vanishing: the shape narrows to a spike at 0. Exploding: it "
    "leaves the axis. Saturated: it piles up at the ends of a bounded activation. " + _WRITTEN,
)
GRADIENTS = Subject(
    name="gradients",
    title="Backward gradients, layer by layer",
    symbol=r"|\partial L/\partial z|",
    series=partial(site_series, role="pre-activation", direction="backward"),
    logarithmic=True,
    starts_last=True,
    colour="#c4652b",
    reading="Healthy: the shape stays in place. The gradient travels from the last column to the first: vanishing if "
    "the shape moves left on the way, exploding if it moves right. " + _MIRROR + _WRITTEN,
)
WEIGHTS = Subject(
    name="weights",
    title="Weights, layer by layer",
    symbol="W",
    series=partial(weight_series, of="value"),
    logarithmic=False,
    starts_last=False,
    colour="#3d8f6b",
    reading="The values of the weights when they were profiled. " + _WRITTEN,
)
WEIGHT_GRADIENTS = Subject(
    name="weight-gradients",
    title="Gradients of the weights, layer by layer",
    symbol=r"|\partial L/\partial W|",
    series=partial(weight_series, of="gradient"),
    logarithmic=True,
    starts_last=True,
    colour="#8a5fa8",
    reading="Layers whose shapes lie far apart train at different speeds. Equal shapes do not prove health: "
    "activations that shrink forward and gradients that shrink backward cancel here. " + _MIRROR + _WRITTEN,
)


@dataclass(frozen=True, slots=True)
class HistogramGrid:
    """A picture of histograms: `cells[row][column]` on one shared `axis`.

    `rows` holds the names of the lines and `columns` the positions shown, out of `of` positions. `counts` says what the
    positions count.
    """

    header: Header
    subject: Subject
    rows: tuple[str, ...]
    columns: tuple[int, ...]
    of: int
    counts: str
    axis: Axis
    cells: tuple[tuple[Cell, ...], ...]


def prepare_histograms(profiles: ProfileSet, *, subject: Subject) -> HistogramGrid | None:
    """Return the grid of a subject with the seeds of each line merged, or None where it was not recorded."""
    series = {name: [subject.series(profile) for profile in group] for name, group in lines(profiles).items()}
    series = {name: found for name, found in series.items() if any(any(one.summaries) for one in found)}
    if not series:
        return None
    positions = positions_of(one for found in series.values() for one in found)
    shown = evenly(positions, COLUMNS_AT_MOST)
    merged = [[merged_at(found, position) for position in shown] for found in series.values()]
    axis = _log_axis(merged, starts_last=subject.starts_last) if subject.logarithmic else _linear_axis(merged)
    said = facts(profiles, seeds=" merged" if any(len(found) > 1 for found in series.values()) else "")
    return HistogramGrid(
        header=Header(subject.title, f"{said} · {_spell(axis)}".removeprefix(" · "), subject.reading),
        subject=subject,
        rows=tuple(series),
        columns=shown,
        of=len(positions),
        counts=next(iter(series.values()))[0].axis,
        axis=axis,
        cells=tuple(tuple(cell_of(summary, axis) for summary in row) for row in merged),
    )


prepare_activations = partial(prepare_histograms, subject=ACTIVATIONS)
prepare_gradients = partial(prepare_histograms, subject=GRADIENTS)
prepare_weights = partial(prepare_histograms, subject=WEIGHTS)
prepare_weight_gradients = partial(prepare_histograms, subject=WEIGHT_GRADIENTS)


def _spell(axis: Axis) -> str:
    low, high = short(float(axis.edges[0])), short(float(axis.edges[-1]))
    return f"{'logarithmic' if axis.kind == 'log' else 'linear'} axis from {low} to {high}"


def _log_axis(grid: _Grid, *, starts_last: bool) -> Axis:
    rms = [[math.nan if cell is None else cell.rms for cell in row] for row in grid]
    low, high = log_window(rms, anchors=[row[-1 if starts_last else 0] for row in rms])
    low, high = low - _TAIL_BELOW, high + _TAIL_ABOVE
    edges = 10.0 ** np.linspace(low, high, _LOG_BINS + 1)
    # Room at both ends keeps the label of a cell's last tick away from its neighbour's first one.
    room = 0.07 * (high - low)
    return Axis("log", edges, tuple(10.0**e for e in exponents(low + room, high - room, 3)))


def _linear_axis(grid: _Grid) -> Axis:
    """Return the axis that holds 99.8% of the typical cells: symmetric about 0 unless one sign is nearly absent."""
    reaches = [[_reach(cell) for cell in row] for row in grid]
    starts = [max(-low, high) for row in reaches for low, high in row[:1] if max(-low, high) > 0]
    cells = [reach for row in reaches for reach in row]
    limit = _WIDER * float(np.median(starts)) if starts else math.inf
    typical = [(low, high) for low, high in cells if 0 < max(-low, high) <= limit] or [(-1.0, 1.0)]
    low, high = min(low for low, _ in typical), max(high for _, high in typical)
    if min(-low, high) > 0.3 * max(-low, high):
        low, high = -max(-low, high), max(-low, high)
    low = 0.0 if -low < 0.02 * high else low
    room = 0.04 * (high - low)
    width = (high + room - low + room * (low < 0)) / _LINEAR_BINS
    # Zero lies in the middle of a bin or at the first edge, so that a signal that collapsed to 0 makes one bar.
    first = -(math.ceil((room - low) / width) + 0.5) if low < 0 else 0.0
    edges = np.asarray(width * (first + np.arange(math.ceil((high + room) / width - first) + 1)), dtype=np.float64)
    ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return _spaced(Axis("linear", edges, tuple(float(tick) for tick in ticks if edges[0] <= tick <= edges[-1])))


def _spaced(axis: Axis) -> Axis:
    """Return the axis without its last tick if that label would run into the next cell's first label."""
    ticks, labels = axis.ticks, axis.labels
    if len(ticks) < 2:
        return axis
    apart = 1 - float(axis.fraction(ticks[-1])) + float(axis.fraction(ticks[0]))
    # In cell widths, a character takes 0.052 and the gap between cells 0.136; half of each label lies there.
    fits = apart + 0.136 > 0.026 * (len(labels[0]) + len(labels[-1])) + 0.03
    return axis if fits else replace(axis, ticks=ticks[:-1])


def _reach(summary: TensorSummary | None) -> tuple[float, float]:
    """Return the quantiles between which 99.8% of the finite values lie, widened to include 0."""
    if summary is None or not summary.finite_count:
        return 0.0, 0.0
    low, high = summary.min, summary.max
    if summary.histogram is not None and summary.histogram.finite.total:
        finite = summary.histogram.finite
        low, high = max(low, finite.quantile(0.001)), min(high, finite.quantile(0.999))
    return min(low, 0.0), max(high, 0.0)


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
# Bold letters are wider by this factor.
_BOLD = 1.13


@dataclass(frozen=True, slots=True)
class _PlacedCell:
    """A cell and the `left` end of its base line at height `base`, in inches."""

    cell: Cell
    left: float
    base: float


def draw_histograms(prepared: HistogramGrid, figure: Figure | None = None) -> Figure:
    """Draw the grid into a figure and set its size; without `figure`, a new one is made.

    All cells share one axes in inches and a few collections, since 160 axes would take seconds.
    """
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
    placed_cells = [
        _PlacedCell(cell, margin + column * (WIDTH + GAP), height - top - _HEADINGS - (row + 1) * pitch)
        for row, cells in enumerate(prepared.cells)
        for column, cell in enumerate(cells)
    ]
    _draw_cells(axes, prepared, placed_cells)
    draw_texts(axes, [_text_of(placed) for placed in placed_cells])
    for row, name in enumerate(names):
        middle = height - top - _HEADINGS - (row + 0.5) * pitch
        axes.text(0.2, middle, "\n".join(name), va="center", weight="bold", linespacing=1.2)
    _draw_margins(axes, prepared, margin, height - top)
    return figure


def row_height(prepared: HistogramGrid) -> float:
    """Return the distance from one row to the next in inches."""
    texts = max(len(cell.rows) for row in prepared.cells for cell in row)
    names = max(len(wrap(name, _NAME_CHARACTERS)) for name in prepared.rows)
    return max(_SHAPE + LINE_HEIGHT * texts + 0.08, LINE_HEIGHT * names) + _BETWEEN_ROWS


def _text_of(placed: _PlacedCell) -> FastText:
    broken = placed.cell.nan or placed.cell.inf
    colour = ALARM if broken else INK if placed.cell.seen else QUIET
    return FastText(placed.left, placed.base + _SHAPE + 0.08, placed.cell.rows, colour)


def _draw_cells(axes: Axes, prepared: HistogramGrid, placed_cells: list[_PlacedCell]) -> None:
    mirrored = prepared.axis.kind == "log"
    at = WIDTH * prepared.axis.fraction(prepared.axis.edges)
    filled = [placed for placed in placed_cells if placed.cell.seen]
    guides = WIDTH * prepared.axis.fraction(np.array(prepared.axis.ticks))
    axes.add_collection(
        LineCollection(
            [[(p.left + x, p.base), (p.left + x, p.base + _SHAPE)] for p in filled for x in guides],
            colors=FAINT,
            linewidths=0.7,
            zorder=0.5,
        ),
        autolim=False,
    )
    broken = [_box(p.left, p.base, WIDTH, _SHAPE) for p in filled if p.cell.nan or p.cell.inf]
    axes.add_collection(
        PolyCollection(broken, facecolors="none", edgecolors=ALARM, hatch="xxx", linewidths=0.8), autolim=False
    )
    shapes = [shape for placed in filled for shape in _shapes(placed, at, mirrored=mirrored)]
    axes.add_collection(
        PolyCollection(shapes, facecolors=prepared.subject.colour, edgecolors=prepared.subject.colour, linewidths=0.5),
        autolim=False,
    )
    lines = [[(p.left, _line(p, mirrored)), (p.left + WIDTH, _line(p, mirrored))] for p in placed_cells]
    axes.add_collection(LineCollection(lines, colors=QUIET, linewidths=0.8), autolim=False)
    zero = -0.12 if mirrored else WIDTH * float(prepared.axis.fraction(0.0))
    bars = [
        _box(p.left + zero - _ZERO_BAR / 2, p.base, _ZERO_BAR, _SHAPE * p.cell.zero) for p in filled if p.cell.zero > 0
    ]
    axes.add_collection(PolyCollection(bars, facecolors=INK, edgecolors="white", linewidths=0.4), autolim=False)
    _draw_arrows(axes, filled, mirrored=mirrored)


def _line(placed: _PlacedCell, mirrored: bool) -> float:
    return placed.base + _SHAPE / 2 if mirrored else placed.base


def _shapes(placed: _PlacedCell, at: Floats, *, mirrored: bool) -> Iterator[Floats]:
    line = _line(placed, mirrored)
    tall = (_SHAPE / 2 if mirrored else _SHAPE) * 0.97
    for heights, sign in ((placed.cell.up, 1), (placed.cell.down, -1)):
        if not heights.any():
            continue
        x = np.repeat(at, 2) + placed.left
        y = np.concatenate([[0.0], np.repeat(heights, 2), [0.0]]) * (sign * tall) + line
        yield np.column_stack([x, y])


def _draw_arrows(axes: Axes, filled: list[_PlacedCell], *, mirrored: bool) -> None:
    """Draw an arrow at the end of the axis beyond which a notable share of a cell's values lies."""
    for side, end, marker in (("below", -0.015, "<"), ("above", WIDTH + 0.03, ">")):
        beyond = [placed for placed in filled if placed.cell.notable(2 * getattr(placed.cell, side))]
        axes.plot(
            [placed.left + end for placed in beyond],
            [_line(placed, mirrored) + (0 if mirrored else 0.06) for placed in beyond],
            linestyle="none",
            marker=marker,
            markersize=6,
            color=INK,
        )


def _box(left: float, bottom: float, width: float, height: float) -> Floats:
    right, top = left + width, bottom + height
    return np.array([(left, bottom), (right, bottom), (right, top), (left, top)])


def _draw_margins(axes: Axes, prepared: HistogramGrid, margin: float, top: float) -> None:
    """Write the position above and the ticks of the axis below every column."""
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
