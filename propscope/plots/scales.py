"""The scale of an axis: which one suits a set of values, where a value stands on it, and its ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from propscope.plots.style import power_of_ten, short

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DECADES_ABOVE = 5.0
DECADES_BELOW = 9.0
# On fewer decades, the random variation of one healthy network would look like a trend.
DECADES_AT_LEAST = 2.0
_TICKS = 7
_PAD = 0.04
# Matplotlib's transforms multiply limits, which would overflow beyond this.
_LARGEST = 1e100


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from `low` to `high`: linear, logarithmic, symlog (linear within +-`linear_below`), or asinh.

    The asinh scale has no kink; that of symlog would show on an axis that is divided into cells. `clipped` is True if
    finite values lie beyond the limits.
    """

    kind: Literal["linear", "log", "symlog", "asinh"]
    low: float
    high: float
    linear_below: float = math.nan
    clipped: bool = False

    def _units(self, values: ArrayLike) -> Floats:
        array = np.asarray(values, dtype=np.float64)
        if self.kind == "linear":
            return array
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.kind == "log":
                return np.log10(array)
            if self.kind == "asinh":
                return np.arcsinh(array / self.linear_below)
            # As matplotlib's symlog scale of base 10 and linscale 1, in units of the linear range.
            size = np.abs(array) / self.linear_below
            return np.asarray(np.sign(array) * np.where(size <= 1, size * 10 / 9, 10 / 9 + np.log10(size)))

    def fraction(self, values: ArrayLike) -> Floats:
        """Return where values stand on the axis, from 0 (low end) to 1 (high end), clipped to it; NaN stays NaN."""
        low, high = self._units([self.low, self.high])
        return np.asarray(np.clip((self._units(values) - low) / (high - low), 0.0, 1.0))

    def at(self, fractions: ArrayLike) -> Floats:
        """Return the values at fractions of the axis, from 0 (low end) to 1 (high end)."""
        low, high = self._units([self.low, self.high])
        units = low + np.asarray(fractions, dtype=np.float64) * (high - low)
        if self.kind == "linear":
            return np.asarray(units)
        if self.kind == "log":
            return np.asarray(10.0**units)
        if self.kind == "asinh":
            return np.asarray(self.linear_below * np.sinh(units))
        size = np.abs(units)
        return np.asarray(
            np.sign(units) * self.linear_below * np.where(size <= 10 / 9, size * 9 / 10, 10 ** (size - 10 / 9))
        )

    @property
    def ticks(self) -> tuple[float, ...]:
        """At most 7 powers of ten in range; symlog and asinh add 0 and both signs; a linear axis has none.

        A short logarithmic axis has 2 and 5 times the powers too.
        """
        if self.kind == "linear":
            return ()
        if self.kind == "log":
            low, high = math.log10(self.low), math.log10(self.high)
            if high - low > 2.5:
                return tuple(10.0**e for e in exponents(low, high, _TICKS))
            powers = range(math.floor(low), math.ceil(high) + 1)
            return tuple(x for e in powers for x in (10.0**e, 2 * 10.0**e, 5 * 10.0**e) if self.low <= x <= self.high)
        sizes = [10.0**e for e in range(round(math.log10(self.linear_below)), 300) if 10.0**e <= self._far]
        step = -(-len(sizes) // 3)
        both = [0.0, *sizes[::step], *(-size for size in sizes[::step])]
        return tuple(sorted(tick for tick in both if self.low <= tick <= self.high))

    @property
    def _far(self) -> float:
        return max(abs(self.low), abs(self.high))

    def apply(self, axes: Axes) -> Axes:
        """Give the y axis of an axes this scale and its ticks."""
        if self.kind == "symlog":
            axes.set_yscale("symlog", linthresh=self.linear_below)
        elif self.kind == "asinh":
            axes.set_yscale("asinh", linear_width=self.linear_below)
        elif self.kind == "log":
            axes.set_yscale("log")
        axes.set_ylim(self.low, self.high)
        if self.kind == "linear":
            axes.yaxis.set_major_locator(MaxNLocator(6))
        else:
            axes.yaxis.set_major_locator(FixedLocator(self.ticks))
            axes.yaxis.set_major_formatter(FixedFormatter(spell(self.ticks)))
        axes.yaxis.set_minor_locator(NullLocator())
        return axes


def exponents(low: float, high: float, at_most: int) -> list[int]:
    """Return at most `at_most` evenly spaced integers from `low` to `high`, with 0 if it lies there."""
    first, last = math.ceil(low - 1e-9), math.floor(high + 1e-9)
    step = max(1, -(-(last - first + 1) // at_most))
    # Multiples of the step include 10^0 = 1.
    return [e for e in range(first, last + 1) if e % step == 0]


def position_ticks(first: int, last: int) -> list[int]:
    """Return at most 9 integer ticks: the first position, then multiples of 1, 2, 5, 10, ..."""
    steps = (digit * 10**power for power in range(7) for digit in (1, 2, 5))
    step = next((step for step in steps if (last - first) / step <= 6), last - first)
    return [first, *(tick for tick in range(0, last + 1, step) if tick > first + step / 2)]


def spell(ticks: Sequence[float]) -> list[str]:
    """Return the numbers of an axis as text."""
    if all(tick == 0 or 0.01 <= abs(tick) < 1e4 for tick in ticks):
        return [short(tick) for tick in ticks]
    return [_power(tick) for tick in ticks]


def _power(value: float) -> str:
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    lead = round(abs(value) / 10.0**exponent)
    if lead != 1 and abs(exponent) <= 1:
        return short(value)
    return ("−" if value < 0 else "") + (f"{lead}·" if lead != 1 else "") + power_of_ten(exponent)


def log_window(values: ArrayLike, *, anchors: ArrayLike) -> tuple[float, float]:
    """Return the limits (log10) of a logarithmic axis: those of the positive values, 2 to 14 decades apart.

    If the values span more than 14 decades, the limits lie 9 decades below and 5 above the anchor. The anchor is the
    one of `anchors`, the values at which the signals start, that is nearest to 1: this keeps healthy networks in sight.
    Without positive values, the limits are -1 and 1.
    """
    logs, starts = _decades(values), _decades(anchors)
    if not logs.size:
        return -1.0, 1.0
    low, high = float(logs.min()), float(logs.max())
    if high - low > DECADES_ABOVE + DECADES_BELOW:
        anchor = float(starts[np.abs(starts).argmin()]) if starts.size else high
        high = min(high, anchor + DECADES_ABOVE)
        low = max(low, high - DECADES_ABOVE - DECADES_BELOW)
    short_by = max(0.0, DECADES_AT_LEAST - (high - low)) / 2
    return low - short_by, high + short_by


def _decades(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64).ravel()
    # Within 300 decades of 1, the ends of an axis stay finite and positive even with room around the values.
    return np.clip(np.log10(array[np.isfinite(array) & (array > 0)]), -300, 300)


def log_scale(values: ArrayLike, *, anchors: ArrayLike, limits: ArrayLike = ()) -> Scale:
    """Return the logarithmic scale that shows `log_window`, with a little room at both ends.

    It also shows the `limits` of the values' intervals, as far as they lie within a factor of 3 of the values.
    """
    logs = _decades(values)
    bands = 10 ** np.clip(_decades(limits), logs.min() - 0.5, logs.max() + 0.5) if logs.size else np.empty(0)
    low, high = log_window(np.concatenate([10**logs, bands]), anchors=anchors)
    clipped = bool(logs.size and (logs.min() < low or logs.max() > high))
    room = _PAD * (high - low)
    return Scale("log", 10 ** (low - room), 10 ** (high + room), clipped=clipped)


def signed_scale(curves: Sequence[Floats], *, limits: ArrayLike = (), spread: float = 0.0) -> Scale:
    """Return the scale for curves of either sign: linear, or symlog if some exceed 20 times the typical curve.

    The axis reaches at least half of `spread`, the standard deviation that a mean is compared with. It also shows the
    `limits` of the values' intervals, up to 1.5 times as far as the values. A curve beyond a million times the typical
    one leaves the axis.
    """
    finite = [curve[np.isfinite(curve)] for curve in curves]
    sizes = [min(float(np.abs(values).max()), _LARGEST) for values in finite if values.any()]
    least = min(spread / 2, _LARGEST) if math.isfinite(spread) else 0.0
    typical = max(float(np.median(sizes)) if sizes else 0.0, least)
    if typical == 0:
        return Scale("linear", -1.0, 1.0)
    values = np.concatenate([[0.0], *finite])
    low, high = float(values.min()), float(values.max())
    if max(-low, high) <= min(20 * typical, _LARGEST):
        bands = np.asarray(limits, dtype=np.float64)
        reach = np.clip(bands[np.isfinite(bands)], 1.5 * min(low, -least), 1.5 * max(high, least))
        low, high = min([low, *reach]), max([high, *reach])
        low, high = (min(low, -least), max(high, least)) if max(-low, high) < least else (low, high)
        room = _PAD * (high - low)
        return Scale("linear", low - room, high + room)
    linear = 10.0 ** math.floor(math.log10(typical) - 1)
    edge = min(1e6 * typical, _LARGEST)
    clipped = low < -edge or high > edge
    low, high = max(low, -edge), min(high, edge)
    # Both ends lie outside the linear range, which keeps 0 off the edge and gives the first power a tick.
    return Scale("symlog", min(1.5 * low, -1.5 * linear), max(1.5 * high, 1.5 * linear), linear, clipped)
