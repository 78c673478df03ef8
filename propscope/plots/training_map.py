"""Histograms of the activations over the training, a row a layer, a column an initializer: what is drawn.

After the "colorful dimension" pictures of fastai: a column of cells a moment, its colour the logarithm of the density.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from propscope.plots.depth_series import Track, positions_of, site_track
from propscope.plots.histograms import evenly
from propscope.plots.pages import facts, lines
from propscope.plots.quantities import Floats
from propscope.plots.scales import Scale
from propscope.plots.style import Header
from propscope.records import LogHistogram, TensorSummary, TrainingSet

ROWS_AT_MOST = 6
CELLS = 60
# Fewer moments than this are no course of events.
_MOMENTS = 3
# Values that many times further out than the first layer's before training do not make the axis longer.
_FARTHER = 30.0
_READING = (
    "Each column of cells is the histogram of a layer's activations at one epoch. Healthy: wide and steady. Nothing "
    "but a dark line at 0: the layer is silent (a rectifier's zeros make a line there beside the rest). Growing, then "
    "falling to the line again and again: the training collapses and starts anew."
)
_MERGED = " Seeds merged."
_BROKEN = " ▲: NaN or Inf."


@dataclass(frozen=True, slots=True, eq=False)
class TrainingMap:
    """A picture of histograms over the training: `shares[row][column]` of shape (len(epochs), cells).

    Of the finite values of a layer at an epoch, those in each cell between `edges`, shape (cells + 1,); the outermost
    two hold what is beyond the scale too; NaN where nothing was recorded. `broken[row][column]`: the epochs at which
    some value is not finite. `rows`: the positions shown, `of` how many; `counts`: what those count.
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


_Tracks = dict[int, list[Track]]


def prepare_training_map(runs: TrainingSet) -> TrainingMap | None:
    """Return the histograms of every initializer and layer; None with histograms of fewer than three epochs."""
    tracks = {name: _tracks(group) for name, group in lines(runs).items()}
    tracks = {name: found for name, found in tracks.items() if found}
    epochs = tuple(sorted({epoch for found in tracks.values() for epoch in found}))
    if len(epochs) < _MOMENTS:
        return None
    every = [track for found in tracks.values() for members in found.values() for track in members]
    positions = positions_of(every)
    rows = evenly(positions, ROWS_AT_MOST)
    merged = [[[_merged(found.get(e, ()), row) for e in epochs] for found in tracks.values()] for row in rows]
    scale = _scale(merged)
    edges = scale.at(np.linspace(0, 1, CELLS + 1))
    broken = tuple(
        tuple(
            tuple(e for e, s in zip(epochs, cell, strict=True) if s is not None and s.nonfinite_count) for cell in row
        )
        for row in merged
    )
    several = any(len(members) > 1 for found in tracks.values() for members in found.values())
    reading = _READING + _MERGED * several + _BROKEN * any(cell for row in broken for cell in row)
    return TrainingMap(
        header=Header("Activations over the training", facts(runs), reading),
        rows=rows,
        of=len(positions),
        counts=every[0].axis,
        columns=tuple(tracks),
        epochs=epochs,
        scale=scale,
        edges=edges,
        shares=tuple(tuple(np.array([shares_of(s, edges) for s in cell]) for cell in row) for row in merged),
        broken=broken,
    )


def _tracks(group: TrainingSet) -> _Tracks:
    """Return the activations of every run of a line by epoch, where histograms of them were taken."""
    found: _Tracks = {}
    for run in group:
        for epoch, profile in run.profiles:
            track = site_track(profile, "activation", "forward")
            if any(summary is not None and summary.histogram is not None for summary in track.summaries):
                found.setdefault(epoch, []).append(track)
    return found


def _merged(tracks: Sequence[Track], position: int) -> TensorSummary | None:
    found = [track.summaries[track.positions.index(position)] for track in tracks if position in track.positions]
    seen = [summary for summary in found if summary is not None and summary.histogram is not None]
    return reduce(add, seen) if seen else None


def shares_of(summary: TensorSummary | None, edges: Floats) -> Floats:
    """Return the shares of the finite values between consecutive edges; NaN without any."""
    histogram = LogHistogram.empty() if summary is None or summary.histogram is None else summary.histogram.finite
    if not histogram.total:
        return np.full(edges.size - 1, np.nan)
    return histogram.mass(np.concatenate([[-np.inf], edges[1:-1], [np.inf]])) / histogram.total


def _scale(merged: Sequence[Sequence[Sequence[TensorSummary | None]]]) -> Scale:
    """Return the symmetric logarithmic scale that the first layer before training asks for, and what is not far off."""
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
    """Return the quantiles between which 99.8% of the finite values lie; zeros without any."""
    if summary.histogram is None or not summary.histogram.finite.total:
        return 0.0, 0.0
    finite = summary.histogram.finite
    return max(summary.min, finite.quantile(0.001)), min(summary.max, finite.quantile(0.999))
