"""`CpuAccumulator`: accumulates the summary of one site's CPU tensors.

On the CPU it costs nothing to read a result, so the code may branch on values, and nearly every tensor takes the short
path. `DeviceAccumulator` does the same on accelerators, where reading a result would wait for the device.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from propscope.measure import kernel
from propscope.measure.geometry import is_safe, rows_in_memory
from propscope.measure.moments import NO_MOMENTS, Moments, moments_of, summary_of
from propscope.measure.sampling import flatten, stride_for
from propscope.measure.units import CpuUnits, DeviceUnits
from propscope.records.histogram import BIN_COUNT, ZERO, LogHistogram, bin_codes
from propscope.records.summary import TensorSummary

_NEGATIVE_ZERO = 2048
# A table counts in 32 bits, half the memory; before it could overflow it is emptied into a histogram.
_FULL = 2**31 - 1
_NOTHING = LogHistogram.empty()


class CpuAccumulator:
    """Accumulates tensors of any shape and floating dtype; `summary()` at any time. `limit` 0: no sampling."""

    __slots__ = (
        "_apart",
        "_emptied",
        "_histogram",
        "_limit",
        "_moments",
        "_plan",
        "_room",
        "_sampled",
        "_state",
        "_units",
    )

    def __init__(self, *, limit: int, histogram: bool = True) -> None:
        self._limit = limit
        self._histogram = histogram
        self._state: kernel.State | kernel.Held | None = None
        self._moments = NO_MOMENTS
        self._emptied = _NOTHING
        self._plan: kernel.Plan | None = None
        # Whether inner products are wanted that the plan cannot give.
        self._apart = False
        self._units: CpuUnits | None = None
        self._sampled = 0
        self._room = _FULL

    @property
    def count(self) -> int:
        """Number of elements seen."""
        return _count(self._all_moments)

    def add(
        self,
        tensor: Tensor,
        units: CpuUnits | DeviceUnits | None = None,
        unit_axis: int = -1,
        *,
        products: bool = False,
    ) -> NDArray[np.float32] | None:
        """Add a CPU tensor, and in the same pass its `units` where it has any.

        With `products` it returns the inner products of `geometry.gram`, None where one pass cannot give them.
        """
        count = tensor.numel()
        if not count:
            return None
        stride = stride_for(count, self._limit, tensor.shape[-1] if tensor.dim() else 1) if self._histogram else 1
        self._sampled = -(-count // stride)
        self._plan = None
        self._units = units if isinstance(units, CpuUnits) else None
        readable = kernel.can_read(tensor)
        state = None if self._state is None and readable else self._own_state()
        if state is not None and self._histogram and self._room < self._sampled:
            self._emptied = self._emptied + state.histogram
            state.bins[:] = 0
            self._room = _FULL
        self._room -= self._sampled
        if not readable:
            unit_moments = units.see(tensor, unit_axis) if units is not None else None
            self._add_in_passes(flatten(tensor), stride, unit_moments, self._own_state())
            return None
        axis, extremes = (None, None) if self._units is None else (unit_axis, self._units.extremes)
        rows = rows_in_memory(tensor, unit_axis) if products else None
        if state is None:
            self._state, found, last_product = kernel.see_first(
                tensor, stride, bins=self._histogram, unit_axis=axis, extremes=extremes, rows=rows
            )
        else:
            plan = kernel.Plan(tensor, state, stride, unit_axis=axis, extremes=extremes, rows=rows)
            last_product, found = plan.run(tensor), plan.products
            if is_safe(last_product):
                self._plan, self._apart = plan, products and rows is None
        if self._units is not None:
            self._units.compare(tensor, unit_axis)
        return found if is_safe(last_product) else None

    def _own_state(self) -> kernel.State:
        """Return memory to add to: before the second tensor there is none."""
        state = self._state
        if not isinstance(state, kernel.State):
            bins = self._histogram
            self._state = state = kernel.State(bins=bins) if state is None else state.state(bins=bins)
        return state

    def add_same_shape(self, tensor: Tensor) -> float | None:
        """Add a tensor of the same shape and dtype as the last one by the short path; else return None and add nothing.

        Returns the last inner product, 1 without `products`; the others are in the array that `add` returned. A product
        that is not `geometry.is_safe` sends the next tensor through `add` again. 0, which is not safe either, where one
        pass cannot give them.
        """
        plan, units = self._plan, self._units
        if plan is None or self._room < self._sampled or (units is not None and units.undecided):
            return None
        if not plan.fits(tensor):
            return None
        self._room -= self._sampled
        last_product = plan.run(tensor)
        if not is_safe(last_product):
            self._plan = None
        return 0.0 if self._apart else last_product

    def forget_shape(self) -> None:
        """Send the next tensor through `add`, whatever its shape: it has units from now on."""
        self._plan = None

    def _add_in_passes(
        self, flat: Tensor, stride: int, extremes: tuple[float, float] | None, state: kernel.State
    ) -> None:
        moments = moments_of(flat, extremes)
        # Counting the values themselves would branch on each; torch takes ten times as long to compare them.
        values = flat if flat.dtype is torch.float64 else flat.float()
        zeros = int(np.count_nonzero(values.numpy() == 0))
        self._moments = self._moments + moments._replace(zeros=zeros)
        if self._histogram:
            sample = flat if stride == 1 else flat[::stride]
            counts = _bin_counts(sample, clean=moments.finite == flat.numel())
            if sample.numel() > _FULL:
                self._emptied = self._emptied + LogHistogram.from_dense(counts)
                self._room = _FULL
            else:
                state.bins += counts

    def add_zeros(self, count: int) -> None:
        """Add `count` zeros that a sparse gradient does not store."""
        if not count:
            return
        self.add(torch.zeros(1, device="cpu").expand(count))

    @property
    def broken_at(self) -> float | None:
        """0 where some element is not finite, else None."""
        moments = self._all_moments
        return 0.0 if moments.nan or moments.posinf or moments.neginf else None

    def absorb(self, other: CpuAccumulator) -> None:
        """Add what another one has accumulated."""
        self._moments = self._moments + other._all_moments
        if self._histogram:
            self._emptied = self._emptied + other._all_bins

    @property
    def _all_moments(self) -> Moments:
        moments, state = self._moments, self._state
        if state is None:
            return moments
        return state.moments if moments is NO_MOMENTS else moments + state.moments

    @property
    def _all_bins(self) -> LogHistogram:
        return self._emptied if self._state is None else self._emptied + self._state.histogram

    def summary(self) -> TensorSummary:
        """Return what was accumulated; count 0 and NaN moments when nothing was."""
        moments, histogram = self._all_moments, self._all_bins if self._histogram else None
        return summary_of(moments, count=_count(moments), zeros=moments.zeros, histogram=histogram)


def _count(moments: Moments) -> int:
    return moments.finite + moments.nan + moments.posinf + moments.neginf


def _bin_counts(sample: Tensor, *, clean: bool) -> NDArray[np.int64]:
    values = _as_float32(sample)
    codes = (values.view(np.uint32) >> np.uint32(20)).view(np.int32)
    counts: NDArray[np.int64] = torch.bincount(torch.from_numpy(codes), minlength=BIN_COUNT).numpy()
    _settle(counts, values, clean=clean)
    return counts


def _as_float32(sample: Tensor) -> NDArray[np.float32]:
    if sample.dtype == torch.float64:
        limit = torch.finfo(torch.float32).max
        sample = torch.where(torch.isfinite(sample), sample.clamp(-limit, limit), sample)
    if sample.dtype != torch.float32:
        sample = sample.to(torch.float32)
    return np.ascontiguousarray(sample.numpy())


def _settle(counts: NDArray[np.int64], values: NDArray[np.float32], *, clean: bool) -> None:
    """Separate zero from the smallest subnormals, and Inf from NaN, which share the top twelve bits; in place."""
    if counts[ZERO] or counts[_NEGATIVE_ZERO]:
        zeros = values.size - np.count_nonzero(values)
        if zeros == counts[ZERO] + counts[_NEGATIVE_ZERO]:
            counts[ZERO], counts[_NEGATIVE_ZERO] = zeros, 0
        else:
            counts[:] = np.bincount(bin_codes(values), minlength=BIN_COUNT)
            return
    if not clean:
        counts[:] = np.bincount(bin_codes(values), minlength=BIN_COUNT)
