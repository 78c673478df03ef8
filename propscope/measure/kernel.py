"""The compiled pass over a CPU tensor's memory; `CpuAccumulator` and `CpuUnits` also work without it.

`PROPSCOPE_KERNEL=0` in the environment switches it off, for comparison and for tracing a fault.
"""

from __future__ import annotations

import math
import os
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from propscope.measure.arena import zeros
from propscope.measure.hooks import extent
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
if BUILT and hasattr(os, "register_at_fork"):
    # The child has none of the threads, and a team that is called up there would wait for them for ever.
    os.register_at_fork(after_in_child=_kernel.alone)
# Bins and numbers of zeros are 32-bit.
MOST = 1 << 30
# The kernel works in the last of the bins' cells, and leaves them at 0.
_BIN_CELLS = 4100
_FIGURES = 9
_figures = struct.Struct(f"{_FIGURES}d")
# So many shapes, of so many units at most, have a plan for the first tensors.
_SHAPES = 256
_UNITS = 1 << 12


class Rows(NamedTuple):
    """Rows of a tensor's memory, `pitch` elements from start to start, each of `blocks` runs of `length` elements.

    The runs of a row are `apart` elements from start to start.
    """

    rows: int
    pitch: int
    blocks: int
    apart: int
    length: int


def memory_order(tensor: Tensor) -> tuple[int, ...] | None:
    """Return the axes from the outermost in memory to the innermost; None where the elements leave gaps or overlap."""
    if tensor.is_contiguous():
        return tuple(range(tensor.dim()))
    return _memory_order(tensor.shape, tensor.stride())


# The tensors of one network have few layouts.
@lru_cache(maxsize=1024)
def _memory_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...] | None:
    order = tuple(sorted(range(len(shape)), key=lambda axis: (strides[axis], shape[axis]), reverse=True))
    expected = 1
    for axis in reversed(order):
        if shape[axis] != 1 and strides[axis] != expected:
            return None
        expected *= shape[axis]
    return order


class State:
    """What the kernel adds to: the moments of tensors and, with `bins`, the counts of `LogHistogram`'s bins."""

    __slots__ = ("bins", "cells", "figures")

    def __init__(self, *, bins: bool) -> None:
        cells = _BIN_CELLS if bins else 0
        array = zeros(cells + 2 * _FIGURES, np.int32)
        self.figures = array[cells:].view(np.float64)
        self.cells: NDArray[np.int32] = array[:cells]
        self.bins = self.cells[:BIN_COUNT]

    def __reduce__(self) -> tuple[Callable[..., State], tuple[NDArray[np.float64], NDArray[np.int32]]]:
        # A copy has memory of its own.
        return _state, (self.figures, self.bins)

    @property
    def moments(self) -> Moments:
        """The moments of all tensors seen."""
        return _moments(*self.figures.tolist())

    @property
    def count(self) -> int:
        """Number of elements seen."""
        return _count(*self.figures.tolist())

    @property
    def histogram(self) -> LogHistogram:
        """The histogram of all tensors' samples."""
        if not AVAILABLE:
            return LogHistogram.from_dense(self.bins)
        codes, counts = _kernel.occupied(self.bins)
        return LogHistogram(np.frombuffer(codes, np.uint16), np.frombuffer(counts, np.int64))


@dataclass(frozen=True, slots=True)
class Held:
    """What a `State` holds, in the little memory that it needs: most of a table of bins is empty."""

    figures: bytes
    codes: bytes
    counts: bytes

    @property
    def moments(self) -> Moments:
        """The moments of all tensors seen."""
        return _moments(*_figures.unpack(self.figures))

    @property
    def count(self) -> int:
        """Number of elements seen."""
        return _count(*_figures.unpack(self.figures))

    @property
    def histogram(self) -> LogHistogram:
        """The histogram of all tensors' samples."""
        return LogHistogram(np.frombuffer(self.codes, np.uint16), np.frombuffer(self.counts, np.int64))

    def state(self, *, bins: bool) -> State:
        """Return a state that holds the same, and can be added to."""
        state = State(bins=bins)
        state.figures[:] = np.frombuffer(self.figures)
        if bins:
            state.bins[np.frombuffer(self.codes, np.uint16)] = np.frombuffer(self.counts, np.int64)
        return state


