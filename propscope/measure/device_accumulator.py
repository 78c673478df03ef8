"""`DeviceAccumulator`: accumulates the summary of one site's tensors on any device without waiting for it.

Nothing here looks at a value: every branch is on shapes and types. What a tensor shows is written to one row of
`DeviceMemory`, and stays on the device until `summary()`. So do the counts of the histogram's bins.
"""

from __future__ import annotations

import math
import os
from functools import cache, lru_cache
from types import ModuleType

import torch
from torch import Tensor

from propscope.measure.device_memory import PART, BinCounts, Cells, DeviceMemory, cell
from propscope.measure.moments import NO_MOMENTS, Moments, summary_of
from propscope.measure.sampling import flatten, stride_for
from propscope.measure.sums import total, widest
from propscope.measure.units import CpuUnits, DeviceUnits
from propscope.records.histogram import LogHistogram
from propscope.records.summary import TensorSummary

# So many tensors, or parts of one, have a row each, until they are put into one.
_ROWS, _CELLS = 32, 10
# The cells of a row. The first two are sum and 2-norm of the finite elements; of a tensor of the widest dtype, its mean
# and deviation. The last are the numbers of elements that reach each of `Constants.thresholds`. Where `fused` wrote a
# row, the second is the sum of squares, the extremes are keys, and both sums are about what is in place of _NEAREST.
_SUM, _NORM, _LOW, _HIGH, _NEAREST, _AT_LEAST = range(6)
_THRESHOLDS = 5
# The columns of what `_finished` returns.
_FINITE, _NUMBERS, _POSINF, _NEGINF, _ZEROS, _MEAN, _STD, _MIN, _MAX = range(9)
_COLUMNS = 9
_DTYPES = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))
# So many truth values can be added up in a byte.
_BYTE = 255


