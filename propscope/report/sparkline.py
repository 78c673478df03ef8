"""Draws a histogram in a dozen characters."""

from __future__ import annotations

import numpy as np

from propscope.records.histogram import LogHistogram

BLOCKS = "▁▂▃▄▅▆▇█"
NAN_MARK, INF_MARK = "N", "∞"
_TAIL = 0.001


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
