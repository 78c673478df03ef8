"""The interval of a difference between two means, of the same seeds or of different ones."""

from __future__ import annotations

import math

from propscope.records.network import Floats


def half_width(before: Floats, after: Floats, alpha: float, *, paired: bool) -> float:
    """Return half the interval of level 1 - alpha of the mean of after - before, shapes (n,) and (m,).

    Welch's. Where `paired` (n = m, entry i of both from the same seed) the narrower of Student's, of the differences,
    and Welch's, each of level 1 - alpha / 2, so that either may decide: the first is far narrower where a seed draws
    the same network again, the second where it no longer does. NaN for one pair, which has none.
    """
    if not paired:
        return _welch(before, after, alpha)
    return math.nan if len(before) < 2 else min(_student(after - before, alpha / 2), _welch(before, after, alpha / 2))


def _student(differences: Floats, alpha: float) -> float:
    from scipy.special import stdtrit

    count = len(differences)
    return float(stdtrit(count - 1, 1 - alpha / 2) * differences.std(ddof=1)) / math.sqrt(count)


def _welch(before: Floats, after: Floats, alpha: float) -> float:
    """Return half of Welch's interval (1947), with the degrees of freedom of Welch and Satterthwaite."""
    from scipy.special import stdtrit

    squares = [float(side.var(ddof=1)) / len(side) for side in (before, after)]
    total = sum(squares)
    if total == 0:
        return 0.0
    # As shares: the squares of small ones would underflow.
    shares = ((square / total) ** 2 / (len(side) - 1) for square, side in zip(squares, (before, after), strict=True))
    return float(stdtrit(1 / sum(shares), 1 - alpha / 2)) * math.sqrt(total)
