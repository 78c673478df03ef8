"""What each rank brings of a quantity, and what it makes of what all ranks bring: one maximum, then one sum.

A `Part` yields the numbers whose maximum over the ranks it needs, and is sent these maxima; then it yields the numbers
whose sum it needs, is sent the sums, and returns the quantity of all ranks together. `joint` runs many as one, so that
any number of quantities needs two reductions. All numbers are float64, and -Inf where a rank has none to compare.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from propscope.records.histogram import BIN_COUNT, NAN, NEGINF, POSINF, ZERO, LogHistogram
from propscope.records.summary import TensorSummary

T = TypeVar("T")
Vector = NDArray[np.float64]
Part = Generator[Vector, Vector, T]

_SPECIAL = np.array([ZERO, POSINF, NAN, NEGINF])
_IS_SPECIAL = np.isin(np.arange(BIN_COUNT), _SPECIAL)
# The bins of positive and of negative numbers.
_SIGNS = (0, BIN_COUNT // 2)


def vector(values: ArrayLike) -> Vector:
    """Return numbers as a vector of float64."""
    return np.asarray(values, np.float64).reshape(-1)


def pieces(whole: Vector, lengths: Iterable[int]) -> list[Vector]:
    """Return a vector cut into pieces of these lengths."""
    ends = list(accumulate(lengths))
    return [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def joint(parts: Sequence[Part[Any]]) -> Part[list[Any]]:
    """Run several parts as one, and return what each returns."""
    maxima = [next(part) for part in parts]
    got = yield np.concatenate([vector(()), *maxima])
    sums = [part.send(one) for part, one in zip(parts, pieces(got, list(map(len, maxima))), strict=True)]
    got = yield np.concatenate([vector(()), *sums])
    return [ended(part, one) for part, one in zip(parts, pieces(got, list(map(len, sums))), strict=True)]


def ended(part: Part[T], sums: Vector) -> T:
    """Send a part its sums, and return what it returns."""
    try:
        part.send(sums)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("a part asks for one maximum and one sum")


def largest(values: ArrayLike) -> Part[Vector]:
    """Return the largest of each number over the ranks."""
    got = yield vector(values)
    yield vector(())
    return got


def added(values: ArrayLike) -> Part[Vector]:
    """Return the sum of each number over the ranks."""
    yield vector(())
    return (yield vector(values))


def added_alike(values: Vector) -> Part[Vector | None]:
    """Return the sum of each number over the ranks that have any; None where they have other numbers of them."""
    length = common((yield both_ends(len(values) or None)))
    got = yield vector(()) if length is None else values if len(values) else np.zeros(length)
    return None if length is None else got


def both_ends(number: float | None) -> Vector:
    """Return what tells of a number whether all ranks that have one have the same, see `common`."""
    return vector([-math.inf, -math.inf] if number is None else [number, -number])


def common(ends: Vector) -> int | None:
    """Return the whole number that all ranks have that have one; None where they differ, or none has any."""
    return int(ends[0]) if ends[0] == -ends[1] else None


def summarized(summary: TensorSummary | None, *, bins: bool) -> Part[tuple[TensorSummary | None, int]]:
    """Return the summary of the elements of all ranks, None where no rank has one, and how many have the same one.

    That number is 0 where the moments of some differ.
    The second moment is taken about the largest of the ranks' means, in units of the largest spread, so that it is
    neither lost to cancellation nor leaves the range. `bins`: whether histograms are added, the range of bins that any
    rank occupies; without, the summary has none.
    """
    finite = 0 if summary is None else summary.finite_count
    histogram = (summary.histogram if summary is not None and bins else None) or LogHistogram.empty()
    # What tells apart: the count, and the moments of the finite elements, with their signs turned too.
    count = -math.inf if summary is None else float(summary.count)
    mean, std, low, high = (
        (summary.mean, summary.std, summary.min, summary.max) if summary and finite else [-math.inf] * 4
    )
    least = [-x if finite else -math.inf for x in (mean, std, low)]
    ranges = [_range(histogram, first) for first in _SIGNS] if bins else []
    got = yield vector([count, 0.0 if summary is None else -count, mean, std, high, *least, *np.ravel(ranges)])
    most, fewest, center, spread, high, *rest = got.tolist()
    lowest, thinnest, low = (-one for one in rest[:3])
    alike = most == -fewest and center == lowest and spread == thinnest
    scale = max(spread, center - lowest)
    scale = scale if 0 < scale < math.inf else 1.0
    codes = _codes(rest[3:])
    sums = [0.0] * 9
    if summary is not None:
        away, width = ((mean - center) / scale, std / scale) if finite else (0.0, 0.0)
        others = summary.nan_count, summary.posinf_count, summary.neginf_count
        zeros = round(summary.zero_fraction * summary.count) if summary.count else 0
        sums = [summary.count, finite, *others, zeros, 1.0, finite * away, finite * (width**2 + away**2)]
    got = yield np.concatenate([sums, histogram.dense()[codes] if codes.size else codes])
    if most == -math.inf:
        return None, 0
    whole, finite, nan, posinf, neginf, zeros, holders = map(round, got[:7].tolist())
    shift, square = (got[7:9] / max(finite, 1)).tolist()
    dense = np.zeros(BIN_COUNT, np.int64)
    dense[codes] = np.rint(got[9:])
    nothing = math.nan
    return TensorSummary(
        count=whole,
        mean=center + scale * shift if finite else nothing,
        std=scale * math.sqrt(max(square - shift**2, 0.0)) if finite else nothing,
        min=low if finite else nothing,
        max=high if finite else nothing,
        zero_fraction=zeros / whole if whole else nothing,
        nan_count=nan,
        posinf_count=posinf,
        neginf_count=neginf,
        histogram=LogHistogram.from_dense(dense) if bins else None,
    ), holders if alike else 0


def _range(histogram: LogHistogram, first: int) -> tuple[float, float]:
    """Return the last occupied bin of one sign, and minus the first one; -Inf for none."""
    bins = histogram.bins[~_IS_SPECIAL[histogram.bins]]
    bins = bins[(bins >= first) & (bins < first + BIN_COUNT // 2)]
    return (float(bins[-1]), -float(bins[0])) if bins.size else (-math.inf, -math.inf)


def _codes(ranges: Sequence[float]) -> NDArray[np.int64]:
    """Return the bins that are added up, from the ends of the ranges over all ranks."""
    if not ranges:
        return np.empty(0, np.int64)
    found = [
        np.arange(-start, end + 1) for end, start in zip(ranges[::2], ranges[1::2], strict=True) if end > -math.inf
    ]
    return np.concatenate([_SPECIAL, *found]).astype(np.int64)


def marks_of_classes(classes: NDArray[np.int64], *, rank: int, ranks: int) -> Vector:
    """Return numbers whose sums over the ranks are equal for units that are equal on every rank.

    `classes`: a number for each unit, the same for those that are equal on this rank. Two units that differ have the
    same sum with a probability of 2^-(52 - log2(ranks)).
    """
    # The finalizer of SplitMix64 (Steele, Lea, Flood 2014), of numbers that no two ranks share.
    mixed = classes.astype(np.uint64) * np.uint64(2 * ranks + 1) + np.uint64(2 * rank + 1)
    with np.errstate(over="ignore"):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    # So many bits that the sum over the ranks is exact in float64.
    return vector(mixed >> np.uint64(12 + max(ranks - 1, 0).bit_length()))
