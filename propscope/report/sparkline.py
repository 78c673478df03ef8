"""Draws a histogram, or numbers over steps, in a dozen characters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from propscope.records.histogram import LogHistogram

BLOCKS = "▁▂▃▄▅▆▇█"
NAN_MARK, INF_MARK = "N", "∞"
_TAIL = 0.001
# What changes by less than this factor over the steps is drawn flat.
_FLAT = 1.25


def sparkline(histogram: LogHistogram | None, *, width: int = 12) -> str:
    """Return the distribution of the finite values as `width` blocks on a linear axis.

    The axis is symmetric about 0 where both signs occur; otherwise it starts or ends at 0. It ends at the magnitude
    that 0.1% of the values exceed, so that a few outliers do not hide the rest; these count in the outer blocks. The
    height of a block is its share over the largest share; a space is an empty block. A final `N` marks NaN values, `∞`
    infinite ones. Zeros only give "zero"; no finite value gives only the marks; None or no value gives "".
    """
    if histogram is None or not histogram.total:
        return ""
    infinite = histogram.posinf_count + histogram.neginf_count
    marks = (NAN_MARK if histogram.nan_count else "") + (INF_MARK if infinite else "")
    finite = histogram.finite
    if not finite.total:
        return marks
    if finite.zero_count == finite.total:
        return "zero" + marks
    counts = finite.mass(_edges(finite, width - len(marks)))
    tallest = counts.max()
    # Less than a whole value is the sliver of a bin that an edge cuts off.
    heights = np.minimum((counts / tallest * len(BLOCKS)).astype(int), len(BLOCKS) - 1)
    bars = (BLOCKS[height] if count >= 0.5 else " " for height, count in zip(heights, counts, strict=True))
    return "".join(bars) + marks


def _edges(finite: LogHistogram, width: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    low, high = finite.quantile(_TAIL / 2), finite.quantile(1 - _TAIL / 2)
    reach = max(abs(low), abs(high)) or max(float(np.abs(finite.lower).max()), float(np.abs(finite.upper).max()))
    edges: np.ndarray[tuple[int], np.dtype[np.float64]] = np.linspace(
        -reach if low < 0 else 0.0, reach if high > 0 else 0.0, width + 1
    )
    if edges[0] == edges[-1]:
        edges = np.linspace(-reach, reach, width + 1)
    edges[0], edges[-1] = min(edges[0], float(finite.lower.min())), max(edges[-1], float(finite.upper.max()))
    return edges


def trend(values: Sequence[float] | NDArray[np.float64], *, width: int = 12) -> str:
    """Return numbers over steps as at most `width` blocks, by their logarithm, or as they are where some are negative.

    A block is the median of its part of the steps, and the last block ends with the last step. Numbers that lie within
    a factor of 1.25 are drawn flat. `N` stands for NaN, `∞` for an infinity, and the lowest block for 0 too.
    """
    if not len(values) or width < 1:
        return ""
    middles = [_middle(part) for part in np.array_split(np.asarray(values, dtype=np.float64), min(width, len(values)))]
    finite = [value for value in middles if math.isfinite(value)]
    linear = any(value < 0 for value in finite)
    heights = [value if linear else math.log(value) if value > 0 else -math.inf for value in finite]
    seen = [height for height in heights if math.isfinite(height)] or [0.0]
    low, high = min(seen), max(seen)
    flat = (_FLAT - 1) * max(-low, high) if linear else math.log(_FLAT)
    room = max(flat - (high - low), 0.0)
    low, high = low - room / 2, high + room / 2
    blocks = iter([_block((height - low) / (high - low)) for height in heights])
    return "".join(NAN_MARK if math.isnan(one) else INF_MARK if math.isinf(one) else next(blocks) for one in middles)


def _block(share: float) -> str:
    return BLOCKS[int(min(max(share, 0.0) * len(BLOCKS), len(BLOCKS) - 1))]


def _middle(part: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Return the median; a number that is not finite is shown wherever it occurs."""
    unlike = part[~np.isfinite(part)]
    return float(unlike[-1]) if len(unlike) else float(np.median(part))
