"""Averages over seeds with their intervals; gains are averaged on logarithms, since they scatter log-normally.

Hanin and Nica 2020 (Products of many large random matrices and gradients in deep neural networks): at finite width
the logarithm of a network's gain is Gaussian with a variance of order depth / width, so that rare seeds dominate the
mean of the gains themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np


@dataclass(frozen=True, slots=True)
class Interval:
    """The mean of `count` values, geometric or arithmetic (`center`), and the limits `low`, `high` of its 95% interval.

    The limits are NaN for fewer than two values.
    """

    center: float
    low: float
    high: float
    count: int

    def __pow__(self, power: float) -> Interval:
        limits = sorted((self.low**power, self.high**power)) if self.count > 1 else (self.low, self.high)
        return Interval(self.center**power, limits[0], limits[1], self.count)


def geometric_interval(values: Iterable[float]) -> Interval:
    """Return the geometric mean of positive `values` with its 95% Student interval on logarithms.

    A zero (vanished) makes the mean and the lower limit 0; an Inf (overflowed) makes the mean and the upper limit Inf;
    both together make the mean NaN. NaN values are left out. With one value or none the limits are NaN; where fewer
    than two values have a finite logarithm, they are the smallest and the largest value.
    """
    array = np.array([value for value in values if not math.isnan(value)], dtype=np.float64)
    nan = float("nan")
    if not array.size:
        return Interval(nan, nan, nan, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(array)
        center = float(np.exp(logs.mean()))
    usable = logs[np.isfinite(logs)]
    if array.size < 2:
        return Interval(center, nan, nan, 1)
    if usable.size < 2:
        return Interval(center, float(array.min()), float(array.max()), array.size)
    half = student(usable.size - 1) * float(usable.std(ddof=1)) / math.sqrt(usable.size)
    with np.errstate(over="ignore", under="ignore"):
        low, high = np.exp(usable.mean() + np.array([-half, half])).tolist()
    low = 0.0 if (array == 0).any() else low
    high = math.inf if np.isinf(array).any() else high
    return Interval(center, low, high, array.size)


@cache
def student(freedom: int) -> float:
    """Return t such that Student's distribution with so many degrees of freedom has 95% of its mass within -t and t.

    With t = sqrt(n) tan(angle) the mass is a finite sum: Abramowitz and Stegun 1964, eq. 26.7.3 and 26.7.4. Importing
    scipy.special for this alone would take as long as reading and printing a file.
    """
    odd = freedom % 2
    low, high = 0.0, math.pi / 2
    while low < (angle := (low + high) / 2) < high:
        term = math.cos(angle) if odd else 1.0
        mass = term if freedom > 1 else 0.0
        for power in range(2 + odd, freedom - 1, 2):
            term *= (power - 1) / power * math.cos(angle) ** 2
            mass += term
        mass *= math.sin(angle)
        if (2 / math.pi * (angle + mass) if odd else mass) < 0.95:
            low = angle
        else:
            high = angle
    return math.sqrt(freedom) * math.tan(low)


def arithmetic_interval(values: Iterable[float]) -> Interval:
    """Return the arithmetic mean of `values` with its 95% Student interval.

    NaN values are left out. The limits are NaN for fewer than two values and where a value is infinite.
    """
    array = np.array([value for value in values if not math.isnan(value)], dtype=np.float64)
    if array.size < 2 or np.isinf(array).any():
        center = float(array.sum()) if array.size else math.nan
        return Interval(center, math.nan, math.nan, array.size)
    # Scaling first keeps the squares of numbers near the limits of float64 from overflowing.
    scale = float(np.abs(array).max()) or 1.0
    center = float((array / scale).mean()) * scale
    half = student(array.size - 1) * float((array / scale).std(ddof=1)) / math.sqrt(array.size) * scale
    return Interval(center, center - half, center + half, array.size)
