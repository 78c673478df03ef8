"""What is left out of a page so that it stays small: positions that are kept, and figures that are rounded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from propscope.records.network import Floats

Positions = NDArray[np.int64]


def evenly(count: int, at_most: int, also: Iterable[int] = ()) -> Positions:
    """Return at most `at_most` of the positions from 0 to count - 1, evenly spread with both ends, and those in `also`.

    Those in `also` come on top, and are kept whatever their number.
    """
    spread = np.arange(count) if count <= at_most else np.linspace(0, count - 1, at_most).round().astype(np.int64)
    return np.union1d(spread, np.fromiter(also, np.int64)).astype(np.int64)


def with_extremes(series: Sequence[Floats], parts: int) -> Positions:
    """Return the ends of so many equal parts of series of one length, and where each is smallest and largest in them.

    What is neither NaN nor finite is largest, so that no peak is lost.
    """
    count = len(series[0]) if series else 0
    if count <= parts:
        return np.arange(count)
    kept = {0, count - 1}
    for part in np.array_split(np.arange(count), parts):
        kept.add(int(part[0]))
        for values in series:
            if len(known := part[~np.isnan(values[part])]):
                kept |= {int(known[values[known].argmin()]), int(known[values[known].argmax()])}
    return np.array(sorted(kept), np.int64)


def rounded(value: Any, digits: int) -> Any:
    """Return a number to so many significant digits; anything else as it is."""
    return float(f"{value:.{digits}g}") if isinstance(value, float) and math.isfinite(value) else value


def listed(values: Floats, digits: int) -> list[Any]:
    """Return an array as lists of numbers to so many significant digits."""
    if values.ndim > 1:
        return [listed(row, digits) for row in values]
    return [rounded(value, digits) for value in values.tolist()]
