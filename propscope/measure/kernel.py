"""The compiled pass over a CPU tensor's memory; `host.py` and `units.py` do without it where it was not built.

`PROPSCOPE_KERNEL=0` in the environment leaves it unused, for comparison and for tracing a fault.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from propscope.measure.moments import Moments
from propscope.results.histogram import BIN_COUNT, LogHistogram

if TYPE_CHECKING:
    from propscope.measure import _kernel
else:
    try:
        from propscope.measure import _kernel
    except ImportError:
        _kernel = None

BUILT = _kernel is not None
AVAILABLE = BUILT and os.environ.get("PROPSCOPE_KERNEL", "1") != "0"
# Bins and numbers of zeros are 32-bit.
MOST = 1 << 30
# The last of the bins' cells are for the kernel to work in, and left at 0.
_BIN_CELLS = 4100
_FIGURES = 9


class State:
    """Where the kernel accumulates tensors: their moments and, if `bins`, the counts of `LogHistogram`'s bins."""

    __slots__ = ("_figures", "bins", "bins_at", "figures_at")

    def __init__(self, *, bins: bool) -> None:
        cells = _BIN_CELLS if bins else 0
        # One piece of memory; its address is asked of torch, as numpy takes a microsecond to tell.
        memory = torch.zeros(cells + 2 * _FIGURES, dtype=torch.int32, device="cpu")
        start = memory.data_ptr()
        array = memory.numpy()
        self._figures = array[cells:].view(np.float64)
        self.bins: NDArray[np.int32] = array[: min(cells, BIN_COUNT)]
        self.bins_at = start if bins else 0
        self.figures_at = start + 4 * cells

    def __reduce__(self) -> tuple[Callable[..., State], tuple[NDArray[np.float64], NDArray[np.int32]]]:
        # A copy with the original's addresses would write to memory that is not its own.
        return _state, (self._figures, self.bins)

    @property
    def moments(self) -> Moments:
        """The moments of all tensors seen."""
        finite, mean, std, low, high, nan, posinf, neginf, zeros = self._figures.tolist()
        if not finite:
            mean = std = low = high = math.nan
        return Moments(int(finite), mean, std, low, high, int(nan), int(posinf), int(neginf), int(zeros))

    @property
    def histogram(self) -> LogHistogram:
        """The histogram of all tensors' samples."""
        if not AVAILABLE:
            return LogHistogram.from_dense(self.bins)
        codes, counts = _kernel.occupied(self.bins_at)
        return LogHistogram(np.frombuffer(codes, np.uint16), np.frombuffer(counts, np.int64))


def _state(figures: NDArray[np.float64], bins: NDArray[np.int32]) -> State:
    state = State(bins=bool(bins.size))
    state._figures[:] = figures
    state.bins[:] = bins
    return state


def can_read(tensor: Tensor) -> bool:
    """Return whether the kernel takes this tensor: CPU memory that is there, of any dtype but float64."""
    return (
        AVAILABLE
        and tensor.is_cpu
        and tensor.dtype is not torch.float64
        and 0 < tensor.numel() <= MOST
        and tensor.data_ptr() != 0
    )


def summarize(tensor: Tensor, state: State, stride: int = 1) -> None:
    """Take all elements into the state's moments and every stride-th, in memory order, into its bins.

    The bins are the caller's to keep from overflowing.
    """
    tensor = _plain(tensor)
    half = tensor.dtype is torch.bfloat16
    count = tensor.numel()
    _kernel.summarize(tensor.data_ptr(), half, 1, 0, count, 0, 0, state.figures_at, state.bins_at, stride)


def summarize_units(tensor: Tensor, unit_axis: int, low: int, high: int, state: State, stride: int = 1) -> None:
    """Do the same and write each unit's extremes to the addresses, float32, shape (units,); NaN where it has one."""
    if not tensor.is_contiguous():
        last = tensor.movedim(unit_axis, -1)
        if last.is_contiguous():
            tensor, unit_axis = last, -1
    tensor = _plain(tensor)
    shape = tensor.shape
    units = shape[unit_axis]
    inner = 1 if unit_axis in (-1, len(shape) - 1) else math.prod(shape[unit_axis:][1:])
    outer = tensor.numel() // (units * inner)
    half = tensor.dtype is torch.bfloat16
    _kernel.summarize(tensor.data_ptr(), half, outer, units, inner, low, high, state.figures_at, state.bins_at, stride)


def _plain(tensor: Tensor) -> Tensor:
    """Return the elements as the kernel reads them; the caller holds the result while it does."""
    if tensor.dtype is not torch.float32 and tensor.dtype is not torch.bfloat16:
        tensor = tensor.float()
    return tensor.contiguous()


def all_differ(low: int, high: int, units: int) -> bool:
    """Return whether no two units have the same extremes."""
    return _kernel.all_differ(low, high, units)


def gram(data: int, count: int, pitch: int, length: int) -> tuple[Tensor, float]:
    """Return the inner products of `count` float32 rows, shape (count, count), and the last of them.

    The rows start `pitch` elements apart from address `data` on.
    """
    products = torch.empty(count, count, dtype=torch.float32, device="cpu")
    return products, _kernel.gram(data, count, pitch, length, products.data_ptr())
