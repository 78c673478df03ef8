"""`DeviceMemory`: the memory on a device where accumulators write, taken in large pieces, each read back once.

What is taken are cells of eight bytes. Operations write into them themselves, as integers or as floating point of any
width, so that nothing has to be converted or stacked, and no result has memory of its own.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from propscope.measure.sums import widest
from propscope.records.histogram import BIN_COUNT, NAN, NEGINF, POSINF, ZERO

_SIGN = BIN_COUNT // 2
# The bins of a log histogram in the order of their values, NaN last.
_BINS = np.concatenate([np.arange(NEGINF, _SIGN, -1), [ZERO], np.arange(1, POSINF + 1), [NAN]])
# 8 MB a piece.
_PIECE = 1 << 20
# So many elements of a tensor are worked on at once, which bounds the temporaries: 20 MB of truth values; 16 MB of
# finite values, and 32 MB that torch takes inside a sum in float64; or 64 MB of bits of units and their products.
PART = 1 << 22


class DeviceMemory:
    """Gives out memory; a piece of it lives as long as what was taken of it."""

    def __init__(self) -> None:
        self._pieces: dict[torch.device, _Piece] = {}
        self._constants: dict[torch.device, Constants] = {}
        # Whether a launch of `fused` failed, so that none is tried again.
        self.is_unfused = False

    def take(self, cells: int, device: torch.device) -> Cells:
        """Return so many cells of zeros on a device."""
        piece = self._pieces.get(device)
        if piece is None or piece.used + cells > len(piece.memory):
            self._pieces[device] = piece = _Piece(max(cells, _PIECE), device)
        piece.used += cells
        return Cells(piece, piece.used - cells, piece.used)

    def constants(self, device: torch.device) -> Constants:
        """Return what operations on a device compare with."""
        if device not in self._constants:
            self._constants[device] = Constants(device)
        return self._constants[device]

    def __reduce__(self) -> tuple[type[DeviceMemory], tuple[()]]:
        # A copy, or another process, takes memory of its own.
        return DeviceMemory, ()


class _Piece:
    __slots__ = ("_copy", "changed", "memory", "used")

    def __init__(self, cells: int, device: torch.device) -> None:
        # Made inside the caller's inference mode, it could not be written to outside of it.
        with torch.inference_mode(False):
            self.memory = torch.zeros(cells, dtype=torch.int64, device=device)
        self.used = 0
        self.changed = True
        self._copy = self.memory[:0]

    def copy(self) -> Tensor:
        if self.changed or len(self._copy) < self.used:
            self._copy, self.changed = self.memory[: self.used].to("cpu", copy=True), False
        return self._copy


class Cells:
    """Memory that was taken: `memory`, int64, shape (cells,)."""

    __slots__ = ("_end", "_piece", "_start", "memory")

    def __init__(self, piece: _Piece, start: int, end: int) -> None:
        self._piece, self._start, self._end = piece, start, end
        with torch.inference_mode(False):
            self.memory = piece.memory[start:end]

    def note_written(self) -> None:
        """Note that something was written, so that what was read before is read again."""
        self._piece.changed = True

    def read(self) -> Tensor:
        """Return a copy on the CPU, after waiting for the device: one wait serves all cells of the same piece."""
        return self._piece.copy()[self._start : self._end]


def cell(cells: Tensor, at: int, dtype: torch.dtype, count: int = 1) -> Tensor:
    """Return a view of `count` cells, on the last axis of `cells`, as numbers of a dtype, shape (..., count).

    A number takes the first bytes of its cell.
    """
    apart = 8 // dtype.itemsize
    return cells.view(dtype)[..., at * apart : (at + count) * apart : apart]


class Numbers:
    """Floating-point numbers on a device, at most `most` of them."""

    __slots__ = ("_cells", "_count", "_dtype", "most")

    def __init__(self, memory: DeviceMemory, most: int, device: torch.device) -> None:
        self.most = most
        self._cells = memory.take(most, device)
        self._dtype = widest(self._cells.memory)
        self._count = 0

    def keep(self, numbers: Tensor) -> None:
        """Keep numbers, shape (n,), in place of what was kept before."""
        self._count = len(numbers)
        self.kept().copy_(numbers)

    def kept(self) -> Tensor:
        """Return what is kept, to be written to."""
        self._cells.note_written()
        return cell(self._cells.memory, 0, self._dtype, self._count)

    def read(self) -> Tensor:
        """Return a copy on the CPU, as `Cells.read` does."""
        return cell(self._cells.read(), 0, self._dtype, self._count)


class Constants:
    """Tensors on a device, made there, since a copy to it might wait."""

    __slots__ = ("_device", "_thresholds", "ends", "one")

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._thresholds: dict[torch.dtype, Tensor] = {}
        with torch.inference_mode(False), torch.no_grad():
            # The largest value of each bin but that of NaN, ascending, float32.
            self.ends = _ends(device)
            self.one = torch.ones(1, dtype=torch.int64, device=device)

    def thresholds(self, dtype: torch.dtype) -> Tensor:
        """Return -Inf, Inf, the smallest number, 0, and the smallest number above 0 of a dtype, shape (5, 1)."""
        found = self._thresholds.get(dtype)
        if found is None:
            info = torch.finfo(dtype)
            values = -math.inf, math.inf, info.min, 0.0, info.smallest_normal * info.eps
            with torch.inference_mode(False), torch.no_grad():
                found = torch.empty((len(values), 1), dtype=dtype, device=self._device)
                for at, value in enumerate(values):
                    found[at].fill_(value)
            self._thresholds[dtype] = found
        return found


def _ends(device: torch.device) -> Tensor:
    first = torch.arange(2, POSINF + 1, dtype=torch.int32, device=device) << 20
    smallest = torch.ones(1, dtype=torch.int32, device=device)
    below, above = torch.cat([smallest, first]), torch.cat([first - 1, first[-1:]])
    zero = torch.zeros(1, dtype=torch.float32, device=device)
    return torch.cat([-below.view(torch.float32).flip(0), zero, above.view(torch.float32)])


class BinCounts:
    """The counts of a log histogram's bins on a device, written to cells."""

    SIZE = len(_BINS)

    __slots__ = ("_constants", "cells")

    def __init__(self, cells: Tensor, constants: Constants) -> None:
        self.cells, self._constants = cells, constants

    def count(self, values: Tensor) -> None:
        """Count the elements of a 1-D float32 tensor without gaps."""
        places = torch.bucketize(values, self._constants.ends)
        self.cells.scatter_add_(0, places, self._constants.one.expand(len(values)))

    @staticmethod
    def dense(cells: Tensor) -> NDArray[np.int64]:
        """Return the counts of the 4096 bins from a copy of the cells on the CPU."""
        counts = np.zeros(BIN_COUNT, np.int64)
        counts[_BINS] = cells.numpy()
        return counts