def _moments(
    finite: float,
    mean: float,
    std: float,
    low: float,
    high: float,
    nan: float,
    posinf: float,
    neginf: float,
    zeros: float,
) -> Moments:
    if not finite:
        mean = std = low = high = math.nan
    return Moments(int(finite), mean, std, low, high, int(nan), int(posinf), int(neginf), int(zeros))


def _count(finite: float, mean: float, std: float, low: float, high: float, *others: float) -> int:
    return int(finite + sum(others[:3]))


def _state(figures: NDArray[np.float64], bins: NDArray[np.int32]) -> State:
    state = State(bins=bool(bins.size))
    state.figures[:] = figures
    state.bins[:] = bins
    return state


def is_plain(tensor: Tensor) -> bool:
    """Return whether the tensor is its memory, and no subclass that decides itself what its operations do."""
    kind = tensor.__class__
    return kind is Tensor or kind is torch.nn.Parameter or kind.__torch_dispatch__ is Tensor.__torch_dispatch__


def can_read(tensor: Tensor) -> bool:
    """Return whether the kernel can read this tensor: strided CPU memory of any floating dtype but float64.

    The storage must hold it, see `require_storage`.
    """
    return (
        AVAILABLE
        and is_plain(tensor)
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and tensor.dtype is not torch.float64
        and 0 < tensor.numel() <= MOST
        and tensor.data_ptr() != 0
    )


class Plan:
    """The kernel's arguments for tensors like the first one, computed once.

    `tensor`: of any floating dtype but float64. `stride`: every `stride`-th element, in memory order, enters the bins.
    `unit_axis`, with `extremes`, float32, shape (2, units): where each unit's smallest and largest value go; NaN where
    it has one. `rows`: the rows of memory whose inner products go to `products`, see `geometry`; None: no products.
    """

    __slots__ = ("_convert", "_copy", "_dtype", "_extent", "_plan", "_shape", "_strides", "products")

    def __init__(
        self,
        tensor: Tensor,
        state: State,
        stride: int = 1,
        *,
        unit_axis: int | None = None,
        extremes: NDArray[np.float32] | None = None,
        rows: Rows | None = None,
    ) -> None:
        self._shape, self._strides, self._dtype = tensor.shape, tensor.stride(), tensor.dtype
        self._extent = extent(tensor)
        order = memory_order(tensor)
        self._convert = self._dtype not in (torch.float32, torch.bfloat16)
        self._copy = order is None
        order = order or tuple(range(tensor.dim()))
        shape = [tensor.shape[axis] for axis in order]
        elements = 1, 0, tensor.numel()
        if unit_axis is not None:
            position = order.index(unit_axis % len(order))
            elements = math.prod(shape[:position]), shape[position], math.prod(shape[position + 1 :])
        self.products: NDArray[np.float32] | None = None
        if rows is not None:
            self.products = zeros(rows.rows**2, np.float32).reshape(rows.rows, rows.rows)
        self._plan = _kernel.plan(
            self._dtype is torch.bfloat16,
            elements,
            stride,
            state.figures,
            state.cells if state.cells.size else None,
            extremes,
            rows or (0, 0, 0, 0, 0),
            self.products,
        )

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        # It writes to the original's memory.
        return type(None), ()

    def fits(self, tensor: Tensor) -> bool:
        """Return whether a tensor has the shape, strides and dtype of the plan, and a storage that holds it."""
        return (
            tensor.shape == self._shape
            and tensor.dtype is self._dtype
            and tensor.layout is torch.strided
            and tensor.is_cpu
            and tensor.stride() == self._strides
            and not tensor.is_neg()
            and (tensor.__class__ is Tensor or is_plain(tensor))
            # What is freed or shrunk keeps its shape, and an address where it starts behind its storage's start.
            and tensor.untyped_storage().nbytes() >= (tensor.storage_offset() + self._extent) * self._dtype.itemsize
        )

    def run(self, tensor: Tensor) -> float:
        """Add all elements to the state; return the last inner product, 1 without `rows`."""
        if self._convert:
            tensor = tensor.float()
        if self._copy:
            tensor = tensor.contiguous()
        return _kernel.run(self._plan, tensor.data_ptr())


