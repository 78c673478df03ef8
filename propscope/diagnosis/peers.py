"""What is usual among peers: the median of the others, for each of many, by one sort."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


def medians_of_others(values: Sequence[float]) -> list[float]:
    """Return for each of two or more values the median of all the others."""
    ascending = sorted(values)
    return [median_without(ascending, bisect_left(ascending, value)) for value in values]


def median_without(ascending: Sequence[float], left_out: int) -> float:
    """Return the median of two or more ascending values without the one at position `left_out`."""
    middle, odd = divmod(len(ascending) - 1, 2)
    below, above = (ascending[at + (at >= left_out)] for at in (middle - (not odd), middle))
    return (below + above) / 2
