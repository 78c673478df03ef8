"""Which units of a site are dead, and which compute the same thing, over all samples.

On the CPU both follow from each unit's smallest and largest pre-activation, which give the tensor's extremes too; the
tensor itself is read only for the few units that these do not decide. On other devices nothing may be read back, so the
tensor is compared with the flat region's bounds, and equal units are found by a hash of their bits.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from propscope.measure import kernel
from propscope.measure.arena import zeros
from propscope.measure.device_memory import PART, Cells, DeviceMemory
from propscope.measure.parts import Part, both_ends, common, marks_of_classes, vector
from propscope.measure.rank_places import Places
from propscope.measure.saturation import FlatRegion

Bools = NDArray[np.bool_]
T = TypeVar("T", Tensor, NDArray[np.int64])


def unit_columns(tensor: Tensor, unit_axis: int) -> Tensor:
    """Return a view (or a copy where no view exists) with the units last, shape (observations, units)."""
    if unit_axis in (-1, tensor.dim() - 1):
        return tensor.reshape(-1, tensor.shape[-1])
    return tensor.movedim(unit_axis, -1).flatten(0, -2)


def unit_extremes(tensor: Tensor, unit_axis: int) -> tuple[Tensor, Tensor]:
    """Return each unit's smallest and largest value, shape (units,) each; NaN where a unit has one."""
    if unit_axis in (-1, tensor.dim() - 1):
        columns = tensor.reshape(-1, tensor.shape[-1])
        return columns.amin(0), columns.amax(0)
    # Innermost axis first: a reduction over contiguous memory is vectorized, one over several axes at once is not.
    maps = tensor.flatten(unit_axis + 1).movedim(unit_axis, 0)
    units = len(maps)
    return maps.amin(-1).reshape(units, -1).amin(1), maps.amax(-1).reshape(units, -1).amax(1)


class CpuUnits:
    """Accumulates the unit figures of one site on the CPU."""

    __slots__ = ("_alive", "_extremes", "_group", "_high", "_low", "units")

    def __init__(self, units: int) -> None:
        self.units = units
        self._alive: Bools | None = None
        self._group: NDArray[np.int64] | None = np.zeros(units, np.int64)
        self._extremes: NDArray[np.float32] | None = None
        self._low: NDArray[np.floating] = np.empty(0)
        self._high: NDArray[np.floating] = np.empty(0)

    def see(self, tensor: Tensor, unit_axis: int) -> tuple[float, float]:
        """Add a tensor and return its extremes; call `mark_preactivation` next where a nonlinearity follows."""
        if kernel.can_read(tensor):
            kernel.see_first(tensor, 1, bins=False, unit_axis=unit_axis, extremes=self.extremes)
            self.compare(tensor, unit_axis)
        else:
            low, high = unit_extremes(tensor, unit_axis)
            if low.dtype == torch.bfloat16:
                low, high = low.float(), high.float()
            self._low, self._high = low.numpy(), high.numpy()
            if self._group is not None:
                self._part(tensor, unit_axis)
        return float(self._low.min()), float(self._high.max())

    @property
    def extremes(self) -> NDArray[np.float32]:
        """Where a `kernel.Plan` writes each unit's extremes, shape (2, units); call `compare` when it has."""
        if self._extremes is None:
            self._extremes = zeros(2 * self.units, np.float32).reshape(2, self.units)
        self._low, self._high = self._extremes
        return self._extremes

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        # A copy has memory of its own, which the next tensor is written to.
        state = {name: getattr(self, name) for name in self.__slots__} | {"_extremes": None}
        return None, state | {"_low": self._low.copy(), "_high": self._high.copy()}

    @property
    def undecided(self) -> bool:
        """Whether some units have been equal so far, so that `compare` must see the next tensor."""
        return self._group is not None

    def compare(self, tensor: Tensor, unit_axis: int) -> None:
        """Tell units apart by the extremes just written, and by their values where these are equal."""
        if self._group is None:
            return
        if kernel.all_differ(self.extremes):
            self._group = None
        else:
            self._part(tensor, unit_axis)

    def mark_preactivation(self, tensor: Tensor, unit_axis: int, region: FlatRegion) -> None:
        """Mark the units that respond to any sample; `tensor` is the value that `see` was called with."""
        if self._alive is None:
            self._alive = np.zeros(self.units, bool)
        elif self._alive.all():
            # No sample can make a unit dead again.
            return
        if not region.bounds.size:
            self._alive |= not region.first_flat
            return
        if region.bounds.size == 1:
            # The extreme that is further from the flat side decides; NaN on neither side counts as alive.
            bound = region.bounds[0]
            self._alive |= ~(self._high <= bound if region.first_flat else self._low > bound)
            return
        low, high = region.intervals_of(self._low), region.intervals_of(self._high)
        self._alive |= ~(region.are_flat(low) & region.are_flat(high)) | np.isnan(self._low)
        # Both extremes are flat, on different sides: only the samples tell whether any lies between.
        unsure = np.flatnonzero(~self._alive & (low != high))
        if unsure.size:
            columns = unit_columns(tensor, unit_axis)[:, torch.from_numpy(unsure)].float().numpy()
            self._alive[unsure] = ~region.is_flat(columns).all(axis=0)

    def _part(self, tensor: Tensor, unit_axis: int) -> None:
        """Split the groups of units that were equal so far, by the new extremes and then by the values."""
        group = _classes(self._high, self._low, *([] if self._group is None else [self._group]))
        shared = np.bincount(group)[group] > 1
        # A unit whose minimum is its maximum has no other value, so its class is known.
        unsure = np.flatnonzero(shared & (self._low != self._high))
        if unsure.size:
            columns = unit_columns(tensor, unit_axis)
            if unsure.size < self.units:
                columns = columns[:, torch.from_numpy(unsure)]
            group[unsure] = self.units + _classes(_hash_columns(columns.float().numpy()), group[unsure])
            shared = np.bincount(group)[group] > 1
        self._group = group if shared.any() else None

    @property
    def alive(self) -> Bools | None:
        """Which units responded to some sample, shape (units,); None where no nonlinearity follows."""
        return self._alive

    @property
    def dead(self) -> int | None:
        """Number of units that were flat on every sample; None where no nonlinearity follows."""
        return None if self._alive is None else int((~self._alive).sum())

    @property
    def classes(self) -> NDArray[np.int64] | None:
        """A number for each unit, the same for those that are equal so far, shape (units,); None where all differ."""
        return self._group

    @property
    def symmetric(self) -> int:
        """Number of units that equal another unit on every sample."""
        if self._group is None or self.units < 2:
            return 0
        _, sizes = np.unique(self._group, return_counts=True)
        return int(sizes[sizes > 1].sum())


