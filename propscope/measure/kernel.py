"""The compiled pass over a CPU tensor's memory; `host.py` and `units.py` do without it where it was not built.

`PROPSCOPE_KERNEL=0` in the environment leaves it unused, for comparison and for tracing a fault.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from propscope.measure.moments import Moments
from propscope.results.histogram import LogHistogram

if TYPE_CHECKING:
    from propscope.measure import _kernel
else:
    try:
        from propscope.measure import _kernel
    except ImportError:
        _kernel = None

BUILT = _kernel is not None
AVAILABLE = BUILT and os.environ.get("PROPSCOPE_KERNEL", "1") != "0"
# Cells of a table of bins: those of `LogHistogram`, then some that the kernel works in and leaves at 0.
TABLE = 4100
# Bins and numbers of zeros are 32-bit.
MOST = 1 << 30


def can_read(tensor: Tensor) -> bool:
    """Return whether the kernel takes this tensor: CPU memory that is there, of any dtype but float64."""
    return (
        AVAILABLE
        and tensor.is_cpu
        and tensor.dtype is not torch.float64
        and 0 < tensor.numel() <= MOST
        and tensor.data_ptr() != 0
    )


def summarize(tensor: Tensor, table: int = 0, stride: int = 1) -> Moments:
    """Return the tensor's moments; add every stride-th element to the bins at address `table`.

    The table is int32, shape (TABLE,), and the caller's to keep from overflowing.
    """
    return _call(tensor, 1, 0, tensor.numel(), 0, 0, table, stride)


def summarize_units(tensor: Tensor, unit_axis: int, low: int, high: int, table: int = 0, stride: int = 1) -> Moments:
    """Do the same for any memory layout and write each unit's extremes to `low` and `high`, float32, shape (units,)."""
    units = tensor.shape[unit_axis]
    if unit_axis in (-1, tensor.dim() - 1):
        return _call(tensor, tensor.numel() // units, units, 1, low, high, table, stride)
    last = tensor if tensor.is_contiguous() else tensor.movedim(unit_axis, -1)
    if last is not tensor and last.is_contiguous():
        return _call(last, tensor.numel() // units, units, 1, low, high, table, stride)
    shape = tensor.shape[:unit_axis] if unit_axis >= 0 else tensor.shape[: tensor.dim() + unit_axis]
    outer = math.prod(shape)
    return _call(tensor, outer, units, tensor.numel() // (outer * units), low, high, table, stride)


def _call(tensor: Tensor, outer: int, units: int, inner: int, low: int, high: int, table: int, stride: int) -> Moments:
    if tensor.dtype is not torch.float32 and tensor.dtype is not torch.bfloat16:
        tensor = tensor.float()
    # The address is that of `tensor`, which must live until the call returns.
    tensor = tensor.contiguous()
    half = tensor.dtype is torch.bfloat16
    # Past the class's own constructor, which would look at every field again.
    return tuple.__new__(
        Moments, _kernel.summarize(tensor.data_ptr(), half, outer, units, inner, low, high, table, stride)
    )


def all_differ(low: int, high: int, units: int) -> bool:
    """Return whether no two units have the same extremes."""
    return _kernel.all_differ(low, high, units)


def histogram(table: int) -> LogHistogram:
    """Return the histogram of the bins at address `table`."""
    codes, counts = _kernel.occupied(table)
    return LogHistogram(np.frombuffer(codes, np.uint16), np.frombuffer(counts, np.int64))


def gram(data: int, count: int, pitch: int, length: int) -> tuple[Tensor, float]:
    """Return the inner products of `count` float32 rows, shape (count, count), and the last of them.

    The rows start `pitch` elements apart from address `data` on.
    """
    products = torch.empty(count, count, dtype=torch.float32, device="cpu")
    return products, _kernel.gram(data, count, pitch, length, products.data_ptr())
