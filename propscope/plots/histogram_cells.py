"""One cell of a histogram grid: the shares that a shared axis' bins hold, and what the axis cannot show, in words.

The finite elements other than zero make the shape. Its highest bin has height 1, or the share of them within the axis
when some lie beyond it. Zeros stand apart: half of a ReLU's values are zero, and would squash everything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from propscope.plots.style import percent, power_of_ten, short
from propscope.records import LogHistogram, TensorSummary
from propscope.records.histogram import ZERO

Floats = NDArray[np.float64]

# Of the values that make a shape: a smaller share beyond the axis is the tail that every shape has.
_NOTABLE = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """The horizontal axis that all cells share; `edges` of its bins ascend, shape (bins + 1,).

    A linear axis runs in values. A logarithmic one runs in magnitudes: negative values point down from the base line.
    """

    kind: Literal["linear", "log"]
    edges: Floats
    ticks: tuple[float, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The ticks in words."""
        if self.kind == "linear":
            return tuple(short(tick) for tick in self.ticks)
        return tuple(power_of_ten(round(math.log10(tick))) for tick in self.ticks)

    def fraction(self, values: Floats | float) -> Floats:
        """Return where values stand between the axis' ends, 0 to 1 within."""
        low, high, at = self.edges[0], self.edges[-1], np.asarray(values, dtype=np.float64)
        if self.kind == "linear":
            return np.asarray((at - low) / (high - low))
        return np.asarray(np.log(at / low) / np.log(high / low))


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """What is drawn of one tensor: `up` and `down`, the heights of the bins, at most 1, shape (bins,).

    `down` holds the negative values of a logarithmic axis, and is all 0 on a linear one. `zero`: share of zeros.
    `below`, `above`: shares of all elements beyond the axis' ends, in magnitude when it is logarithmic. `nan`, `inf`:
    shares that are not finite. `rows`: the text written in. `seen`: whether there is anything to tell.
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
        """Whether a share beyond the axis is more than the tail that every shape has."""
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
    # The row holds two; what is dropped still shows as a bar at zero or an arrow at the end.
    return replace(cell, rows=tuple(filter(None, (*rows, ", ".join(notes[:2])))))


def _shares(summary: TensorSummary, histogram: LogHistogram, axis: Axis) -> tuple[Floats, Floats, float, float]:
    """Return the shares of all elements in each bin, upwards and downwards, and beyond the low and the high end.

    The bins are cut to the summary's extremes, which are exact where a bin is known to 12.5% only: without it a
    saturated tanh would seem to pass 1.
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
    """Return what falls between consecutive `edges`, below the first and above the last; bins are uniform within."""
    if not shares.size:
        return np.zeros(edges.size - 1), 0.0, 0.0
    order = np.argsort(lower, kind="stable")
    total = np.cumsum(shares[order])
    # A bin without width is a step: it belongs to the interval that starts at or contains it.
    knots = np.column_stack([lower[order], np.maximum(upper[order], np.nextafter(lower[order], np.inf))])
    heights = np.column_stack([total - shares[order], total])
    at = np.interp(edges, knots.ravel(), heights.ravel())
    return np.diff(at), float(at[0]), float(total[-1] - at[-1])