class DeviceUnits:
    """Accumulates the unit figures of one site on another device, without waiting for it."""

    __slots__ = ("_cells", "_marked", "_memory", "_seen", "_weights", "units")

    def __init__(self, units: int, memory: DeviceMemory | None = None) -> None:
        self.units = units
        self._memory = memory or DeviceMemory()
        # A hash of each unit, and behind them a truth value of each.
        self._cells: Cells | None = None
        self._seen = self._marked = False
        self._weights: Tensor | None = None

    def _cells_on(self, device: torch.device) -> Cells:
        if self._cells is None:
            self._cells = self._memory.take(self.units + -(-self.units // 8), device)
        self._cells.note_written()
        return self._cells

    def _split(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        return cells[: self.units], cells[self.units :].view(torch.bool)[: self.units]

    def see(self, tensor: Tensor, unit_axis: int) -> None:
        """Add a tensor."""
        columns = unit_columns(tensor, unit_axis)
        if self._weights is None or len(self._weights) != len(columns):
            self._weights = _weights_of(columns)
        hashes, _ = self._split(self._cells_on(tensor.device).memory)
        rows, factor = max(PART // self.units, 1), 31
        for part, weights in zip(columns.split(rows), self._weights.split(rows), strict=True):
            torch.add(hash_columns(part.float(), weights), hashes, alpha=factor, out=hashes)
            factor = 1
        self._seen = True

    def mark_preactivation(self, tensor: Tensor, unit_axis: int, region: FlatRegion) -> None:
        """Mark the units that respond to any sample."""
        columns = unit_columns(tensor, unit_axis)
        _, alive = self._split(self._cells_on(tensor.device).memory)
        edges = [-np.inf, *region.bounds.tolist(), np.inf]
        for low, high in list(pairwise(edges))[int(region.first_flat) :: 2]:
            # At the ends of the line one comparison tells: NaN is inside of nothing.
            inside = columns <= high if low == -np.inf else columns > low
            if -np.inf < low and high < np.inf:
                inside &= columns <= high
            alive.logical_or_(inside.any(0))
        self._marked = True

    @property
    def alive(self) -> Bools | None:
        """Which units responded to some sample, shape (units,), None where no nonlinearity follows; waits as `dead`."""
        if self._cells is None or not self._marked:
            return None
        alive: Bools = self._split(self._cells.read())[1].numpy()
        return alive

    @property
    def dead(self) -> int | None:
        """Number of units that were flat on every sample; waits for the device."""
        alive = self.alive
        return None if alive is None else int((~alive).sum())

    @property
    def classes(self) -> NDArray[np.int64] | None:
        """A number for each unit, the same for those that are equal, shape (units,); None where all differ; waits."""
        if self._cells is None or not self._seen:
            return None
        hashes: NDArray[np.int64] = self._split(self._cells.read())[0].numpy()
        return None if len(np.unique(hashes)) == len(hashes) else hashes

    @property
    def symmetric(self) -> int:
        """Number of units that equal another unit on every sample; waits for the device."""
        classes = self.classes
        if classes is None:
            return 0
        _, sizes = np.unique(classes, return_counts=True)
        return int(sizes[sizes > 1].sum())


class UnitFigures(NamedTuple):
    """The figures of a site's units, None where it has none; `dead_units` also where no nonlinearity follows."""

    units: int | None
    dead_units: int | None
    symmetric_units: int | None


_NO_UNITS = UnitFigures(None, None, None)


def figures_of(units: CpuUnits | DeviceUnits | None) -> UnitFigures:
    """Return the figures of the units; waits for the device."""
    return _NO_UNITS if units is None else UnitFigures(units.units, units.dead, units.symmetric)


def merged_units(units: CpuUnits | DeviceUnits | None, places: Places, *, split: bool) -> Part[UnitFigures]:
    """Return the figures of the units over the samples of all ranks: what holds on each of them holds.

    `split`: whether the ranks of a model have different units, of which those of different ranks are not compared.
    None where the ranks have other numbers of units. Waits for the device.
    """
    alive, classes = (None, None) if units is None else (units.alive, units.classes)
    marked, differ = alive is not None, units is not None and classes is None
    got = yield np.concatenate([both_ends(None if units is None else units.units), [float(marked), float(differ)]])
    count, (marked, differ) = common(got[:2]), got[2:] > 0
    part, parts = 0, 1
    if split and got[0] > 0:
        # A class of one rank is another one on the next.
        count, part, parts, differ = int(got[0]), places.part, places.parts, False
    if count is None:
        yield vector(())
        return _NO_UNITS
    brought = np.zeros((3, parts * count))
    if units is not None:
        own = slice(part * count, part * count + units.units)
        numbers = np.arange(units.units) if classes is None else classes
        marks = marks_of_classes(numbers + part * count, rank=places.ranks.rank, ranks=places.ranks.size)
        brought[0, own], brought[1, own], brought[2, own] = 1, 0 if alive is None else alive, marks
    # Not all is needed of all sites.
    needed = np.array([parts > 1, marked, not differ])
    got = yield vector(brought[needed])
    brought[needed] = got.reshape(-1, parts * count)
    there, responds, marks = brought[:, brought[0] > 0] if parts > 1 else brought
    _, sizes = np.unique(marks, return_counts=True)
    symmetric = int(sizes[sizes > 1].sum()) if len(there) > 1 and not differ else 0
    return UnitFigures(len(there), int((responds == 0).sum()) if marked else None, symmetric)


def _classes(*keys: NDArray[Any]) -> NDArray[np.int64]:
    """Return a number for each entry, shape (n,): the same for those whose keys are all equal. NaN equals nothing."""
    order = np.lexsort(keys)
    step = np.zeros(len(order), np.int64)
    for key in keys:
        step[1:] |= key[order[1:]] != key[order[:-1]]
    found = np.empty_like(step)
    found[order] = np.cumsum(step)
    return found


def hash_columns(columns: Tensor, weights: Tensor) -> Tensor:
    """Return an int64 hash of each column's float32 bits, shape (units,); sums of products, so exact in any order."""
    # Adding 0 turns -0 into 0.
    return torch.sum((columns + 0.0).contiguous().view(torch.int32) * weights, (0,))


def _weights_of(columns: Tensor) -> Tensor:
    position = torch.arange(1, len(columns) + 1, device=columns.device, dtype=torch.int64)
    return _hash_weights(position)[:, None]


def _hash_columns(columns: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return what `hash_columns` does, in half the time, without a copy of the columns in 64 bits."""
    weights = _hash_weights(np.arange(1, len(columns) + 1, dtype=np.int64))
    # Adding 0 turns -0 into 0.
    hashes: NDArray[np.int64] = np.einsum("i,ij->j", weights, (columns + np.float32(0)).view(np.int32))
    return hashes


def _hash_weights(position: T) -> T:
    # Mixed as splitmix64 does (Steele et al. 2014): weights on a line would cancel where values differ by 1, -2, 1.
    mixed = position * -0x61C8864680B583EB
    mixed = (mixed ^ (mixed >> 30)) * -0x40A7B892E31B1A47
    mixed = (mixed ^ (mixed >> 27)) * -0x6B2FB644ECCEEE15
    return (mixed ^ (mixed >> 31)) | 1
