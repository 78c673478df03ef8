"""Histograms of the activations against the epoch: one row per layer, one column per initializer.

As in fastai's "colorful dimension" pictures, each epoch is a column of cells whose colour is the logarithm of a share.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from propscope.plots.depth_series import DepthSeries, evenly, merged_at, positions_of, site_series
from propscope.plots.fast_text import width_of
from propscope.plots.pages import facts, lines
from propscope.plots.scales import Floats, Scale, position_ticks
from propscope.plots.style import (
    DPI,
    LINE_HEIGHT,
    QUIET,
    Header,
    draw_header,
    mark_nonfinite,
    power_of_ten,
    wrap,
)
from propscope.records import LogHistogram, TensorSummary, TrainingSet

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
    """A picture of histograms over the training: `shares[row][column]` has shape (len(epochs), cells).

    It holds the share of a layer's finite values at an epoch in each cell between `edges`, shape (cells + 1,). The two
    outermost cells include what lies beyond the scale. Shares are NaN where nothing was recorded. `broken[row][column]`
    lists the epochs at which a value is not finite. `rows` holds the positions shown, out of `of` positions, and
    `counts` says what the positions count.
    """

    header: Header
    rows: tuple[int, ...]
    of: int
    counts: str
    columns: tuple[str, ...]
    epochs: tuple[int, ...]
    scale: Scale
    edges: Floats
    shares: tuple[tuple[Floats, ...], ...]
    broken: tuple[tuple[tuple[int, ...], ...], ...]


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
    scale = _scale(merged)
    edges = scale.at(np.linspace(0, 1, CELLS + 1))
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
        rows=rows,
        of=len(positions),
        counts=every[0].axis,
        columns=tuple(series),
        epochs=epochs,
        scale=scale,
        edges=edges,
        shares=tuple(tuple(np.array([shares_of(s, edges) for s in cell]) for cell in row) for row in merged),
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


def shares_of(summary: TensorSummary | None, edges: Floats) -> Floats:
    """Return the shares of the finite values between consecutive edges, NaN if there are none."""
    histogram = LogHistogram.empty() if summary is None or summary.histogram is None else summary.histogram.finite
    if not histogram.total:
        return np.full(edges.size - 1, np.nan)
    return histogram.mass(np.concatenate([[-np.inf], edges[1:-1], [np.inf]])) / histogram.total


def _scale(merged: Sequence[Sequence[Sequence[TensorSummary | None]]]) -> Scale:
    """Return the asinh scale that suits the first layer before training and all values that are not far outside."""
    summaries = [summary for row in merged for cell in row for summary in cell]
    starts = [cell[0].rms for cell in merged[0] if cell[0] is not None and 0 < cell[0].rms < math.inf]
    typical = float(np.median(starts)) if starts else 1.0
    linear = 10.0 ** math.floor(math.log10(typical) - 0.5)
    reaches = [_reach(summary) for summary in summaries if summary is not None]
    limit = _FARTHER * typical
    low = min([0.0, *(max(low, -limit) for low, _ in reaches)])
    high = max([0.0, *(min(high, limit) for _, high in reaches)])
    return Scale("asinh", min(1.1 * low, -0.4 * linear), max(1.1 * high, 1.5 * linear), linear)


def _reach(summary: TensorSummary) -> tuple[float, float]:
    """Return the quantiles between which 99.8% of the finite values lie, zeros if there are none."""
    if summary.histogram is None or not summary.histogram.finite.total:
        return 0.0, 0.0
    finite = summary.histogram.finite
    return max(summary.min, finite.quantile(0.001)), min(summary.max, finite.quantile(0.999))


_WIDTH = 2.15
_HEIGHT = 1.15
_GAP = 0.22
_ROWS = 0.2
_LEFT = 1.45
_BELOW = 0.62
_KEY = 0.42
_LEAST_WIDTH = 8.5
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
    figure = figure or Figure(dpi=DPI)
    names = ["\n".join(wrap(name, _NAME_CHARACTERS)) for name in prepared.columns]
    headings = LINE_HEIGHT * 1.1 * max(name.count("\n") + 1 for name in names) + 0.12
    width = max(_LEAST_WIDTH, _LEFT + len(names) * (_WIDTH + _GAP) + 0.1)
    header = prepared.header.height(width)
    top = header + _KEY + headings
    height = top + len(prepared.rows) * (_HEIGHT + _ROWS) + _BELOW
    figure.set_size_inches(width, height)
    draw_header(figure, prepared.header)
    _draw_key(figure, height - header - 0.12)
    counted = re.split(r"\W", prepared.counts)[0]
    for row, position in enumerate(prepared.rows):
        bottom = height - top - (row + 1) * _HEIGHT - row * _ROWS
        for column, name in enumerate(names):
            left = _LEFT + column * (_WIDTH + _GAP)
            axes = figure.add_axes((left / width, bottom / height, _WIDTH / width, _HEIGHT / height))
            draw_mesh(axes, prepared, row, column)
            axes.tick_params(labelleft=column == 0, labelbottom=row + 1 == len(prepared.rows))
            if row == 0:
                axes.set_title(name, pad=6, linespacing=1.1)
            if row + 1 == len(prepared.rows):
                axes.set_xlabel("epoch")
        middle = (bottom + _HEIGHT / 2) / height
        figure.text(0.2 / width, middle, f"{counted} {position}", weight="bold", va="center")
    return figure


def draw_mesh(axes: Axes, prepared: TrainingMap, row: int, column: int) -> Axes:
    """Draw the histograms of one layer and initializer into an axes, from the first epoch to the last."""
    shares = prepared.shares[row][column]
    sides = _sides(prepared.epochs)
    axes.set_facecolor(_UNSEEN)
    shown = np.ma.masked_invalid(np.where(np.isnan(shares), np.nan, np.maximum(shares, 10.0**-_FEWEST)))
    axes.pcolormesh(sides, prepared.edges, shown.T, cmap=_SHADES, norm=_DENSITY, rasterized=True)
    prepared.scale.apply(axes)
    axes.set_xlim(sides[0], sides[-1])
    axes.set_xticks(position_ticks(prepared.epochs[0], prepared.epochs[-1]))
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("#b5b5b5")
    mark_nonfinite(axes, prepared.broken[row][column])
    return axes


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
