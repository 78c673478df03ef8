"""The compiled pass over a CPU tensor's memory; `host.py` and `units.py` do without it where it was not built.

`PROPSCOPE_KERNEL=0` in the environment leaves it unused, for comparison and for tracing a fault.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from propscope.measure.arena import zeros
from propscope.measure.moments import Moments
from propscope.records.histogram import BIN_COUNT, LogHistogram

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


class Rows(NamedTuple):
    """Rows of a tensor's memory: `rows` of them, `pitch` elements apart, each of `blocks` runs of `length` elements,

    `apart` from start to start.
    """

    rows: int
    pitch: int
    blocks: int
    apart: int
    length: int


def memory_order(tensor: Tensor) -> list[int] | None:
    """Return the axes from the outermost in memory to the innermost; None where elements do not lie in one piece."""
    axes = range(tensor.dim())
    if tensor.is_contiguous():
        return list(axes)
    order = sorted(axes, key=lambda axis: (tensor.stride()[axis], tensor.shape[axis]), reverse=True)
    return order if tensor.permute(order).is_contiguous() else None


class State:
    """Where the kernel accumulates tensors: their moments and, if `bins`, the counts of `LogHistogram`'s bins."""

    __slots__ = ("_figures", "_spare", "bins", "bins_at", "figures_at")

    def __init__(self, *, bins: bool) -> None:
        cells = _BIN_CELLS if bins else 0
        array, start = zeros(cells + 2 * _FIGURES, np.int32)
        self._spare = array[BIN_COUNT:cells]
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
    def count(self) -> int:
        """Number of elements seen."""
        figures = self._figures.tolist()
        return int(figures[0] + sum(figures[5:8]))

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
        and tensor.layout is torch.strided
        and tensor.dtype is not torch.float64
        and 0 < tensor.numel() <= MOST
        and tensor.data_ptr() != 0
    )


class Plan:
    """What the kernel is called with for tensors like one that it was made for: nothing is asked twice.

    `tensor`: of any floating dtype but float64. `stride`: every how many elements, in memory order, enter the bins.
    `unit_axis`, with the addresses `low` and `high`: where each unit's extremes go, float32, shape (units,); NaN where
    it has one. `rows`: how many rows of how many elements `gram` takes, see `sampling`; None: no products.
    """

    __slots__ = ("_convert", "_copy", "_dtype", "_gram", "_pass", "_shape", "_state", "_strides", "products")

    def __init__(
        self,
        tensor: Tensor,
        state: State,
        stride: int = 1,
        *,
        unit_axis: int | None = None,
        low: int = 0,
        high: int = 0,
        rows: Rows | None = None,
    ) -> None:
        self._shape, self._strides, self._dtype = tensor.shape, tensor.stride(), tensor.dtype
        # Its memory is written to by address alone.
        self._state = state
        order = memory_order(tensor)
        self._convert = self._dtype not in (torch.float32, torch.bfloat16)
        self._copy = order is None
        order = order or list(range(tensor.dim()))
        shape = [tensor.shape[axis] for axis in order]
        half = int(self._dtype is torch.bfloat16)
        outer, units, inner = 1, 0, tensor.numel()
        if unit_axis is not None:
            place = order.index(unit_axis % len(order))
            outer, units, inner = math.prod(shape[:place]), shape[place], math.prod(shape[place + 1 :])
        self._pass = (half, outer, units, inner, low, high, state.figures_at, state.bins_at, stride)
        self.products: NDArray[np.float32] | None = None
        self._gram: tuple[int, ...] = ()
        if rows is not None:
            products, address = zeros(rows.rows**2, np.float32)
            self.products = products.reshape(rows.rows, rows.rows)
            self._gram = (half, *rows, address)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        # A copy with the original's addresses would write to memory that is not its own.
        return type(None), ()

    def fits(self, tensor: Tensor) -> bool:
        """Return whether a tensor is like the one that this was made for."""
        return (
            tensor.shape == self._shape
            and tensor.dtype is self._dtype
            and tensor.layout is torch.strided
            and tensor.is_cpu
            and tensor.stride() == self._strides
            and not tensor.is_neg()
        )

    def run(self, tensor: Tensor) -> float:
        """See all elements; return the last of the inner products, 1 where there are none."""
        if self._convert:
            tensor = tensor.float()
        if self._copy:
            tensor = tensor.contiguous()
        data = tensor.data_ptr()
        _kernel.summarize(data, *self._pass)
        return _kernel.gram(data, *self._gram) if self._gram else 1.0


def all_differ(low: int, high: int, units: int) -> bool:
    """Return whether no two units have the same extremes."""
    return _kernel.all_differ(low, high, units)
