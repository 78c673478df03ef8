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
from propscope.measure.moments import NO_MOMENTS, moments_of, summary_of
from propscope.measure.sampling import flatten, stride_for
from propscope.measure.units import DeviceUnits, HostUnits
from propscope.results.histogram import BIN_COUNT, ZERO, LogHistogram, bin_codes
from propscope.results.summary import TensorSummary

_NEGATIVE_ZERO = 2048
# A table counts in 32 bits, half the memory; before it could overflow it is emptied into a histogram.
_FULL = 2**31 - 1


class HostTensor:
    """Accumulates tensors of any shape and floating dtype; `summary()` at any time. `limit` 0: no sampling."""

    __slots__ = ("_counted", "_emptied", "_histogram", "_limit", "_moments", "_state", "count")

    def __init__(self, *, limit: int, histogram: bool = True) -> None:
        self._limit = limit
        self._histogram = histogram
        self._state: kernel.State | None = None
        self._moments = NO_MOMENTS
        self._emptied = LogHistogram.empty()
        self._counted = 0
        self.count = 0

    def add(self, tensor: Tensor, units: HostUnits | DeviceUnits | None = None, unit_axis: int = -1) -> None:
        """Take a detached CPU tensor in, and in the same pass its `units`, when it has any."""
        count = tensor.numel()
        if not count:
            return
        self.count += count
        state = self._state
        if state is None:
            state = self._state = kernel.State(bins=self._histogram)
        stride = 1
        if self._histogram:
            stride = stride_for(count, self._limit, tensor.shape[-1] if tensor.dim() else 1)
            sampled = -(-count // stride)
            self._counted += sampled
            if self._counted > _FULL:
                self._emptied = self._emptied + state.histogram
                state.bins[:] = 0
                self._counted = sampled
        if not kernel.can_read(tensor):
            extremes = units.see(tensor, unit_axis) if units is not None else None
            self._add_in_passes(flatten(tensor), stride, extremes, state)
        elif isinstance(units, HostUnits):
            units.see_with(tensor, unit_axis, state, stride)
        else:
            kernel.summarize(tensor if tensor.is_contiguous() else flatten(tensor), state, stride)

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
                self._counted = 0
            else:
                state.bins += counts

    def add_zeros(self, count: int) -> None:
        """Take in `count` zeros that are not stored, as in a sparse gradient."""
        if not count:
            return
        self.add(torch.zeros(1, device="cpu").expand(count))

    def summary(self) -> TensorSummary:
        """Return what was accumulated; count 0 and NaN moments when nothing was."""
        moments, state = self._moments, self._state
        histogram = self._emptied if self._histogram else None
        if state is not None:
            moments = state.moments if moments is NO_MOMENTS else moments + state.moments
            histogram = self._emptied + state.histogram if self._histogram else None
        return summary_of(moments, count=self.count, zeros=moments.zeros, histogram=histogram)


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
