"""Mean and variance over all elements of many tensors, pooled in float64, and the share between samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Elements converted to float64 at a time, so that a large activation is not copied as a whole.
_CHUNK = 1 << 22
# Rounding in float32 gives a constant tensor up to this standard deviation, relative to its mean.
_CONSTANT = 1e-6


class Spread:
    """Accumulates tensors whose axis `axis` holds the units; memory is one number per unit, for any number of tensors.

    Means and sums of squares about the mean are combined exactly (Chan, Golub, LeVeque 1983, eq. 2.1).
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0
        self._units: Tensor | None = None

    def add(self, values: Tensor, axis: int) -> None:
        """Add every element of `values`, which has at least one dimension."""
        if not values.numel():
            return
        rows = max(_CHUNK * len(values) // values.numel(), 1)
        for chunk in values.detach().split(rows):
            self._add(chunk, axis % values.dim())

    def _add(self, chunk: Tensor, axis: int) -> None:
        wide = chunk.to(torch.float32 if chunk.device.type == "mps" else torch.float64)
        others = [other for other in range(wide.dim()) if other != axis]
        sums = wide.sum(others) if others else wide
        mean = float(sums.sum()) / wide.numel()
        centred = (wide - mean).reshape(-1)
        squares = float(torch.dot(centred, centred))
        total = self.count + wide.numel()
        apart = mean - self.mean
        self._squares += squares + apart * apart * self.count * wide.numel() / total
        self.mean += apart * wide.numel() / total
        self.count = total
        if self._units is None:
            self._units = sums.clone()
        elif self._units.shape == sums.shape:
            self._units += sums
        else:  # The axis of units has another length in each batch.
            self._units = torch.full_like(sums, math.nan)

    @property
    def finite(self) -> bool:
        """Whether every element was finite."""
        return math.isfinite(self._squares)

    @property
    def rows(self) -> int:
        """The number of values per unit: samples times positions."""
        return 0 if self._units is None else self.count // len(self._units)

    @property
    def std(self) -> float:
        """The standard deviation of all elements, without Bessel's correction; 0 where it comes only from rounding."""
        found = math.sqrt(self._squares / self.count) if self.count else math.nan
        return 0.0 if found <= _CONSTANT * abs(self.mean) else found

    @property
    def sample_fraction(self) -> float:
        """The share of the variance that lies within units, over samples and positions; the rest is between units.

        0 where all samples give the same values; NaN where the units vary from batch to batch, or nothing varies.
        """
        if self._units is None or not self._squares:
            return math.nan
        between = float((self._units / self.rows - self.mean).square().mean())
        return min(max(1 - between * self.count / self._squares, 0.0), 1.0)