class DeviceAccumulator:
    """Accumulates tensors of any shape and floating dtype; `summary()` waits for the device, nothing else does."""

    __slots__ = ("_bins", "_cells", "_dtype", "_folded", "_limit", "_memory", "_sizes", "count")

    def __init__(self, *, limit: int, histogram: bool = True, memory: DeviceMemory | None = None) -> None:
        self._limit = limit
        self._bins = BinCounts.SIZE if histogram else 0
        self._memory = memory or DeviceMemory()
        self._cells: Cells | None = None
        # The elements of each row, and the dtype of the tensors, None where `fused` wrote them.
        self._sizes: list[int] = []
        self._dtype: torch.dtype | None = None
        # The elements of what was folded into the last row.
        self._folded = 0
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
        flat = flat if flat.dtype in _DTYPES else flat.float()
        stride = stride_for(count, self._limit, tensor.shape[-1] if tensor.dim() else 1)
        with torch.no_grad():
            if not self._add_fused(flat, stride):
                constants = self._memory.constants(flat.device)
                for part in flat.split(PART):
                    _see(part, self._row(part, part.dtype), constants.thresholds(part.dtype))
                    self._sizes.append(len(part))
                if self._bins:
                    BinCounts(self._own_bins, constants).count(_sampled(flat, stride))
        self.count += count
        self._cells_on(flat.device).note_written()

    def _add_fused(self, flat: Tensor, stride: int) -> bool:
        """Add a tensor by one launch; return False and do nothing where that cannot be done."""
        if self._memory.is_unfused or (fused := fused_on(flat.device.type)) is None or flat.dtype is torch.float64:
            return False
        row = self._row(flat, None)
        try:
            fused.see(flat, row, self._own_bins, stride)
        except Exception:
            # Triton compiles in the user's environment, which may lack what it needs; torch's own operations do not.
            self._memory.is_unfused = True
            return False
        self._sizes.append(len(flat))
        return True

    def _row(self, flat: Tensor, dtype: torch.dtype | None) -> Tensor:
        """Return the next row, of zeros, for a tensor whose rows are those of a dtype."""
        cells = self._cells_on(flat.device)
        if len(self._sizes) == _ROWS or dtype is not self._dtype:
            self._fold(self._unfolded(cells.memory))
            self._dtype = dtype
        start = self._bins + len(self._sizes) * _CELLS
        return cells.memory[start : start + _CELLS]

    @property
    def _own_bins(self) -> Tensor:
        assert self._cells is not None
        return self._cells.memory[: self._bins]

    def _cells_on(self, device: torch.device) -> Cells:
        if self._cells is None:
            self._cells = self._memory.take(self._bins + (_ROWS + 1) * _CELLS, device)
        return self._cells

    def _unfolded(self, cells: Tensor) -> Tensor:
        rows = cells[self._bins :].view(-1, _CELLS)
        return _finished(rows[: len(self._sizes)], self._dtype, self._wide)

    @property
    def _wide(self) -> torch.dtype:
        return torch.float64 if self._cells is None else widest(self._cells.memory)

    def _folded_row(self, cells: Tensor) -> Tensor:
        """Return the folded row, as `_finished` makes rows; shape (0, 9) where nothing was folded."""
        row = cell(cells[self._bins :].view(-1, _CELLS)[_ROWS:], 0, self._wide, _COLUMNS)
        return row if self._folded else row[:0]

    def _fold(self, rows: Tensor) -> None:
        """Put what was folded, and `rows` of `_finished`, into one row."""
        if not len(rows) or self._cells is None:
            return
        merged = _merged(torch.cat([self._folded_row(self._cells.memory), rows]))
        self._folded += sum(self._sizes)
        self._sizes.clear()
        self._cells.memory[self._bins : -_CELLS].zero_()
        self._folded_row(self._cells.memory).copy_(merged)

    def add_zeros(self, count: int) -> None:
        """Add `count` zeros that a sparse gradient does not store."""
        if count:
            device = torch.device("cpu") if self._cells is None else self._cells.memory.device
            self.add(torch.zeros(1, device=device).expand(count).contiguous())

    @property
    def broken_at(self) -> float | None:
        """The share of the tensors that came before the first one with an element that is not finite; None for none.

        Waits for the device. Of very many tensors the first ones are counted as one.
        """
        rows = self._read()[0]
        return next((at / len(rows) for at, (count, row) in enumerate(rows) if row[_FINITE] < count), None)

    def absorb(self, other: DeviceAccumulator) -> None:
        """Add what another one has accumulated on the same device."""
        if other._cells is None:
            return
        theirs = other._cells.memory
        with torch.no_grad():
            own = self._cells_on(theirs.device)
            rows = [self._unfolded(own.memory), other._folded_row(theirs), other._unfolded(theirs)]
            self._sizes.append(other.count)
            self._fold(torch.cat(rows))
            own.memory[: self._bins].add_(theirs[: self._bins])
        own.note_written()
        self.count += other.count

    def _read(self) -> tuple[list[tuple[int, list[float]]], LogHistogram]:
        """Return elements and `_finished` row of each part of a tensor, what was folded first, and the histogram."""
        if self._cells is None:
            return [], LogHistogram.empty()
        cells = self._cells.read()
        rows = torch.cat([self._folded_row(cells), self._unfolded(cells)]).tolist()
        sizes = [self._folded] * bool(self._folded) + self._sizes
        histogram = (
            LogHistogram.from_dense(BinCounts.dense(cells[: self._bins])) if self._bins else LogHistogram.empty()
        )
        return list(zip(sizes, rows, strict=True)), histogram

    def summary(self) -> TensorSummary:
        """Return what was accumulated, after waiting for the device."""
        rows, histogram = self._read()
        moments, zeros = NO_MOMENTS, 0
        for count, row in rows:
            finite, numbers, posinf, neginf, zero = (int(value) for value in row[:_MEAN])
            mean, std, low, high = row[_MEAN:] if finite else [math.nan] * 4
            moments = moments + Moments(finite, mean, std, low, high, count - numbers, posinf, neginf)
            zeros += zero
        return summary_of(moments, count=self.count, zeros=zeros, histogram=histogram if self._bins else None)


@cache
def fused_on(device: str) -> ModuleType | None:
    """Return the module `fused` for a type of device, None where it cannot be used."""
    if device != "cuda" or os.environ.get("PROPSCOPE_KERNEL", "1") == "0":
        return None
    try:
        from propscope.measure import fused
    except Exception:
        # A Triton that does not fit the system raises what it likes.
        return None
    return fused


def _see(flat: Tensor, row: Tensor, thresholds: Tensor) -> None:
    """Write what a 1-D tensor shows to a row."""
    wide = widest(flat)
    # One read for five counts; the truth values are then added up as bytes, since the sum of truth values is one of
    # their copy in eight bytes each.
    reached = torch.ge(flat, thresholds).view(torch.uint8)
    some = reached.view(_THRESHOLDS, -1, _divisor(len(flat))).sum(-1, dtype=torch.uint8)
    del reached
    torch.sum(some, (1,), dtype=torch.int64, out=cell(row, _AT_LEAST, torch.int64, _THRESHOLDS))
    if flat.dtype is wide:
        cell(row, 0, wide, 4).copy_(_centred(flat, torch.isfinite(flat)))
        return
    low, high, nearest = (cell(row, at, flat.dtype)[0] for at in (_LOW, _HIGH, _NEAREST))
    sum_, norm = (cell(row, at, wide)[0] for at in (_SUM, _NORM))
    finite = torch.nan_to_num(flat, nan=math.inf, posinf=math.inf, neginf=math.inf)
    torch.linalg.vector_norm(finite, -math.inf, out=nearest)
    finite.nan_to_num_(posinf=0.0)
    torch.aminmax(finite, out=(low, high))
    torch.sum(finite, (0,), dtype=wide, out=sum_)
    torch.linalg.vector_norm(finite, dtype=wide, out=norm)