class _First(threading.local):
    """A state for the first tensor of each accumulator, and plans that add to it, with the extremes that they write."""

    def __init__(self) -> None:
        self.states = {bins: State(bins=bins) for bins in (False, True)}
        self.plans: dict[tuple[object, ...], tuple[Plan, NDArray[np.float32] | None]] = {}
        # Whether the states are empty; an interrupt may come between a pass and its end.
        self.clean = True


_first = _First()


class Seen(NamedTuple):
    """What one pass found: `products` of the rows, None without, and the last of them, 1 without."""

    held: Held
    products: NDArray[np.float32] | None
    last_product: float


def see_first(
    tensor: Tensor,
    stride: int,
    *,
    bins: bool,
    unit_axis: int | None = None,
    extremes: NDArray[np.float32] | None = None,
    rows: Rows | None = None,
) -> Seen:
    """Return what an empty state with a plan of its own finds in a tensor, without making either.

    The arguments are those of `Plan`. In a network that sees one batch, states and plans would cost more than the pass.
    """
    first, state = _first, _first.states[bins]
    if not first.clean:
        for each in first.states.values():
            each.figures[:] = 0
            each.cells[:] = 0
    key = (tensor.shape, tensor.stride(), tensor.dtype, stride, bins, unit_axis, rows)
    if (found := first.plans.get(key)) is None:
        if len(first.plans) >= _SHAPES:
            first.plans.clear()
        own = None if extremes is None else zeros(extremes.size, np.float32).reshape(extremes.shape)
        found = Plan(tensor, state, stride, unit_axis=unit_axis, extremes=own, rows=rows), own
        first.plans[key] = found
    plan, own = found
    first.clean = False
    last_product = plan.run(tensor)
    codes, counts = _kernel.occupied(state.bins) if bins else (b"", b"")
    held = Held(state.figures.tobytes(), codes, counts)
    state.figures[:] = 0
    # Clearing all 16 KB takes a quarter of the time of clearing the occupied bins one by one.
    state.bins.fill(0)
    first.clean = True
    if extremes is not None:
        extremes[:] = own
    products = None
    if plan.products is not None:
        products = zeros(plan.products.size, np.float32).reshape(plan.products.shape)
        products[:] = plan.products
    return Seen(held, products, last_product)


def mean_square(tensor: Tensor) -> float:
    """Return the mean of the squares of a tensor that `can_read`; NaN or Inf where some element is."""
    finite, mean, std, _, _, nan, *_ = see_first(tensor, 1, bins=False).held.moments
    if finite == tensor.numel():
        return mean * mean + std * std
    return math.nan if nan else math.inf


def can_digest(tensor: Tensor) -> bool:
    """Return whether the kernel reads the memory of a contiguous CPU tensor as words of 32 bits."""
    # A source checkout may have a kernel that was built before.
    return AVAILABLE and hasattr(_kernel, "digest") and tensor.data_ptr() % 4 == 0


def digest(tensor: Tensor, factors: NDArray[np.int32]) -> int:
    """Return the number of a tensor that `can_digest`, by the `factors` of the words of a row; see digest.py."""
    return _kernel.digest(tensor.data_ptr(), tensor.numel() * tensor.element_size() // 4, factors)


def all_differ(extremes: NDArray[np.float32]) -> bool:
    """Return whether no two units have the same extremes, shape (2, units)."""
    return _kernel.all_differ(extremes)
