"""Grids of histograms, a row an initializer, a column a layer: what is drawn, before drawing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np
from matplotlib.ticker import MaxNLocator

from propscope.plots.depth_series import Track, positions_of, site_track, weight_track
from propscope.plots.histogram_cells import Axis, Cell, cell_of
from propscope.plots.pages import facts, lines
from propscope.plots.scales import exponents, log_window
from propscope.plots.style import Header, short
from propscope.records import NetworkProfile, ProfileSet, TensorSummary

COLUMNS_AT_MOST = 8
_LINEAR_BINS = 50
_LOG_BINS = 80
# Of a normal distribution, 2% lies 1.6 decades below its rms or lower, and the largest of 10^5 is 0.65 decades above.
_TAIL_BELOW = 1.8
_TAIL_ABOVE = 0.9
# A row whose values are this many times wider than the typical one does not set the axis.
_WIDER = 4.0

_Grid = list[list[TensorSummary | None]]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a grid shows: a `track` of tensors on a linear or a logarithmic axis, in a `colour`, with how to read it.

    `symbol`: the values in mathtext. `starts_last`: whether the signal starts at the last column.
    """

    name: str
    title: str
    symbol: str
    track: Callable[[NetworkProfile], Track]
    logarithmic: bool
    starts_last: bool
    colour: str
    reading: str


_WRITTEN = (
    "Written in: mean ± std, [min, max]. Dark bar: share of exact zeros, not part of the shape. "
    "Out: beyond the axis. Each shape is scaled to its own peak."
)
_MIRROR = "Magnitudes, positive values above the line and negative ones below it. "

ACTIVATIONS = Subject(
    name="activations",
    title="Activations, layer by layer",
    symbol="h",
    track=lambda profile: site_track(profile, "activation", "forward"),
    logarithmic=False,
    starts_last=False,
    colour="#3b7bb5",
    reading="Healthy: the same shape in every column. Narrowing to a spike at 0: vanishing. Leaving the axis: "
    "exploding. Piled up at the ends of a bounded activation: saturated. " + _WRITTEN,
)
GRADIENTS = Subject(
    name="gradients",
    title="Backward gradients, layer by layer",
    symbol=r"|\partial L/\partial z|",
    track=lambda profile: site_track(profile, "pre-activation", "backward"),
    logarithmic=True,
    starts_last=True,
    colour="#c4652b",
    reading="Healthy: the same place in every column. The gradient travels from the last column to the first: on its "
    "way, moving left is vanishing, moving right exploding. " + _MIRROR + _WRITTEN,
)
WEIGHTS = Subject(
    name="weights",
    title="Weights, layer by layer",
    symbol="W",
    track=lambda profile: weight_track(profile, "value"),
    logarithmic=False,
    starts_last=False,
    colour="#3d8f6b",
    reading="What the initializer drew. " + _WRITTEN,
)
WEIGHT_GRADIENTS = Subject(
    name="weight-gradients",
    title="Gradients of the weights, layer by layer",
    symbol=r"|\partial L/\partial W|",
    track=lambda profile: weight_track(profile, "gradient"),
    logarithmic=True,
    starts_last=True,
    colour="#8a5fa8",
    reading="Far apart columns train at different speeds. Equal ones prove nothing: activations that decay forward and "
    "gradients that decay backward cancel here. " + _MIRROR + _WRITTEN,
)


