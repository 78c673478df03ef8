"""`HostTensor`: accumulates the summary of one place's CPU tensors.

On the CPU a look at a result is a memory read, so the path may depend on the data: nearly every tensor takes the short
one. `DeviceTensor` is its twin for accelerators, where a look would stop the queue.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from propscope.measure import kernel
from propscope.measure.moments import NO_MOMENTS, moments_of
from propscope.measure.sampling import flatten, stride_for
from propscope.measure.units import DeviceUnits, HostUnits
from propscope.results.histogram import BIN_COUNT, ZERO, LogHistogram, bin_codes
from propscope.results.summary import TensorSummary

_NEGATIVE_ZERO = 2048
# A table counts in 32 bits, half the memory; before it could overflow it is emptied into a histogram.
_FULL = 2**31 - 1


class HostTensor:
    """Accumulates tensors of any shape and floating dtype; `summary()` at any time. `limit` 0: no sampling."""

    __slots__ = ("_address", "_counted", "_emptied", "_histogram", "_limit", "_moments", "_table", "count")

    def __init__(self, *, limit: int, histogram: bool = True) -> None:
        self._limit = limit
        self._histogram = histogram
        self._moments = NO_MOMENTS
        self._table: NDArray[np.int32] | None = None
        self._address = 0
        self._counted = 0
        self._emptied: LogHistogram | None = None
        self.count = 0

    def add(self, tensor: Tensor, units: HostUnits | DeviceUnits | None = None, unit_axis: int = -1) -> None:
        """Take a detached CPU tensor in, and in the same pass its `units`, when it has any."""
        count = tensor.numel()
        if not count:
            return
        self.count += count
        stride = 1
        if self._histogram:
            stride = stride_for(count, self._limit, tensor.shape[-1] if tensor.dim() else 1)
            self._make_room(-(-count // stride))
        if not kernel.can_read(tensor):
            extremes = units.see(tensor, unit_axis) if units is not None else None
            self._add_in_passes(flatten(tensor), stride, extremes)
            return
        if isinstance(units, HostUnits):
            moments = units.see_with(tensor, unit_axis, self._address, stride)
        else:
            dense = tensor if tensor.is_contiguous() else flatten(tensor)
            moments = kernel.summarize(dense, self._address, stride)
        self._moments = moments if self._moments is NO_MOMENTS else self._moments + moments

    def _add_in_passes(self, flat: Tensor, stride: int, extremes: tuple[float, float] | None) -> None:
        moments = moments_of(flat, extremes)
        # Counting the values themselves would branch on each of them.
        zeros = int(np.count_nonzero((flat == 0).numpy()))
        self._moments = self._moments + moments._replace(zeros=zeros)
        if self._histogram:
            sample = flat if stride == 1 else flat[::stride]
            self._count_bins(sample, clean=moments.finite == flat.numel())

    def add_zeros(self, count: int) -> None:
        """Take in `count` zeros that are not stored, as in a sparse gradient."""
        if not count:
            return
        self.add(torch.zeros(1, device="cpu").expand(count))

    def _make_room(self, count: int) -> None:
        if self._table is None:
            memory = torch.zeros(kernel.TABLE, dtype=torch.int32, device="cpu")
            self._table, self._address = memory.numpy(), memory.data_ptr()
        if self._counted + count > _FULL:
            table = LogHistogram.from_dense(self._table[:BIN_COUNT])
            self._emptied = table if self._emptied is None else self._emptied + table
            self._table[:] = 0
            self._counted = 0
        self._counted += count

    def _count_bins(self, sample: Tensor, *, clean: bool) -> None:
        values = _as_float32(sample)
        codes = (values.view(np.uint32) >> np.uint32(20)).view(np.int32)
        counts = torch.bincount(torch.from_numpy(codes), minlength=BIN_COUNT).numpy()
        _settle(counts, values, clean=clean)
        assert self._table is not None
        self._table[:BIN_COUNT] += counts

    def summary(self) -> TensorSummary:
        """Return what was accumulated; count 0 and NaN moments when nothing was."""
        moments = self._moments
        histogram = LogHistogram.empty() if self._histogram else None
        if self._table is not None:
            if kernel.AVAILABLE:
                histogram = kernel.histogram(self._address)
            else:
                histogram = LogHistogram.from_dense(self._table[:BIN_COUNT])
            if self._emptied is not None:
                histogram = histogram + self._emptied
        return TensorSummary(
            count=self.count,
            mean=moments.mean,
            std=moments.std,
            min=moments.low,
            max=moments.high,
            zero_fraction=moments.zeros / self.count if self.count else float("nan"),
            nan_count=moments.nan,
            posinf_count=moments.posinf,
            neginf_count=moments.neginf,
            histogram=histogram,
        )


def _as_float32(sample: Tensor) -> NDArray[np.float32]:
    if sample.dtype == torch.float64:
        limit = torch.finfo(torch.float32).max
        sample = torch.where(torch.isfinite(sample), sample.clamp(-limit, limit), sample)
    if sample.dtype != torch.float32:
        sample = sample.to(torch.float32)
    return np.ascontiguousarray(sample.numpy())


def _settle(counts: NDArray[np.int64], values: NDArray[np.float32], *, clean: bool) -> None:
    """Part zero from the smallest subnormals and Inf from NaN, which share the top twelve bits; in place."""
    if counts[ZERO] or counts[_NEGATIVE_ZERO]:
        zeros = values.size - np.count_nonzero(values)
        if zeros == counts[ZERO] + counts[_NEGATIVE_ZERO]:
            counts[ZERO], counts[_NEGATIVE_ZERO] = zeros, 0
        else:
            counts[:] = np.bincount(bin_codes(values), minlength=BIN_COUNT)
            return
    if not clean:
        counts[:] = np.bincount(bin_codes(values), minlength=BIN_COUNT)
