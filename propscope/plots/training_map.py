"""Histograms of the activations against the epoch, one row per layer, or of a monitored run against the step.

As in fastai's "colorful dimension" pictures, each epoch is a column of cells whose colour is the logarithm of a share.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from propscope.plots.depth_series import DepthSeries, evenly, merged_at, positions_of, site_series
from propscope.plots.fast_text import width_of
from propscope.plots.pages import facts, lines
from propscope.plots.run_view import (
    STRIP,
    RunView,
    StepAxis,
    draw_alarms,
    draw_sampled,
    draw_step_axis,
    label_of,
    listed,
    steps_a_cell,
)
from propscope.plots.scales import Floats, Ints, Scale, position_ticks, spell
from propscope.plots.style import (
    DPI,
    LINE_HEIGHT,
    QUIET,
    Header,
    TextFigure,
    framed,
    mark_nonfinite,
    power_of_ten,
    units_of,
    wrap,
)
from propscope.records import HistogramsOverSteps, LogHistogram, TrainingSet

ROWS_AT_MOST = 6
CELLS = 60
# Fewer epochs than this show no development.
_EPOCHS_AT_LEAST = 3
# The axis ends at this many times the first layer's rms before training, even if values lie further out.
_FARTHER = 30.0
_READING = (
    "Each column of a panel is the histogram of one layer's activations at one epoch. Healthy: wide and steady. Only a "
    "dark line at 0: the layer is silent (zeros of ReLU make such a line beside other values). Growing and dropping to "
    "0 again and again: training collapses and restarts."
)
_MERGED = " Seeds are merged."
_BROKEN = " ▲: NaN or Inf."


@dataclass(frozen=True, slots=True, eq=False)
class TrainingMap:
    """A picture of histograms over the training: `shares[row][column]` has shape (moments, cells).

    It holds the share of a layer's finite values at a moment in each cell between `edges`, shape (cells + 1,). The two
    outermost cells include what lies beyond the scale. Shares are NaN where nothing was recorded. `sides`: where the
    moments begin and end on the axis, which counts epochs, or the steps of a monitored run with `steps`; shape
    (moments + 1,). `ticks`: the epochs at which the axis begins and ends; `kept`: the steps that have a histogram.
    `broken[row][column]` lists where on the axis a value is not finite. `rows` and `columns` hold the names of those
    shown.
    """

    header: Header
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    sides: Floats
    ticks: tuple[int, int]
    scale: Scale
    edges: Floats
    shares: tuple[tuple[Floats, ...], ...]
    broken: tuple[tuple[tuple[float, ...], ...], ...]
    steps: StepAxis | None = None
    kept: Ints | None = None


_SeriesByEpoch = dict[int, list[DepthSeries]]


def prepare_training_map(runs: TrainingSet) -> TrainingMap | None:
    """Return the histograms of every initializer and layer, or None with histograms of fewer than three epochs."""
    series = {name: _series_by_epoch(group) for name, group in lines(runs).items()}
    series = {name: found for name, found in series.items() if found}
    epochs = tuple(sorted({epoch for found in series.values() for epoch in found}))
    if len(epochs) < _EPOCHS_AT_LEAST:
        return None
    every = [one for found in series.values() for members in found.values() for one in members]
    positions = positions_of(every)
    rows = evenly(positions, ROWS_AT_MOST)
    merged = [
        [[merged_at(found.get(e, ()), row, histogram=True) for e in epochs] for found in series.values()]
        for row in rows
    ]
    summaries = [summary for row in merged for cell in row for summary in cell if summary is not None]
    starts = [cell[0].rms for cell in merged[0] if cell[0] is not None]
    scale = _scale(starts, [summary.histogram for summary in summaries])
    edges = scale.at(np.linspace(0, 1, CELLS + 1))
    counted = re.split(r"\W", every[0].axis)[0]
    broken = tuple(
        tuple(
            tuple(e for e, s in zip(epochs, cell, strict=True) if s is not None and s.nonfinite_count) for cell in row
        )
        for row in merged
    )
    several = any(len(members) > 1 for found in series.values() for members in found.values())
    reading = _READING + _MERGED * several + _BROKEN * any(cell for row in broken for cell in row)
    return TrainingMap(
        header=Header("Activations over the training", facts(runs), reading),
        rows=tuple(f"{counted} {position}" for position in rows),
        columns=tuple(series),
        sides=_sides(epochs),
        ticks=(epochs[0], epochs[-1]),
        scale=scale,
        edges=edges,
        shares=tuple(
            tuple(np.array([shares_of(None if s is None else s.histogram, edges) for s in cell]) for cell in row)
            for row in merged
        ),
        broken=broken,
    )


def _series_by_epoch(group: TrainingSet) -> _SeriesByEpoch:
    """Return the activations of every run of a line by epoch, where their histograms were recorded."""
    found: _SeriesByEpoch = {}
    for run in group:
        for epoch, profile in run.profiles:
            series = site_series(profile, "activation", "forward")
            if any(summary is not None and summary.histogram is not None for summary in series.summaries):
                found.setdefault(epoch, []).append(series)
    return found


def shares_of(histogram: LogHistogram | None, edges: Floats) -> Floats:
    """Return the shares of the finite values between consecutive edges, NaN if there are none."""
    finite = LogHistogram.empty() if histogram is None else histogram.finite
    if not finite.total:
        return np.full(edges.size - 1, np.nan)
    return finite.mass(np.concatenate([[-np.inf], edges[1:-1], [np.inf]])) / finite.total


def _scale(starts: Sequence[float], histograms: Sequence[LogHistogram | None]) -> Scale:
    """Return the asinh scale that suits the sizes (rms) before training and all values that are not far outside."""
    usable = [start for start in starts if 0 < start < math.inf]
    typical = float(np.median(usable)) if usable else 1.0
    linear = 10.0 ** math.floor(math.log10(typical) - 0.5)
    reaches = [_reach(histogram.finite) for histogram in histograms if histogram is not None]
    limit = _FARTHER * typical
    low = min([0.0, *(max(low, -limit) for low, _ in reaches)])
    high = max([0.0, *(min(high, limit) for _, high in reaches)])
    return Scale("asinh", min(1.1 * low, -0.4 * linear), max(1.1 * high, 1.5 * linear), linear)


def _reach(finite: LogHistogram) -> tuple[float, float]:
    """Return the quantiles between which 99.8% of the finite values lie, zeros if there are none."""
    return (finite.quantile(0.001), finite.quantile(0.999)) if finite.total else (0.0, 0.0)


_OF_STEPS = (
    "Each column of a panel is the histogram of the values at one site. Healthy: wide and steady. Only a dark line at "
    "0: the site is silent (zeros of ReLU make such a line beside other values). A histogram is shown until the next "
    "one; marks along the bottom: the steps that have one."
)
_CHOSEN = " Shown: {} of {} sites, evenly spread."
_TOGETHER = " A column covers {} steps; the samples among them are merged."


def prepare_step_histograms(view: RunView) -> TrainingMap | None:
    """Return the histograms over the steps of a monitored run, at sites evenly spread; None where none were kept."""
    sizes = view.series("forward_rms", summary="forward")
    if sizes is None:
        return None
    kept = {name: view.run.histograms_over_steps(name) for name in evenly(sizes.names, ROWS_AT_MOST)}
    kept = {name: found for name, found in kept.items() if len(found.steps)}
    if not kept:
        return None
    axis = view.axis
    merged = {name: _by_cell(axis, found) for name, found in kept.items()}
    starts = [float(sizes.first[sizes.names.index(name)]) for name in kept]
    scale = _scale(starts, [one for found in merged.values() for one in found])
    edges = scale.at(np.linspace(0, 1, CELLS + 1))
    middles = (axis.edges[:-1] + axis.edges[1:]) / 2
    lost = {name: [one is not None and one.total > one.finite.total for one in found] for name, found in merged.items()}
    # One mark where it begins.
    broken = {
        name: tuple(
            at
            for at, here, before in zip(middles.tolist(), own, [False, *own[:-1]], strict=True)
            if here and not before
        )
        for name, own in lost.items()
    }
    steps = steps_a_cell(axis.edges)
    reading = (
        _OF_STEPS
        + _CHOSEN.format(len(kept), len(sizes.names)) * (len(kept) < len(sizes.names))
        + _TOGETHER.format(steps) * (steps > 1)
        + axis.reading
        + _BROKEN * any(broken.values())
    )
    return TrainingMap(
        header=Header("Values over the steps", view.facts, reading),
        rows=tuple(label_of(name, _SITE_CHARACTERS) for name in kept),
        columns=("",),
        sides=axis.edges,
        ticks=(0, 0),
        scale=scale,
        edges=edges,
        shares=tuple((np.array([shares_of(one, edges) for one in found]),) for found in merged.values()),
        broken=tuple((at,) for at in broken.values()),
        steps=axis,
        kept=np.unique(np.concatenate([found.steps for found in kept.values()])),
    )


def _by_cell(axis: StepAxis, kept: HistogramsOverSteps) -> list[LogHistogram | None]:
    """Return the histogram of each cell of a step axis: those of its samples together, else the one before."""
    order = np.argsort(kept.steps, kind="stable")
    steps = kept.steps[order]
    (last,) = axis.samples(steps, np.arange(len(steps), dtype=np.float64)[:, None], over_gaps=True)
    lows, highs = (np.searchsorted(steps, edges) for edges in (axis.edges[:-1], axis.edges[1:]))
    own = [kept.histograms[at] for at in order]
    return [
        reduce(add, own[low:high]) if high > low else own[at] if at >= 0 else None
        for low, high, at in zip(lows.tolist(), highs.tolist(), last.tolist(), strict=True)
    ]


_WIDTH = 2.15
_HEIGHT = 1.15
_GAP = 0.22
_ROWS = 0.2
_LEFT = 1.45
_BELOW = 0.62
_KEY = 0.42
_LEAST_WIDTH = 8.5
_STEPS_WIDTH = 6.4
_SITE_CHARACTERS = 30
_NAME_CHARACTERS = 21
_SHADES = LinearSegmentedColormap.from_list(
    "density", ["#ffffff", "#dbe9f4", "#9fc5e2", "#4a90c4", "#1f5a95", "#0a2247"]
)
# A cell with fewer than one value in ten thousand is white.
_FEWEST = 4
_DENSITY = LogNorm(10.0**-_FEWEST, 1.0)
_UNSEEN = "#e9e9e9"


def draw_training_map(prepared: TrainingMap, figure: Figure | None = None) -> Figure:
    """Draw a grid of panels into a figure and set its size; without `figure`, a new one is made."""
    figure = figure or TextFigure(dpi=DPI)
    names = ["\n".join(wrap(name, _NAME_CHARACTERS)) for name in prepared.columns]
    headings = LINE_HEIGHT * 1.1 * max(name.count("\n") + 1 for name in names) + 0.12
    over_steps = prepared.steps is not None
    beside = max(_LEFT, 0.85 + 1.13 * max(map(width_of, prepared.rows))) if over_steps else _LEFT
    room = (_LEAST_WIDTH - beside - 0.1) / len(names) - _GAP
    across = max(_WIDTH, room) if prepared.steps is None else _STEPS_WIDTH
    width = max(_LEAST_WIDTH, beside + len(names) * (across + _GAP) + 0.1)
    if prepared.steps is not None:
        headings = STRIP
    notes = () if prepared.steps is None else listed(prepared.steps)
    inner = _KEY + headings + len(prepared.rows) * (_HEIGHT + _ROWS) + _BELOW
    start = framed(figure, prepared.header, width, inner, notes=notes)
    height = units_of(figure)[1]
    _draw_key(figure, start - 0.12)
    top = start - _KEY - headings
    for row, name_of_row in enumerate(prepared.rows):
        bottom = top - (row + 1) * _HEIGHT - row * _ROWS
        for column, name in enumerate(names):
            left = beside + column * (across + _GAP)
            axes = figure.add_axes((left / width, bottom / height, across / width, _HEIGHT / height))
            draw_mesh(axes, prepared, row, column)
            axes.tick_params(labelleft=column == 0, labelbottom=row + 1 == len(prepared.rows))
            if prepared.steps is not None:
                draw_step_axis(axes, prepared.steps, labelled=row + 1 == len(prepared.rows))
                draw_alarms(axes, prepared.steps, numbers=row == 0)
                draw_sampled(axes, prepared.kept if row + 1 == len(prepared.rows) else None)
                continue
            if row == 0:
                axes.set_title(name, pad=6, linespacing=1.1)
            if row + 1 == len(prepared.rows):
                axes.set_xlabel("epoch")
        middle = (bottom + _HEIGHT / 2) / height
        figure.text(0.2 / width, middle, name_of_row, weight="bold", va="center")
    return figure


def draw_mesh(axes: Axes, prepared: TrainingMap, row: int, column: int) -> Axes:
    """Draw the histograms of one layer and initializer into an axes, from the first epoch to the last."""
    shares = prepared.shares[row][column]
    sides = prepared.sides
    axes.set_facecolor(_UNSEEN)
    shown = np.ma.masked_invalid(np.where(np.isnan(shares), np.nan, np.maximum(shares, 10.0**-_FEWEST)))
    axes.pcolormesh(sides, prepared.edges, shown.T, cmap=_SHADES, norm=_DENSITY, rasterized=True)
    prepared.scale.apply(axes)
    _thin_ticks(axes, prepared.scale)
    axes.set_xlim(sides[0], sides[-1])
    axes.set_xticks(position_ticks(*prepared.ticks))
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("#b5b5b5")
    mark_nonfinite(axes, prepared.broken[row][column])
    return axes


def _thin_ticks(axes: Axes, scale: Scale) -> None:
    """Leave out what would be written over 0 or over a number that is nearer to it."""
    kept: list[float] = []
    for tick in sorted(scale.ticks, key=abs):
        if all(abs(scale.fraction(tick) - scale.fraction(other)) * _HEIGHT >= LINE_HEIGHT for other in kept):
            kept.append(tick)
    axes.set_yticks(sorted(kept), spell(sorted(kept)))


def _sides(epochs: tuple[int, ...]) -> Floats:
    """Return the borders of the columns of cells: midway between the epochs."""
    at = np.array(epochs, dtype=np.float64)
    middles = (at[1:] + at[:-1]) / 2
    return np.concatenate([[2 * at[0] - middles[0]], middles, [2 * at[-1] - middles[-1]]])


def _draw_key(figure: Figure, middle: float) -> None:
    """Draw the colour scale in one row, `middle` inches above the bottom."""
    width, height = figure.get_size_inches()
    text = f"share of a layer's values in a cell: {power_of_ten(-_FEWEST)} or less"
    left = 0.2
    figure.text(left / width, middle / height, text, va="center")
    left += width_of(text) + 0.1
    bar = figure.add_axes((left / width, (middle - 0.08) / height, 1.6 / width, 0.16 / height))
    bar.imshow(np.geomspace(10.0**-_FEWEST, 1, 128)[None], aspect="auto", cmap=_SHADES, norm=_DENSITY)
    bar.set_xticks([])
    bar.set_yticks([])
    figure.text((left + 1.7) / width, middle / height, "all;   grey: not recorded", va="center", color=QUIET)
