"""The interval of a difference between two means, of the same seeds or of different ones."""

from __future__ import annotations

import math

from propscope.results.network import Floats


def half_width(before: Floats, after: Floats, alpha: float, *, paired: bool) -> float:
    """Return half the interval of level 1 - alpha of the mean of after - before; NaN for one pair, which has none.

    Paired: Student's of the differences. Else Welch's, with the Welch-Satterthwaite degrees of freedom. Shapes (n,)
    and (m,), n = m where paired.
    """
    from scipy.special import stdtrit

    if paired:
        if len(before) < 2:
            return math.nan
        error, freedom = (after - before).std(ddof=1) / math.sqrt(len(before)), float(len(before) - 1)
    else:
        parts = [float(side.var(ddof=1)) / len(side) for side in (before, after)]
        error = math.sqrt(sum(parts))
        if error == 0:
            return 0.0
        weights = (part**2 / (len(side) - 1) for part, side in zip(parts, (before, after), strict=True))
        freedom = sum(parts) ** 2 / sum(weights)
    return float(stdtrit(freedom, 1 - alpha / 2) * error)
