"""`see`: what a tensor on a CUDA device shows, in one launch that reads it once and needs no memory of its own.

Imported only by `device_accumulator`, where Triton is there.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# The cells of a row: the sums of x - center and of its square over the finite elements x, the largest of the keys of
# -x and of x, the center, and how many elements are numbers, +Inf, above -Inf, at least zero, above zero.
SUM, SQUARE, LOW, HIGH, CENTER, AT_LEAST = range(6)
_ELEMENTS = tl.constexpr(1024)
# Enough programs to keep a device busy, few enough that what they add to the same cells costs little.
_PROGRAMS = 512
# The places of zero and of NaN among the bins, see `device_memory.BinCounts`.
_ZERO, _NAN = tl.constexpr(2040), tl.constexpr(4081)


def see(flat: Tensor, row: Tensor, bins: Tensor, stride: int) -> None:
    """Add what a 1-D tensor without gaps, of float32 or a half precision, shows to a row of zeros and to bins.

    `row`: ten cells, int64; `bins`: counts of every `stride`-th element, without elements where there are none.
    """
    count = len(flat)
    samples = -(-count // stride) if len(bins) else 0
    programs = min(-(-count // _ELEMENTS.value), _PROGRAMS)
    with torch.cuda.device_of(flat):
        _see[(programs,)](flat, row, row.view(torch.float64), bins, count, stride, samples)


@triton.jit
def _key(number):  # type: ignore[no-untyped-def]
    # Ordered as the numbers are, and above 0, so that cells of 0 are less than all.
    bits = number.to(tl.int32, bitcast=True)
    return tl.where(bits >= 0, bits.to(tl.int64) + 2147483648, (-1 - bits).to(tl.int64))


@triton.jit(do_not_specialize=["count", "stride", "samples"])
def _see(values, row, numbers, bins, count, stride, samples):  # type: ignore[no-untyped-def]
    program = tl.program_id(0).to(tl.int64)
    programs = tl.num_programs(0)
    lanes = tl.arange(0, _ELEMENTS).to(tl.int64)
    # About a number near the mean, the squares keep the digits of the deviation.
    first = tl.load(values).to(tl.float32)
    center = tl.where(tl.abs(first) < float("inf"), first, 0.0).to(tl.float64)
    total = tl.zeros((_ELEMENTS,), tl.float64)
    square = tl.zeros((_ELEMENTS,), tl.float64)
    low = tl.full((_ELEMENTS,), float("inf"), tl.float32)
    high = tl.full((_ELEMENTS,), -float("inf"), tl.float32)
    is_number = tl.zeros((_ELEMENTS,), tl.int32)
    posinf = tl.zeros((_ELEMENTS,), tl.int32)
    above = tl.zeros((_ELEMENTS,), tl.int32)
    from_zero = tl.zeros((_ELEMENTS,), tl.int32)
    positive = tl.zeros((_ELEMENTS,), tl.int32)
    for start in range(program * _ELEMENTS, count, programs * _ELEMENTS):
        inside = start + lanes < count
        value = tl.load(values + start + lanes, mask=inside, other=0.0).to(tl.float32)
        finite = inside & (tl.abs(value) < float("inf"))
        apart = tl.where(finite, value.to(tl.float64) - center, 0.0)
        total += apart
        square += apart * apart
        low = tl.minimum(low, tl.where(finite, value, float("inf")))
        high = tl.maximum(high, tl.where(finite, value, -float("inf")))
        is_number += (inside & (value == value)).to(tl.int32)
        posinf += (inside & (value == float("inf"))).to(tl.int32)
        above += (inside & (value > -float("inf"))).to(tl.int32)
        from_zero += (inside & (value >= 0)).to(tl.int32)
        positive += (inside & (value > 0)).to(tl.int32)
    tl.atomic_add(numbers, tl.sum(total))
    tl.atomic_add(numbers + 1, tl.sum(square))
    tl.atomic_max(row + 2, _key(-tl.min(low)))
    tl.atomic_max(row + 3, _key(tl.max(high)))
    tl.store(numbers + 4, center)
    tl.atomic_add(row + 5, tl.sum(is_number).to(tl.int64))
    tl.atomic_add(row + 6, tl.sum(posinf).to(tl.int64))
    tl.atomic_add(row + 7, tl.sum(above).to(tl.int64))
    tl.atomic_add(row + 8, tl.sum(from_zero).to(tl.int64))
    tl.atomic_add(row + 9, tl.sum(positive).to(tl.int64))
    for start in range(program * _ELEMENTS, samples, programs * _ELEMENTS):
        inside = start + lanes < samples
        value = tl.load(values + (start + lanes) * stride, mask=inside, other=0.0).to(tl.float32)
        octave = tl.maximum((value.to(tl.int32, bitcast=True) & 0x7FFFFFFF) >> 20, 1)
        place = _ZERO + tl.where(value < 0, -octave, octave)
        place = tl.where(value == 0, _ZERO, tl.where(value == value, place, _NAN))
        tl.atomic_add(bins + place, tl.full((_ELEMENTS,), 1, tl.int64), mask=inside)