@dataclass(frozen=True, slots=True)
class HistogramGrid:
    """A picture of histograms: `cells[row][column]` on one shared `axis`.

    `rows`: names of the lines; `columns`: the positions shown, `of` how many there are; `counts`: what those count.
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
    """Return the grid of a subject, histograms of a line's seeds merged; None when nothing of it was recorded."""
    tracks = {name: [subject.track(profile) for profile in group] for name, group in lines(profiles).items()}
    tracks = {name: found for name, found in tracks.items() if any(any(track.summaries) for track in found)}
    if not tracks:
        return None
    positions = positions_of(track for found in tracks.values() for track in found)
    shown = evenly(positions, COLUMNS_AT_MOST)
    merged = [[_merged(found, position) for position in shown] for found in tracks.values()]
    axis = _log_axis(merged, starts_last=subject.starts_last) if subject.logarithmic else _linear_axis(merged)
    said = facts(profiles, seeds=" merged" if any(len(found) > 1 for found in tracks.values()) else "")
    return HistogramGrid(
        header=Header(subject.title, f"{said} · {_spell(axis)}".removeprefix(" · "), subject.reading),
        subject=subject,
        rows=tuple(tracks),
        columns=shown,
        of=len(positions),
        counts=next(iter(tracks.values()))[0].axis,
        axis=axis,
        cells=tuple(tuple(cell_of(summary, axis) for summary in row) for row in merged),
    )


def _spell(axis: Axis) -> str:
    low, high = short(float(axis.edges[0])), short(float(axis.edges[-1]))
    return f"{'logarithmic' if axis.kind == 'log' else 'linear'} axis from {low} to {high}"


def evenly(positions: Sequence[int], at_most: int) -> tuple[int, ...]:
    """Return at most so many of the positions, evenly spread, the first and the last always among them."""
    if len(positions) <= at_most:
        return tuple(positions)
    return tuple(positions[round(at)] for at in np.linspace(0, len(positions) - 1, at_most))


def _merged(tracks: Sequence[Track], position: int) -> TensorSummary | None:
    found = [track.summaries[track.positions.index(position)] for track in tracks if position in track.positions]
    seen = [summary for summary in found if summary is not None]
    return reduce(add, seen) if seen else None


def _log_axis(grid: _Grid, *, starts_last: bool) -> Axis:
    rms = [[math.nan if cell is None else cell.rms for cell in row] for row in grid]
    low, high = log_window(rms, anchors=[row[-1 if starts_last else 0] for row in rms])
    low, high = low - _TAIL_BELOW, high + _TAIL_ABOVE
    edges = 10.0 ** np.linspace(low, high, _LOG_BINS + 1)
    # Room at both ends keeps the label of a cell's last tick off its neighbour's first.
    room = 0.07 * (high - low)
    return Axis("log", edges, tuple(10.0**e for e in exponents(low + room, high - room, 3)))


def _linear_axis(grid: _Grid) -> Axis:
    """Return the axis that holds 99.8% of the typical cells, symmetric about 0 unless one sign all but misses."""
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
    # Zero in the middle of a bin, or at the first edge: a signal that has collapsed to it makes one bar.
    first = -(math.ceil((room - low) / width) + 0.5) if low < 0 else 0.0
    edges = np.asarray(width * (first + np.arange(math.ceil((high + room) / width - first) + 1)), dtype=np.float64)
    ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return _spaced(Axis("linear", edges, tuple(float(tick) for tick in ticks if edges[0] <= tick <= edges[-1])))


def _spaced(axis: Axis) -> Axis:
    """Return the axis without the last tick when its label would run into the first one of the next cell."""
    ticks, labels = axis.ticks, axis.labels
    if len(ticks) < 2:
        return axis
    apart = 1 - float(axis.fraction(ticks[-1])) + float(axis.fraction(ticks[0]))
    # A character is 0.052 of a cell's width, the gap between cells 0.136; half of both labels lies between them.
    fits = apart + 0.136 > 0.026 * (len(labels[0]) + len(labels[-1])) + 0.03
    return axis if fits else replace(axis, ticks=ticks[:-1])


def _reach(summary: TensorSummary | None) -> tuple[float, float]:
    """Return the quantiles between which 99.8% of the finite values lie, stretched to 0."""
    if summary is None or not summary.finite_count:
        return 0.0, 0.0
    low, high = summary.min, summary.max
    if summary.histogram is not None and summary.histogram.finite.total:
        finite = summary.histogram.finite
        low, high = max(low, finite.quantile(0.001)), min(high, finite.quantile(0.999))
    return min(low, 0.0), max(high, 0.0)
