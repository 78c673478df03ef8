"""`DeviceAccumulator`: accumulates the summary of one site's tensors on any device without waiting for it.

Nothing here looks at a value: every branch is on shapes and types. Masking, scaling and centring are done for every
tensor alike, and the results stay on the device until `summary()`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from propscope.measure.moments import NO_MOMENTS, Moments, summary_of
from propscope.measure.sampling import flatten, stride_for
from propscope.measure.sums import total, widest
from propscope.measure.units import CpuUnits, DeviceUnits
from propscope.records.histogram import BIN_COUNT, NAN, ZERO, LogHistogram
from propscope.records.summary import TensorSummary

_FOLD_AT = 64
_SIGN = 2048


class DeviceAccumulator:
    """Accumulates tensors of any shape and floating dtype; `summary()` waits for the device, nothing else does."""

    __slots__ = ("_counts", "_histogram", "_limit", "_pending", "_zeros", "count")

    def __init__(self, *, limit: int, histogram: bool = True) -> None:
        self._limit = limit
        self._pending: list[Tensor] = []
        self._counts: Tensor | None = None
        self._histogram = histogram
        self._zeros = torch.zeros((), dtype=torch.int64, device="cpu")
        self.count = 0

    def add(
        self,
        tensor: Tensor,
        units: CpuUnits | DeviceUnits | None = None,
        unit_axis: int = -1,
        *,
        products: bool = False,
    ) -> None:
        """Add a detached tensor, and its `units` where it has any; returns no products."""
        if units is not None:
            units.see(tensor, unit_axis)
        flat = flatten(tensor)
        count = flat.numel()
        if not count:
            return
        self.count += count
        flat = flat if flat.dtype in (torch.float32, torch.float64) else flat.float()
        self._pending.append(_moments_row(flat))
        if len(self._pending) >= _FOLD_AT:
            self._pending = [_fold(torch.stack(self._pending))]
        self._zeros = self._zeros.to(flat.device) + (flat == 0).sum()
        if not self._histogram:
            return
        sample = flat[:: stride_for(count, self._limit, tensor.shape[-1] if tensor.dim() else 1)]
        counts = bin_counts(sample)
        self._counts = counts if self._counts is None else self._counts + counts

    def add_zeros(self, count: int) -> None:
        """Add `count` zeros that a sparse gradient does not store."""
        if count:
            device = self._pending[0].device if self._pending else torch.device("cpu")
            self.add(torch.zeros(1, device=device).expand(count).contiguous())

    @property
    def broken_at(self) -> float | None:
        """The share of the tensors that came before the first one with an element that is not finite; None for none.

        Waits for the device. Of very many tensors the first ones are counted as one.
        """
        rows = torch.stack(self._pending).cpu().tolist() if self._pending else []
        return next((at / len(rows) for at, row in enumerate(rows) if any(row[1:4])), None)

    def absorb(self, other: DeviceAccumulator) -> None:
        """Add what another one has accumulated on the same device."""
        self.count += other.count
        self._pending += other._pending
        self._zeros = self._zeros.to(other._zeros.device) + other._zeros
        if other._counts is not None:
            self._counts = other._counts if self._counts is None else self._counts + other._counts

    def summary(self) -> TensorSummary:
        """Return what was accumulated, after waiting for the device."""
        moments = NO_MOMENTS
        for row in torch.stack(self._pending).cpu().tolist() if self._pending else []:
            finite, nan, posinf, neginf = (int(value) for value in row[:4])
            mean, std, low, high = row[4:] if finite else [math.nan] * 4
            moments = moments + Moments(finite, mean, std, low, high, nan, posinf, neginf)
        histogram = LogHistogram.empty() if self._histogram else None
        if self._counts is not None:
            histogram = LogHistogram.from_dense(self._counts.cpu())
        return summary_of(moments, count=self.count, zeros=int(self._zeros.cpu()), histogram=histogram)


def _moments_row(flat: Tensor) -> Tensor:
    """Return (finite, nan, posinf, neginf, mean, std, low, high), shape (8,)."""
    wide = widest(flat)
    finite = torch.isfinite(flat)
    count = finite.sum(dtype=wide)
    low = torch.where(finite, flat, math.inf).amin().to(wide)
    high = torch.where(finite, flat, -math.inf).amax().to(wide)
    scale = torch.maximum(low.abs(), high.abs())
    scale = torch.where((scale > 0) & torch.isfinite(scale), scale, 1.0)
    unit = torch.where(finite, flat, 0.0).to(wide) / scale
    mean = total(unit) / count
    spread = torch.where(finite, unit - mean, 0.0)
    std = (total(spread.square()) / count).sqrt()
    nan, posinf, neginf = torch.isnan(flat).sum(), (flat == math.inf).sum(), (flat == -math.inf).sum()
    return torch.stack([count, nan.to(wide), posinf.to(wide), neginf.to(wide), mean * scale, std * scale, low, high])


def _fold(rows: Tensor) -> Tensor:
    """Merge many rows of `_moments_row` into one, by the formula of `merge_moments`."""
    counts = rows[:, 0]
    total = counts.sum()
    share = counts / total.clamp(min=1)
    mean, std = torch.where(counts > 0, rows[:, 4], 0.0), torch.where(counts > 0, rows[:, 5], 0.0)
    center = (share * mean).sum()
    spread = torch.stack([std, mean - center])
    scale = spread.abs().amax().clamp(min=torch.finfo(rows.dtype).tiny)
    deviation = (share * (spread / scale).square().sum(0)).sum().sqrt() * scale
    low, high = rows[:, 6].amin(), rows[:, 7].amax()
    return torch.cat([rows[:, :4].sum(0), torch.stack([center, deviation, low, high])])


def bin_counts(sample: Tensor) -> Tensor:
    """Return how many of a 1-D sample's elements each bin of `LogHistogram` holds, int64, shape (4096,)."""
    if sample.dtype == torch.float64:
        limit = torch.finfo(torch.float32).max
        sample = torch.where(torch.isfinite(sample), sample.clamp(-limit, limit), sample)
    values = sample.to(torch.float32).contiguous()
    codes = (values.view(torch.int32) >> 20) & (BIN_COUNT - 1)
    codes = codes + (codes % _SIGN == ZERO)
    codes = torch.where(values == 0, ZERO, codes)
    codes = torch.where(torch.isnan(values), NAN, codes).to(torch.int64)
    counts = torch.zeros(BIN_COUNT, dtype=torch.int64, device=values.device)
    return counts.scatter_add_(0, codes, torch.ones_like(codes))