def _centred(flat: Tensor, finite: Tensor) -> Tensor:
    """Return mean, deviation, smallest and largest finite element, shape (4,).

    Where no wider dtype is there to add up in, values are scaled and centred, so that no square leaves the range.
    """
    count = finite.sum(dtype=flat.dtype)
    low = torch.where(finite, flat, math.inf).amin()
    high = torch.where(finite, flat, -math.inf).amax()
    scale = torch.maximum(low.abs(), high.abs())
    scale = torch.where((scale > 0) & torch.isfinite(scale), scale, 1.0)
    unit = torch.where(finite, flat, 0.0) / scale
    mean = total(unit) / count
    spread = torch.where(finite, unit - mean, 0.0)
    std = (total(spread.square()) / count).sqrt()
    return torch.stack([mean * scale, std * scale, low, high])


def _finished(rows: Tensor, dtype: torch.dtype | None, wide: torch.dtype) -> Tensor:
    """Return counts, mean, deviation and extremes of the tensors of a dtype whose rows these are, shape (rows, 9).

    `dtype`: None of the rows of `fused`.
    """
    numbers, posinf, above, at_least_zero, positive = cell(rows, _AT_LEAST, torch.int64, _THRESHOLDS).to(wide).unbind(1)
    finite, zeros = above - posinf, at_least_zero - positive
    total, second = cell(rows, _SUM, wide, 2).unbind(1)
    center: float | Tensor = 0.0
    if dtype is None:
        low, high = _numbers_of(rows[:, _LOW : _HIGH + 1]).to(wide).unbind(1)
        low, center = -low, cell(rows, _NEAREST, wide)[:, 0]
    else:
        low, high, nearest = cell(rows, _LOW, dtype, 3).to(wide).unbind(1)
    if dtype is wide:
        mean, std = total, second
    else:
        if dtype is not None:
            second = second.square()
            # What is not finite was taken for zero. If no element is zero, an extreme of zero is not the elements' own:
            # all of them have one sign, and the extreme on this side is the one nearest to zero.
            low = torch.where((low == 0) & (zeros == 0), nearest, low)
            high = torch.where((high == 0) & (zeros == 0), -nearest, high)
        held = finite.clamp(min=1)
        mean = total / held
        # Rounding leaves some deviation where all are equal.
        std = torch.where(low == high, 0.0, (second / held - mean.square()).clamp(min=0).sqrt())
        mean = mean + center
    return torch.stack([finite, numbers, posinf, numbers - above, zeros, mean, std, low, high], 1)


def _numbers_of(keys: Tensor) -> Tensor:
    """Return the float32 numbers of keys that `fused` wrote."""
    return torch.where(keys >= 1 << 31, keys - (1 << 31), -1 - keys).to(torch.int32).view(torch.float32)


def _merged(rows: Tensor) -> Tensor:
    """Merge many rows of `_finished` into one, by the formula of `merge_moments`."""
    counts = rows[:, _FINITE]
    held = counts > 0
    share = counts / counts.sum().clamp(min=1)
    mean, std, low, high = rows[:, _MEAN:].unbind(1)
    mean, std = torch.where(held, mean, 0.0), torch.where(held, std, 0.0)
    center = (share * mean).sum()
    spread = torch.stack([std, mean - center])
    scale = spread.abs().amax().clamp(min=torch.finfo(rows.dtype).tiny)
    deviation = (share * (spread / scale).square().sum(0)).sum().sqrt() * scale
    low, high = torch.where(held, low, math.inf).amin(), torch.where(held, high, -math.inf).amax()
    return torch.cat([rows[:, :_MEAN].sum(0), torch.stack([center, deviation, low, high])])


def _sampled(flat: Tensor, stride: int) -> Tensor:
    """Return every so manieth element, as float32 without gaps; what is finite stays so."""
    sample = flat[::stride]
    if sample.dtype is torch.float64:
        limit = torch.finfo(torch.float32).max
        sample = torch.where(torch.isfinite(sample), sample.clamp(-limit, limit), sample)
    return sample.to(torch.float32).contiguous()


@lru_cache(maxsize=1024)
def _divisor(count: int) -> int:
    """Return the largest divisor of a count that is at most 255."""
    return next(divisor for divisor in range(_BYTE, 0, -1) if count % divisor == 0)
