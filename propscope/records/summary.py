"""`TensorSummary`: the statistics of a tensor, which merge exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from propscope.records.histogram import LogHistogram


@dataclass(frozen=True, slots=True)
class TensorSummary:
    """Moments, extremes, counts and histogram of the elements of a tensor, over every batch that was seen.

    `count` is the number of all elements; `nan_count`, `posinf_count` and `neginf_count` of them are not finite.
    `mean`, `std` (population, about the mean), `min` and `max` are over all finite elements, and NaN when there are
    none. `zero_fraction` is the share of `count` that is zero. `histogram` may count only a sample of a large tensor
    (then `histogram.total < count`); it is None where only moments were recorded.

    `a + b` is the summary of the elements of both (Chan, Golub, LeVeque 1983, eq. 2.1), and `TensorSummary.empty()` is
    the neutral element.
    """

    count: int
    mean: float
    std: float
    min: float
    max: float
    zero_fraction: float
    nan_count: int = 0
    posinf_count: int = 0
    neginf_count: int = 0
    histogram: LogHistogram | None = None

    @classmethod
    def empty(cls) -> TensorSummary:
        """Return the summary of no elements: count 0, NaN moments."""
        nan = float("nan")
        return cls(0, nan, nan, nan, nan, nan, histogram=LogHistogram.empty())

    @classmethod
    def of(cls, values: ArrayLike) -> TensorSummary:
        """Return the summary of an array of any shape, computed in float64: what every faster way is tested against."""
        array = np.asarray(values)
        # A signalling NaN counts like any other value.
        with np.errstate(invalid="ignore"):
            wide = array.astype(np.float64).ravel()
        finite = wide[np.isfinite(wide)]
        nan = float("nan")
        # Scaling first keeps the squares of numbers near the limits of float64 from overflowing.
        scale = float(np.abs(finite).max()) if finite.size else 1.0
        scale = scale if scale > 0 else 1.0
        return cls(
            count=wide.size,
            mean=float((finite / scale).mean()) * scale if finite.size else nan,
            std=float((finite / scale).std()) * scale if finite.size else nan,
            min=float(finite.min()) if finite.size else nan,
            max=float(finite.max()) if finite.size else nan,
            zero_fraction=float((wide == 0).mean()) if wide.size else nan,
            nan_count=int(np.isnan(wide).sum()),
            posinf_count=int((wide == np.inf).sum()),
            neginf_count=int((wide == -np.inf).sum()),
            histogram=LogHistogram.of(array),
        )

    def __repr__(self) -> str:
        broken = f", {self.nonfinite_count} not finite" if self.nonfinite_count else ""
        return (
            f"TensorSummary({self.count} elements, mean {self.mean:.4g}, std {self.std:.4g}, "
            f"min {self.min:.4g}, max {self.max:.4g}{broken})"
        )

    @property
    def rms(self) -> float:
        """The root mean square of the finite elements, sqrt(E[x^2]) = sqrt(mean^2 + std^2)."""
        return math.hypot(self.mean, self.std)

    @property
    def nonfinite_count(self) -> int:
        """The number of NaN, +Inf and -Inf elements."""
        return self.nan_count + self.posinf_count + self.neginf_count

    @property
    def finite_count(self) -> int:
        """The number of elements that are neither NaN nor infinite."""
        return self.count - self.nonfinite_count

    def __add__(self, other: TensorSummary) -> TensorSummary:
        if not self.count or not other.count:
            return self if self.count else other
        mean, std = merge_moments((self.finite_count, self.mean, self.std), (other.finite_count, other.mean, other.std))
        share = other.count / (self.count + other.count)
        both = self.histogram is not None and other.histogram is not None
        return TensorSummary(
            count=self.count + other.count,
            mean=mean,
            std=std,
            min=float(np.fmin(self.min, other.min)),
            max=float(np.fmax(self.max, other.max)),
            zero_fraction=self.zero_fraction + (other.zero_fraction - self.zero_fraction) * share,
            nan_count=self.nan_count + other.nan_count,
            posinf_count=self.posinf_count + other.posinf_count,
            neginf_count=self.neginf_count + other.neginf_count,
            histogram=self.histogram + other.histogram if both else None,  # type: ignore[operator]
        )


def merge_moments(a: tuple[int, float, float], b: tuple[int, float, float]) -> tuple[float, float]:
    """Return (mean, std) of two groups of elements together, each given as (count, mean, population std).

    Chan, Golub, LeVeque 1983, eq. 2.1, written for standard deviations: hypot neither overflows nor underflows where
    their squares would.
    """
    if not a[0] or not b[0]:
        return (b if not a[0] else a)[1:]
    share = b[0] / (a[0] + b[0])
    apart = b[1] - a[1]
    within = math.hypot(a[2] * math.sqrt(1 - share), b[2] * math.sqrt(share))
    return a[1] + apart * share, math.hypot(within, abs(apart) * math.sqrt(share * (1 - share)))
