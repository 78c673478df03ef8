"""`HostTensor`: accumulates the summary of one place's CPU tensors.

On the CPU a look at a result is a memory read, so the path may depend on the data: nearly every tensor takes the short
one. `DeviceTensor` is its twin for accelerators, where a look would stop the queue.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from propscope.measure.moments import NO_MOMENTS, moments_of
from propscope.measure.sampling import flatten, stride_for
from propscope.results.histogram import BIN_COUNT, ZERO, LogHistogram, bin_codes
from propscope.results.summary import TensorSummary

_NEGATIVE_ZERO = 2048
_PROMOTE_AT = 2**31 - 2**24


class HostTensor:
    """Accumulates tensors of any shape and floating dtype; `summary()` at any time. `limit` 0: no sampling."""

    __slots__ = ("_counted", "_counts", "_limit", "_moments", "_zeros", "count")

    def __init__(self, *, limit: int, histogram: bool = True) -> None:
        self._limit = limit
        self._moments = NO_MOMENTS
        self._counts: NDArray[np.int32] | NDArray[np.int64] | None = np.zeros(0, np.int32) if histogram else None
        self._counted = 0
        self._zeros = 0
        self.count = 0

    def add(self, tensor: Tensor, extremes: tuple[float, float] | None = None) -> None:
        """Take a detached CPU tensor in; `extremes`: its smallest and largest element, where known."""
        flat = flatten(tensor)
        count = flat.numel()
        if not count:
            return
        self.count += count
        moments = moments_of(flat, extremes)
        self._moments = self._moments + moments if self._moments is not NO_MOMENTS else moments
        if self._counts is not None:
            stride = stride_for(count, self._limit, tensor.shape[-1] if tensor.dim() else 1)
            self._add_histogram(flat if stride == 1 else flat[::stride], clean=moments.finite == count)
        else:
            self._zeros += count - int(torch.count_nonzero(flat).numpy())

    def add_zeros(self, count: int) -> None:
        """Take in `count` zeros that are not stored, as in a sparse gradient."""
        if not count:
            return
        zeros = torch.zeros(1, device="cpu")
        self.add(zeros.expand(count) if self._counts is None else zeros.expand(count).contiguous())

    def _add_histogram(self, sample: Tensor, *, clean: bool) -> None:
        values = _as_float32(sample)
        codes = (values.view(np.uint32) >> np.uint32(20)).view(np.int32)
        counts = torch.bincount(torch.from_numpy(codes), minlength=BIN_COUNT).numpy()
        _settle(counts, values, clean=clean)
        self._counted += values.size
        if self._counts is None or not self._counts.size:
            self._counts = counts.astype(np.int32)
            return
        if self._counted > _PROMOTE_AT and self._counts.dtype == np.int32:
            self._counts = self._counts.astype(np.int64)
        self._counts += counts

    def summary(self) -> TensorSummary:
        """Return what was accumulated; count 0 and NaN moments when nothing was."""
        moments = self._moments
        histogram, zeros, of = None, self._zeros, self.count
        if self._counts is not None:
            histogram = LogHistogram.from_dense(self._counts) if self._counts.size else LogHistogram.empty()
            zeros, of = histogram.zero_count, histogram.total
        return TensorSummary(
            count=self.count,
            mean=moments.mean,
            std=moments.std,
            min=moments.low,
            max=moments.high,
            zero_fraction=zeros / of if of else float("nan"),
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
