"""`LogHistogram`: a histogram that needs no range beforehand and merges exactly.

The bin of a value is the top 12 bits of its float32: sign, exponent and three bits of the mantissa. Each octave holds
8 bins, of relative width 1/8 at its lower end and 1/15 at its upper end. Zero, NaN and the two infinities have a bin
each. Only occupied bins are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BIN_COUNT = 4096
ZERO = 0
POSINF = 2040
NAN = 2047
NEGINF = 4088
_SIGN = 2048
_LARGEST = float(2.0**128)

Floats = NDArray[np.float64]


def _edges() -> tuple[Floats, Floats, NDArray[np.int64]]:
    magnitude = np.arange(_SIGN, dtype=np.uint32) << np.uint32(20)
    with np.errstate(invalid="ignore"):
        floor = magnitude.view(np.float32).astype(np.float64)
    ceiling = np.append(floor[1:], np.nan)
    # Bin 1 also takes the subnormals below 2^-129, whose bits are those of zero's bin.
    floor[1], ceiling[ZERO], ceiling[POSINF - 1] = 0.0, 0.0, _LARGEST
    floor[POSINF], ceiling[POSINF] = np.inf, np.inf
    floor[POSINF + 1 :], ceiling[POSINF + 1 :] = np.nan, np.nan
    code = np.arange(_SIGN)
    rank = np.concatenate([code, -code])
    rank[POSINF + 1 : _SIGN] = BIN_COUNT
    rank[NEGINF + 1 :] = BIN_COUNT
    return np.concatenate([floor, -ceiling]), np.concatenate([ceiling, -floor]), rank


_LOWER, _UPPER, _RANK = _edges()
# The smallest and the largest magnitude in each bin.
_NEAR, _FAR = np.minimum(abs(_LOWER), abs(_UPPER)), np.maximum(abs(_LOWER), abs(_UPPER))
_IS_FINITE = ~np.isin(np.arange(BIN_COUNT), (POSINF, NAN, NEGINF))


def bin_codes(values: ArrayLike) -> NDArray[np.uint16]:
    """Return the bin of each value, same shape, uint16; float64 values are rounded to float32 without reaching Inf."""
    wide = np.asarray(values)
    limit = np.finfo(np.float32).max
    if wide.dtype == np.float64:
        wide = np.where(np.isfinite(wide), np.clip(wide, -limit, limit), wide)
    # A signalling NaN counts like any other value.
    with np.errstate(invalid="ignore"):
        narrow = np.ascontiguousarray(wide, dtype=np.float32)
    codes = (narrow.view(np.uint32) >> np.uint32(20)).astype(np.uint16)
    nonzero = narrow != 0
    codes[(codes == ZERO) & nonzero] = 1
    codes[(codes == _SIGN) & nonzero] = _SIGN + 1
    codes[~nonzero] = ZERO
    codes[np.isnan(narrow)] = NAN
    return codes


@dataclass(frozen=True, slots=True, eq=False)
class LogHistogram:
    """Counts of values in logarithmic bins, 8 an octave, for each sign.

    `bins`: codes of the occupied bins, ascending, uint16, shape (n,). `counts`: the number of values in each, int64,
    shape (n,). `a + b` is exact and associative, and `LogHistogram.empty()` is the neutral element.
    """

    bins: NDArray[np.uint16]
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls) -> LogHistogram:
        """Return the histogram of no values."""
        return cls(np.empty(0, np.uint16), np.empty(0, np.int64))

    @classmethod
    def of(cls, values: ArrayLike) -> LogHistogram:
        """Return the histogram of an array of any shape; NaN and Inf are counted in bins of their own."""
        return cls.from_dense(np.bincount(bin_codes(values).ravel(), minlength=BIN_COUNT))

    @classmethod
    def from_dense(cls, counts: ArrayLike) -> LogHistogram:
        """Return the histogram with one count for each of the 4096 bins, shape (4096,)."""
        dense = np.asarray(counts, dtype=np.int64)
        occupied = np.flatnonzero(dense)
        return cls(occupied.astype(np.uint16), dense[occupied])

    def dense(self) -> NDArray[np.int64]:
        """Return a count for every bin, shape (4096,)."""
        counts = np.zeros(BIN_COUNT, np.int64)
        counts[self.bins] = self.counts
        return counts

    def __add__(self, other: LogHistogram) -> LogHistogram:
        if not self.bins.size or not other.bins.size:
            return self if self.bins.size else other
        return LogHistogram.from_dense(self.dense() + other.dense())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LogHistogram):
            return NotImplemented
        return np.array_equal(self.bins, other.bins) and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"LogHistogram({self.total} values in {self.bins.size} bins)"

    def _count(self, code: int) -> int:
        return int(self.counts[self.bins == code].sum())

    @property
    def total(self) -> int:
        """The number of values, NaN and Inf included."""
        return int(self.counts.sum())

    @property
    def zero_count(self) -> int:
        """The number of zeros of either sign."""
        return self._count(ZERO)

    @property
    def nan_count(self) -> int:
        """The number of NaN values."""
        return self._count(NAN)

    @property
    def posinf_count(self) -> int:
        """The number of +Inf values."""
        return self._count(POSINF)

    @property
    def neginf_count(self) -> int:
        """The number of -Inf values."""
        return self._count(NEGINF)

    @property
    def finite(self) -> LogHistogram:
        """The histogram without NaN and the infinities."""
        is_finite = _IS_FINITE[self.bins]
        return LogHistogram(self.bins[is_finite], self.counts[is_finite])

    @property
    def lower(self) -> Floats:
        """Lower edge of each occupied bin, shape (n,); NaN for the NaN bin."""
        return _LOWER[self.bins]

    @property
    def upper(self) -> Floats:
        """Upper edge of each occupied bin, shape (n,); NaN for the NaN bin."""
        return _UPPER[self.bins]

    @property
    def centers(self) -> Floats:
        """Midpoint of each occupied bin, shape (n,); NaN for the NaN bin, +-Inf for the infinite ones."""
        with np.errstate(invalid="ignore"):
            return (self.lower + self.upper) / 2

    def quantile(self, q: float) -> float:
        """Return the value below which a share `q` (0 to 1) of the values lies, interpolated within its bin.

        Infinite values count, NaN values do not. NaN when there are no values. The error is at most a bin's width,
        12.5%.
        """
        is_number = self.bins != NAN
        order = np.argsort(_RANK[self.bins[is_number]], kind="stable")
        bins, counts = self.bins[is_number][order], self.counts[is_number][order]
        if not counts.size:
            return float("nan")
        cumulative = np.cumsum(counts)
        at = min(int(np.searchsorted(cumulative, q * cumulative[-1])), bins.size - 1)
        low, high = float(_LOWER[bins[at]]), float(_UPPER[bins[at]])
        if not np.isfinite(low) or low == high:
            return low
        inside = (q * cumulative[-1] - (cumulative[at] - counts[at])) / counts[at]
        return low + (high - low) * float(np.clip(inside, 0, 1))

    def mass(self, edges: ArrayLike) -> Floats:
        """Return how many finite values lie between consecutive ascending `edges`, float64, shape (len(edges) - 1,).

        A bin that an edge cuts is divided in proportion to its width, so the numbers need not be whole. Zeros fall into
        the interval that starts at 0 or contains it. This makes linear bins of the logarithmic ones, for drawing.
        """
        at = np.asarray(edges, dtype=np.float64)
        finite = self.finite
        width = finite.upper - finite.lower
        solid = width > 0
        low, width, weight = finite.lower[solid], width[solid], finite.counts[solid]
        below = np.clip((at[:, None] - low) / width, 0, 1) @ weight
        share = np.diff(below)
        zeros = finite.counts[~solid].sum()
        slot = int(np.searchsorted(at, 0.0, side="right")) - 1
        if zeros and at[0] <= 0 <= at[-1]:
            share[min(slot, share.size - 1)] += zeros
        return share

    def has_below(self, magnitude: float) -> bool:
        """Return whether values other than zero and NaN lie in bins that begin below a magnitude."""
        return bool(((_NEAR[self.bins] < magnitude) & (self.bins != ZERO)).any())

    def share(self, low: float, high: float) -> float:
        """Return the share of all values, NaN and Inf included, whose magnitude is in [low, high).

        A bin that a limit cuts is divided in proportion to its width. NaN when there are no values.
        """
        if not self.bins.size:
            return float("nan")
        near, far = _NEAR[self.bins], _FAR[self.bins]
        reached = (near < high) & (far >= low)
        # Most tensors lie within the limits that are asked for.
        if not reached.any():
            return 0.0
        near, far, counts = near[reached], far[reached], self.counts[reached]
        with np.errstate(invalid="ignore", divide="ignore"):
            part = (np.minimum(far, high) - np.maximum(near, low)) / (far - near)
        return float(np.where(near == far, 1.0, np.clip(part, 0, 1)) @ counts / self.total)
