"""Grids of histograms: one row per initializer, one column per layer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from propscope.plots.depth_series import DepthSeries, evenly, merged_at, positions_of, site_series, weight_series
from propscope.plots.fast_text import BOLD, FastText, draw_texts, width_of
from propscope.plots.pages import facts, lines
from propscope.plots.scales import Floats, exponents, log_window
from propscope.plots.style import (
    ALARM,
    DPI,
    FAINT,
    INK,
    LINE_HEIGHT,
    QUIET,
    SCREEN,
    Header,
    Look,
    TextFigure,
    extent_of,
    framed,
    percent,
    power_of_ten,
    short,
    unit,
    units_of,
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

    `magnified` is the shape from its lowest to its highest value, for a shape that would be a spike on the axis, else
    of shape (0,).
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
    magnified: Floats = field(default_factory=lambda: np.empty(0))

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
        magnified=_magnified(summary, axis),
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


def _magnified(summary: TensorSummary, axis: Axis) -> Floats:
    """Return the shape between the least and the greatest value, where it takes little of a linear axis."""
    low, high = summary.min, summary.max
    reach = float(axis.edges[-1] - axis.edges[0])
    if axis.kind == "log" or summary.histogram is None or not 0 < high - low <= _SPIKE * reach:
        return np.empty(0)
    edges = np.linspace(low, np.nextafter(high, np.inf), _MAGNIFIED_BINS + 1)
    up, *_ = _shares(summary, summary.histogram, Axis("linear", edges, ()))
    peak = float(up.max())
    return up / peak if peak else np.empty(0)


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


COLUMNS_AT_MOST = 12
# A shape that takes a smaller share of the axis looks like a spike.
_SPIKE = 0.08
_MAGNIFIED_BINS = 24
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
_MIRROR = " Magnitudes: positive values above the line, negative values below it."
_BOXED = " In a box: a shape too narrow for the axis, on a small one of its own from min to max."

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
    symbol=r"\partial L/\partial z",
    series=partial(site_series, role="pre-activation", direction="backward"),
    logarithmic=True,
    starts_last=True,
    colour="#c4652b",
    reading="Healthy: the shape stays in place. The gradient travels from the last column to the first: vanishing if "
    "the shape moves left on the way, exploding if it moves right. " + _WRITTEN,
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
    symbol=r"\partial L/\partial W",
    series=partial(weight_series, of="gradient"),
    logarithmic=True,
    starts_last=True,
    colour="#8a5fa8",
    reading="Layers whose shapes lie far apart train at different speeds. Equal shapes do not prove health: "
    "activations that shrink forward and gradients that shrink backward cancel here. " + _WRITTEN,
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


SUBJECTS = {subject.name: subject for subject in (ACTIVATIONS, GRADIENTS, WEIGHTS, WEIGHT_GRADIENTS)}


def on_scale(subject: Subject, scale: Literal["linear", "log"]) -> Subject:
    """Return a subject on an axis of one's choice."""
    if subject.logarithmic == (scale == "log"):
        return subject
    reading = "Vanishing: the shapes move left along the way of the signal. Exploding: they move right. "
    if scale == "linear":
        reading = "Vanishing: the shapes become narrow along the way of the signal. Exploding: they leave the axis. "
    return replace(subject, logarithmic=scale == "log", reading=reading + _WRITTEN)


