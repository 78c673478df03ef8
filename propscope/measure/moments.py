"""Moments of the elements of one CPU tensor with torch, for float64 and for everything where `kernel.py` is not there.

All sums are taken in float64, where the square of a float32 number is exact, so that the result holds to a stated bound
however a processor's library orders its additions. The second moment comes from a dot product, which is several times
faster than `std`; the rare tensors for which cancellation, NaN or Inf make it inaccurate are recognized by the result
and computed again by a slower way.
"""

from __future__ import annotations

import math
import threading
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from propscope.records.histogram import LogHistogram
from propscope.records.summary import TensorSummary, merge_moments

# However a processor orders the sum of a block's numbers, it errs by at most _BLOCK * 2^-53 of the sum of their
# magnitudes, and the sum over up to 2^15 blocks by as much again: together 7.3e-12.
_BLOCK = 1 << 15
# From this share of variance in the second moment on, the deviation is good to 7.3e-12 / 1e-3 = 7.3e-9.
_CANCELLATION = 1e-3
# Squares of float64 numbers beyond these leave its range, or lose accuracy to its end. float32 numbers lie within.
_SMALLEST, _LARGEST = 1e-140, 1e140


class Moments(NamedTuple):
    """`finite` elements with `mean`, population `std`, `low`, `high` (NaN if none); counts of the others and of zeros.

    A tuple, as making one costs a tenth of a microsecond; `+` is the merge.
    """

    finite: int
    mean: float
    std: float
    low: float
    high: float
    nan: int = 0
    posinf: int = 0
    neginf: int = 0
    zeros: int = 0

    def __add__(self, other: Moments) -> Moments:  # type: ignore[override]
        a, a_mean, a_std, a_low, a_high, a_nan, a_posinf, a_neginf, a_zeros = self
        b, b_mean, b_std, b_low, b_high, b_nan, b_posinf, b_neginf, b_zeros = other
        mean, std = merge_moments((a, a_mean, a_std), (b, b_mean, b_std))
        if a and b:
            low, high = b_low if b_low < a_low else a_low, b_high if b_high > a_high else a_high
        else:
            low, high = (a_low, a_high) if a else (b_low, b_high)
        nan, posinf, neginf = a_nan + b_nan, a_posinf + b_posinf, a_neginf + b_neginf
        return tuple.__new__(Moments, (a + b, mean, std, low, high, nan, posinf, neginf, a_zeros + b_zeros))


NO_MOMENTS = Moments(0, math.nan, math.nan, math.nan, math.nan)


def summary_of(moments: Moments, *, count: int, zeros: int, histogram: LogHistogram | None) -> TensorSummary:
    """Return the summary of `count` elements, `zeros` of them zero, with these moments."""
    return TensorSummary(
        count=count,
        mean=moments.mean,
        std=moments.std,
        min=moments.low,
        max=moments.high,
        zero_fraction=zeros / count if count else math.nan,
        nan_count=moments.nan,
        posinf_count=moments.posinf,
        neginf_count=moments.neginf,
        histogram=histogram,
    )


class _Scratch(threading.local):
    """Results land here: reading two adjacent numbers at once is cheaper than two tensors, and allocates nothing."""

    def __init__(self) -> None:
        # Made inside the caller's inference mode, they could not be written to outside of it.
        with torch.inference_mode(False):
            self.cells = {dtype: torch.empty(2, dtype=dtype, device="cpu") for dtype in (torch.float32, torch.float64)}
            self.slots = {dtype: cell.unbind() for dtype, cell in self.cells.items()}
            self.views = {dtype: cell.numpy() for dtype, cell in self.cells.items()}


_scratch = _Scratch()


def moments_of(flat: Tensor, extremes: tuple[float, float] | None = None) -> Moments:
    """Return the moments of a 1-D CPU tensor of any floating dtype, to 7.3e-9 of the std on any processor.

    `extremes`: the smallest and the largest element, when the caller knows them already.
    """
    count = flat.numel()
    if not count:
        return NO_MOMENTS
    if flat.dtype not in (torch.float32, torch.float64):
        flat = flat.float()
    low, high = extremes or _extremes(flat)
    if not (math.isfinite(low) and math.isfinite(high)):
        return _masked(flat)
    if low == high:
        return Moments(count, low, 0.0, low, high)
    largest = max(abs(low), abs(high))
    scale = 1.0 if _SMALLEST < largest < _LARGEST else largest
    total, power = _sums(flat, scale=scale)
    mean, power = total / count, power / count
    variance = power - mean * mean
    if variance < _CANCELLATION * power:
        rest, power = _sums(flat, scale=scale, shift=mean)
        variance = power / count - (rest / count) ** 2
        mean += rest / count
    return Moments(count, mean * scale, math.sqrt(max(variance, 0.0)) * scale, low, high)


def _extremes(flat: Tensor) -> tuple[float, float]:
    slots, view = _scratch.slots[flat.dtype], _scratch.views[flat.dtype]
    torch.aminmax(flat, out=slots)
    # The array is a view of CPU memory: unlike item() it cannot become a synchronization on another device.
    low, high = view.tolist()
    return low, high


def _sums(flat: Tensor, *, scale: float, shift: float = 0.0) -> tuple[float, float]:
    """Return the sums of the elements x / scale - shift and of their squares, in float64."""
    slots, view = _scratch.slots[torch.float64], _scratch.views[torch.float64]
    total = power = 0.0
    for part in flat.split(_BLOCK):
        wide = part.double()
        if scale != 1.0:
            wide = wide / scale
        if shift:
            wide = wide - shift
        torch.sum(wide, 0, out=slots[0])
        torch.dot(wide, wide, out=slots[1])
        one, square = view.tolist()
        total += one
        power += square
    return total, power


def _masked(flat: Tensor) -> Moments:
    """Leave out, and count, what is not finite."""
    array = flat.numpy()
    nan = int(np.isnan(array).sum())
    posinf, neginf = int((array == np.inf).sum()), int((array == -np.inf).sum())
    moments = moments_of(flat[torch.from_numpy(np.isfinite(array))])
    return Moments(moments.finite, moments.mean, moments.std, moments.low, moments.high, nan, posinf, neginf)
