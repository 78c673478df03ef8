"""Which bytes of a storage a tensor covers, and which of several writes to it are still to be seen there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# A region of more parts is not painted: all writes that reach into it count as seen.
_PAINTED = 1 << 20


class Region(NamedTuple):
    """Blocks of `block` bytes, the first at byte `start`, repeated along `axes` of (number, step in bytes)."""

    start: int
    block: int
    axes: tuple[tuple[int, int], ...]

    @property
    def stop(self) -> int:
        """The first byte behind the region."""
        return self.start + self.block + sum((number - 1) * step for number, step in self.axes)


def region_of(tensor: Tensor) -> Region:
    """Return the bytes that a strided tensor covers; an expanded axis covers them once."""
    width = tensor.element_size()
    axes = zip(tensor.shape, tensor.stride(), strict=True)
    block = width
    strided: list[tuple[int, int]] = []
    for step, number in sorted((step * width, number) for number, step in axes if number != 1 and step):
        if step == block and not strided:
            block *= number
        else:
            strided.append((number, step))
    start = int(tensor.storage_offset()) * width
    return Region(start, block, tuple(strided)) if tensor.numel() else Region(start, 0, ())


def seen_in(region: Region, writes: Sequence[Region]) -> list[int]:
    """Return which of the writes, each over the ones before, are to be seen in a region; -1 where none has written."""
    if not region.block:
        return [-1]
    reaching = [
        at for at, write in enumerate(writes) if write.block and write.start < region.stop and region.start < write.stop
    ]
    for at in reversed(reaching):
        if writes[at] == region or (not writes[at].axes and _within(region, writes[at])):
            reaching = reaching[reaching.index(at) :]
            if len(reaching) == 1:
                return reaching
            break
    if not reaching:
        return [-1]
    parts = [region, *(writes[at] for at in reaching)]
    unit = math.gcd(*(part.block for part in parts), *(step for part in parts for _, step in part.axes))
    low = min(part.start for part in parts)
    unit = math.gcd(unit, *(part.start - low for part in parts))
    size = (max(part.stop for part in parts) - low) // unit
    if size > _PAINTED:
        return [-1, *reaching]
    painted = np.full(size, -1, np.int32)
    for at in reaching:
        _view(painted, writes[at], low, unit)[...] = at
    found: list[int] = np.unique(_view(painted, region, low, unit)).tolist()
    return found


def _within(inner: Region, outer: Region) -> bool:
    return outer.start <= inner.start and inner.stop <= outer.stop


def _view(painted: NDArray[np.int32], region: Region, low: int, unit: int) -> NDArray[np.int32]:
    numbers = [*(number for number, _ in region.axes), region.block // unit]
    steps = [*(step // unit * painted.itemsize for _, step in region.axes), painted.itemsize]
    return np.lib.stride_tricks.as_strided(painted[(region.start - low) // unit :], numbers, steps)