def prepare_histograms(
    profiles: ProfileSet, *, subject: Subject, columns_at_most: int = COLUMNS_AT_MOST
) -> HistogramGrid | None:
    """Return the grid of a subject with the seeds of each line merged, or None where it was not recorded."""
    series = {name: [subject.series(profile) for profile in group] for name, group in lines(profiles).items()}
    series = {name: found for name, found in series.items() if any(any(one.summaries) for one in found)}
    if not series:
        return None
    positions = positions_of(one for found in series.values() for one in found)
    shown = evenly(positions, columns_at_most)
    merged = [[merged_at(found, position) for position in shown] for found in series.values()]
    axis = _log_axis(merged, starts_last=subject.starts_last) if subject.logarithmic else _linear_axis(merged)
    said = facts(profiles, seeds=" merged" if any(len(found) > 1 for found in series.values()) else "")
    cells = tuple(tuple(cell_of(summary, axis) for summary in row) for row in merged)
    reading = (
        subject.reading
        + _MIRROR * (axis.kind == "log")
        + _BOXED * any(cell.magnified.size for r in cells for cell in r)
    )
    return HistogramGrid(
        header=Header(subject.title, f"{said} · {_spell(axis)}".removeprefix(" · "), reading),
        subject=subject,
        rows=tuple(series),
        columns=shown,
        of=len(positions),
        counts=next(iter(series.values()))[0].axis,
        axis=axis,
        cells=cells,
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
_TICKS = 0.35
_LEAST_WIDTH = 9.5
_ZERO_BAR = 0.05
# The least width of a cell, and of its column, in units.
_LEAST_CELL, _LEAST_COLUMN = 0.5, 0.58
_NAMES_MARGIN = 1.5


def columns_within(width: float | None) -> int:
    """Return how many columns a grid has room for within a width in units; None: the figure is as wide as the grid."""
    return (
        COLUMNS_AT_MOST if width is None else min(COLUMNS_AT_MOST, max(1, int((width - _NAMES_MARGIN) / _LEAST_COLUMN)))
    )


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where everything stands, in units: the cells of `width` and a `gap`, `shape` high, from `margin` on.

    `names` are those of the rows, wrapped, and `note` says below the grid what it shows. A row of the grid is `pitch`
    high and begins with text, if the numbers have room and are `written`.
    """

    names: tuple[list[str], ...]
    note: list[str]
    margin: float
    width: float
    gap: float
    shape: float
    pitch: float
    written: bool

    def left(self, column: int) -> float:
        return self.margin + column * (self.width + self.gap)

    @property
    def right(self) -> float:
        return self.left(0) + _RIGHT

    def height(self, rows: int) -> float:
        return _HEADINGS + rows * self.pitch + _TICKS + LINE_HEIGHT * len(self.note) + 0.1


def _layout(prepared: HistogramGrid, width: float | None, height: float | None) -> _Layout:
    """Return the natural layout, or the one that fills a width or a height."""
    columns, rows = len(prepared.columns), len(prepared.rows)
    names = tuple(wrap(name, _NAME_CHARACTERS if width is None else 14) for name in prepared.rows)
    margin = 0.35 + BOLD * max(width_of(row) for name in names for row in name)
    step = WIDTH + GAP if width is None else max((width - margin - _RIGHT / 2) / columns, 0.1)
    gap = GAP if width is None else min(GAP, 0.14 * step)
    texts = [row for cells in prepared.cells for cell in cells for row in cell.rows]
    written = max(map(width_of, texts)) <= step
    lines = max(len(cell.rows) for cells in prepared.cells for cell in cells)
    above = LINE_HEIGHT * lines + 0.08
    least = LINE_HEIGHT * max(map(len, names)) + _BETWEEN_ROWS
    note = _note(prepared, width or margin + columns * step)
    if height is None:
        pitch = max(_SHAPE + above * written + _BETWEEN_ROWS, least)
        return _Layout(names, note, margin, step - gap, gap, _SHAPE, pitch, written)
    pitch = (height - _HEADINGS - _TICKS - LINE_HEIGHT * len(note) - 0.1) / rows
    between = min(_BETWEEN_ROWS, 0.2 * pitch)
    written = written and pitch - between - above >= 0.6 * _SHAPE
    return _Layout(names, note, margin, step - gap, gap, pitch - between - above * written, pitch, written)


def _note(prepared: HistogramGrid, width: float) -> list[str]:
    thinned = (
        f", {len(prepared.columns)} of {prepared.of}, evenly spread" if len(prepared.columns) < prepared.of else ""
    )
    kind = "logarithmic" if prepared.axis.kind == "log" else "linear"
    symbol = f"|{prepared.subject.symbol}|" if prepared.axis.kind == "log" else prepared.subject.symbol
    text = f"{kind} axis, the same in every cell. Columns: {prepared.counts}{thinned}."
    rows = wrap(text, max(20, int((width - 0.6) / (0.6 * LINE_HEIGHT / 1.25))))
    return [f"${symbol}$, {rows[0]}", *rows[1:]]


@dataclass(frozen=True, slots=True)
class _PlacedCell:
    """A cell and the `left` end of its base line at height `base`, in units."""

    cell: Cell
    left: float
    base: float


def draw_histograms(
    prepared: HistogramGrid, figure: Figure | None = None, *, look: Look = SCREEN, colour: str | None = None
) -> Figure:
    """Draw the grid into a figure and set its size; without `figure`, a new one is made."""
    figure = figure or TextFigure(dpi=DPI)
    layout = _layout(prepared, look.units, None)
    width = look.units or max(_LEAST_WIDTH, layout.left(len(prepared.columns)) + _RIGHT)
    high = layout.height(len(prepared.rows))
    top = framed(figure, prepared.header, width, high)
    height = units_of(figure)[1]
    _draw_grid(figure.add_axes((0, (top - high) / height, 1, high / height)), prepared, layout, colour)
    return figure


def draw_histogram_grid(axes: Axes, prepared: HistogramGrid, *, colour: str | None = None) -> Axes:
    """Draw the grid into an axes, which it fills; numbers are left out where they have no room."""
    return _draw_grid(axes, prepared, _layout(prepared, *extent_of(axes)), colour)


def _draw_grid(axes: Axes, prepared: HistogramGrid, layout: _Layout, colour: str | None) -> Axes:
    """Draw all cells as a few collections in one axes, since 160 axes would take seconds."""
    width, height = extent_of(axes)
    # A layout still counts the extent of the axes, as it would not were the axis off.
    axes.set(xticks=[], yticks=[], facecolor="none")
    axes.spines[:].set_visible(False)
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    placed_cells = [
        _PlacedCell(cell, layout.left(column), height - _HEADINGS - (row + 1) * layout.pitch + 0.02)
        for row, cells in enumerate(prepared.cells)
        for column, cell in enumerate(cells)
    ]
    _draw_cells(axes, prepared, placed_cells, layout, colour or prepared.subject.colour)
    if layout.written:
        draw_texts(axes, [_text_of(placed, layout.shape) for placed in placed_cells])
    for row, name in enumerate(layout.names):
        middle = height - _HEADINGS - (row + 0.5) * layout.pitch
        axes.text(0.1, middle, "\n".join(name), va="center", weight="bold", linespacing=1.2)
    _draw_margins(axes, prepared, layout)
    return axes


def _text_of(placed: _PlacedCell, shape: float) -> FastText:
    broken = placed.cell.nan or placed.cell.inf
    colour = ALARM if broken else INK if placed.cell.seen else QUIET
    return FastText(placed.left, placed.base + shape + 0.08, placed.cell.rows, colour)


def _draw_cells(
    axes: Axes, prepared: HistogramGrid, placed_cells: list[_PlacedCell], layout: _Layout, colour: str
) -> None:
    mirrored = prepared.axis.kind == "log"
    wide, shape = layout.width, layout.shape
    at = wide * prepared.axis.fraction(prepared.axis.edges)
    filled = [placed for placed in placed_cells if placed.cell.seen]
    guides = wide * prepared.axis.fraction(np.array(prepared.axis.ticks))
    axes.add_collection(
        LineCollection(
            [[(p.left + x, p.base), (p.left + x, p.base + shape)] for p in filled for x in guides],
            colors=FAINT,
            linewidths=0.7,
            zorder=0.5,
        ),
        autolim=False,
    )
    broken = [_box(p.left, p.base, wide, shape) for p in filled if p.cell.nan or p.cell.inf]
    axes.add_collection(
        PolyCollection(broken, facecolors="none", edgecolors=ALARM, hatch="xxx", linewidths=0.8), autolim=False
    )
    shapes = [outline for placed in filled for outline in _shapes(placed, at, shape, mirrored=mirrored)]
    axes.add_collection(PolyCollection(shapes, facecolors=colour, edgecolors=colour, linewidths=0.5), autolim=False)
    lines = [[(p.left, _line(p, shape, mirrored)), (p.left + wide, _line(p, shape, mirrored))] for p in placed_cells]
    axes.add_collection(LineCollection(lines, colors=QUIET, linewidths=0.8), autolim=False)
    zero = -0.12 if mirrored else wide * float(prepared.axis.fraction(0.0))
    bars = [
        _box(p.left + zero - _ZERO_BAR / 2, p.base, _ZERO_BAR, shape * p.cell.zero) for p in filled if p.cell.zero > 0
    ]
    axes.add_collection(PolyCollection(bars, facecolors=INK, edgecolors="white", linewidths=0.4), autolim=False)
    _draw_arrows(axes, filled, layout, mirrored=mirrored)
    _draw_magnified(axes, [placed for placed in filled if placed.cell.magnified.size], zero, layout, colour)


def _draw_magnified(axes: Axes, spikes: list[_PlacedCell], zero: float, layout: _Layout, colour: str) -> None:
    """Draw the shapes that are spikes in boxes beside them, each on an axis of its own."""
    left = min(zero + 0.12 * layout.width, 0.62 * layout.width)
    wide, high = 0.97 * layout.width - left, 0.86 * layout.shape
    boxes, shapes = [], []
    for placed in spikes:
        x, y = placed.left + left, placed.base + 0.06 * layout.shape
        boxes.append(_box(x, y, wide, high))
        at = np.repeat(x + wide * np.linspace(0.03, 0.97, placed.cell.magnified.size + 1), 2)
        heights = np.concatenate([[0.0], np.repeat(placed.cell.magnified, 2), [0.0]])
        shapes.append(np.column_stack([at, y + 0.92 * high * heights]))
    axes.add_collection(
        PolyCollection(boxes, facecolors="white", edgecolors=QUIET, linewidths=0.7, zorder=2), autolim=False
    )
    axes.add_collection(
        PolyCollection(shapes, facecolors=colour, edgecolors="none", alpha=0.6, zorder=2.1, gid="magnified"),
        autolim=False,
    )


def _line(placed: _PlacedCell, shape: float, mirrored: bool) -> float:
    return placed.base + shape / 2 if mirrored else placed.base


def _shapes(placed: _PlacedCell, at: Floats, shape: float, *, mirrored: bool) -> Iterator[Floats]:
    line = _line(placed, shape, mirrored)
    tall = (shape / 2 if mirrored else shape) * 0.97
    for heights, sign in ((placed.cell.up, 1), (placed.cell.down, -1)):
        if not heights.any():
            continue
        x = np.repeat(at, 2) + placed.left
        y = np.concatenate([[0.0], np.repeat(heights, 2), [0.0]]) * (sign * tall) + line
        yield np.column_stack([x, y])


def _draw_arrows(axes: Axes, filled: list[_PlacedCell], layout: _Layout, *, mirrored: bool) -> None:
    """Draw an arrow at the end of the axis beyond which a notable share of a cell's values lies."""
    for side, end, marker in (("below", -0.015, "<"), ("above", layout.width + 0.03, ">")):
        beyond = [placed for placed in filled if placed.cell.notable(2 * getattr(placed.cell, side))]
        axes.plot(
            [placed.left + end for placed in beyond],
            [_line(placed, layout.shape, mirrored) + (0 if mirrored else 0.06) for placed in beyond],
            linestyle="none",
            marker=marker,
            markersize=6 * unit(),
            color=INK,
        )


def _box(left: float, bottom: float, width: float, height: float) -> Floats:
    right, top = left + width, bottom + height
    return np.array([(left, bottom), (right, bottom), (right, top), (left, top)])


def _draw_margins(axes: Axes, prepared: HistogramGrid, layout: _Layout) -> None:
    """Write the position above and the ticks of the axis below every column."""
    counted = re.split(r"\W", prepared.counts)[0]
    top = extent_of(axes)[1]
    bottom = top - _HEADINGS - layout.pitch * len(prepared.rows) + 0.02
    # Where it has no room above each column, what the positions count stands before the first of them.
    full = BOLD * width_of(f"{counted} {prepared.columns[-1]}") + 0.1 <= layout.width + layout.gap
    if not full:
        axes.text(layout.margin - 0.1, top - 0.1, counted, va="top", ha="right", weight="bold")
    ticks = _written_ticks(prepared.axis, layout)
    marks = []
    for column, position in enumerate(prepared.columns):
        left = layout.left(column)
        axes.text(left, top - 0.1, f"{counted} {position}" if full else f"{position}", va="top", weight="bold")
        for tick, label in zip(prepared.axis.ticks, prepared.axis.labels, strict=True):
            x = left + layout.width * float(prepared.axis.fraction(tick))
            marks.append([(x, bottom), (x, bottom - 0.05)])
            if tick in ticks:
                axes.text(x, bottom - 0.08, label, ha="center", va="top")
    axes.add_collection(LineCollection(marks, colors=QUIET, linewidths=0.8), autolim=False)
    axes.text(layout.margin, bottom - 0.08 - 1.5 * LINE_HEIGHT, "\n".join(layout.note), va="top", color=QUIET)


def _written_ticks(axis: Axis, layout: _Layout) -> list[float]:
    """Return the ticks whose labels have room beside one another, that nearest to 0 (or to 1) first."""
    kept: dict[float, tuple[float, float]] = {}
    center = 0.0 if axis.kind == "linear" else 1.0
    step = layout.width + layout.gap
    for tick, label in sorted(zip(axis.ticks, axis.labels, strict=True), key=lambda pair: abs(pair[0] - center)):
        x, half = layout.width * float(axis.fraction(tick)), width_of(label) / 2 + 0.04
        # The labels of the neighbouring cells stand one step further.
        if all(abs(x - at + shift) >= half + other for at, other in kept.values() for shift in (-step, 0, step)):
            kept[tick] = (x, half)
    return list(kept)
