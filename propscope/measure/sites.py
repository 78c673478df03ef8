"""`SiteAccumulator`: gathers what one site shows, forward and backward, over every batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from propscope.measure.attention import SoftmaxFigures
from propscope.measure.cpu_accumulator import CpuAccumulator
from propscope.measure.device_accumulator import DeviceAccumulator
from propscope.measure.device_memory import DeviceMemory, Numbers
from propscope.measure.geometry import GEOMETRY_ROWS, gathered_gram, geometries, gram, is_safe, rows_of_rank
from propscope.measure.hooks import require_storage
from propscope.measure.parts import Part, added, joint, largest, summarized
from propscope.measure.rank_places import Places
from propscope.measure.ranks import Origin, Share, origin_of
from propscope.measure.sampling import HISTOGRAM_LIMIT
from propscope.measure.saturation import FlatRegion
from propscope.measure.shards import Sharding, local_shard, sharding_of
from propscope.measure.units import CpuUnits, DeviceUnits, figures_of, merged_units
from propscope.records.network import Role, Site

Stats = Literal["all", "moments"]
# The mean cosine and the effective rank of one batch.
Geometry = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Options:
    """What is recorded of each tensor.

    `stats`: "all", or "moments" for only count, mean, std, rms, extremes, zeros and non-finite counts.
    `histogram_limit`: elements of one tensor that its histogram counts at most, 0 for all. `look`: whether results may
    be read while the model runs, which is free on the CPU and makes any other device wait; None: only on the CPU.
    `places`: where this process is among those that put their records together, None where it records for itself.
    `memory`: where accumulators on other devices write.
    """

    stats: Stats = "all"
    histogram_limit: int = HISTOGRAM_LIMIT
    look: bool | None = None
    places: Places | None = None
    memory: DeviceMemory = field(default_factory=DeviceMemory, repr=False, compare=False)

    def may_sync(self, tensor: Tensor) -> bool:
        """Return whether values of this tensor may be read on the way."""
        return tensor.device.type == "cpu" if self.look is None else self.look

    def accumulator(self, tensor: Tensor) -> CpuAccumulator | DeviceAccumulator:
        """Return a new accumulator for tensors like this one."""
        limit, histogram = self.histogram_limit, self.stats == "all"
        if self.may_sync(tensor):
            return CpuAccumulator(limit=limit, histogram=histogram)
        return DeviceAccumulator(limit=limit, histogram=histogram, memory=self.memory)

    def units(self, count: int, tensor: Tensor) -> CpuUnits | DeviceUnits:
        """Return what accumulates the figures of so many units of tensors like this one."""
        return CpuUnits(count) if self.may_sync(tensor) else DeviceUnits(count, self.memory)


class Summands(NamedTuple):
    """The mean squares of the two operands of a residual sum, and which of them is the stream, 0 or 1.

    The squares are 0-d tensors where reading them would wait for a device.

    `stream`: by the graph, None where it does not tell. `earlier`: the operand that was there first.
    """

    first: Tensor | float
    second: Tensor | float
    stream: int | None
    earlier: int


class SiteAccumulator:
    """Gathers one site; `unit_axis` is the axis of its units (channels)."""

    # Whether `see_backward` is to be called with the gradient of the value.
    takes_gradients = True

    __slots__ = (
        "_attended",
        "_attention",
        "_axis",
        "_backward",
        "_branch",
        "_broken",
        "_forward",
        "_geometry",
        "_gram",
        "_options",
        "_passes",
        "_region",
        "_rows",
        "_samples",
        "_samples_before",
        "_stream",
        "_units",
        "_varies",
        "activation",
        "dtype",
        "gradient_sharding",
        "has_geometry",
        "has_units",
        "kind",
        "name",
        "role",
        "shape",
        "sharding",
        "unit_axis",
    )

    def __init__(
        self, tensor: Tensor, *, name: str, kind: str, role: Role, unit_axis: int, has_units: bool, options: Options
    ) -> None:
        self.name = name
        self.kind = kind
        self.role: Role = role
        self.unit_axis = unit_axis
        self.has_units = has_units
        self.has_geometry = options.stats == "all"
        self.shape = tuple(tensor.shape)
        self.dtype = str(tensor.dtype).removeprefix("torch.")
        self.activation = ""
        # Known of a tensor that says it itself; see `Recorder.shardings` for the others.
        self.sharding: Sharding | None = None
        self.gradient_sharding: Sharding | None = None
        self._options = options
        self._forward: CpuAccumulator | DeviceAccumulator | None = None
        self._backward: CpuAccumulator | DeviceAccumulator | None = None
        self._units: CpuUnits | DeviceUnits | None = None
        self._region: FlatRegion | None = None
        self._gram: Tensor | Numbers | NDArray[np.float32] | None = None
        self._rows: Tensor | None = None
        # The passes so far, and the first one with values that are not finite, as far as it is known by now.
        self._passes = 0
        self._broken: int | None = None
        self._geometry: list[Geometry] = []
        self._samples = 0
        self._samples_before = 0
        self._attention: SoftmaxFigures | Numbers | None = None
        self._attended = 0
        self._axis: int | None = None
        self._varies = False
        self._branch: tuple[Tensor | float, Tensor | float] | Numbers | None = None
        self._stream: int | None = None

    def see_forward(self, value: Tensor) -> None:
        """Add a value."""
        if self.record_same_shape(value):
            return
        value = measurable(value.detach())
        if self._forward is None:
            self._forward = self._options.accumulator(value)
        self._samples += value.shape[0] if value.dim() else 1
        units = None
        geometry = self.has_geometry and value.dim() > 1 and value.numel() > 0
        if geometry and self.has_units:
            units = self._units_of(value)
        own = geometry and self._options.places is None
        products: NDArray[np.float32] | None = self._forward.add(value, units, self.unit_axis, products=own)
        if products is not None:
            self._gram = products
        elif geometry:
            self._see_geometry(value)

    def record_same_shape(self, value: Tensor) -> bool:
        """Add a value like the last one by the short path; return False and do nothing for any other value."""
        forward = self._forward
        if forward.__class__ is not CpuAccumulator or (last_product := forward.add_same_shape(value)) is None:
            return False
        self._samples += value.shape[0] if self.shape else 1
        if self._rows is not None or (self._gram is not None and not is_safe(last_product)):
            self._see_geometry(value.detach())
        return True

    def see_backward(self, gradient: Tensor) -> None:
        """Add the gradient of the loss with respect to the value."""
        backward = self._backward
        if backward.__class__ is CpuAccumulator and backward.add_same_shape(gradient) is not None:
            return
        if self._backward is None:
            self.gradient_sharding = sharding_of(gradient)
        gradient = measurable(gradient.detach())
        if self._backward is None:
            self._backward = self._options.accumulator(gradient)
        self._backward.add(gradient)

    def mark_preactivation(self, value: Tensor, activation: str, region: FlatRegion) -> None:
        """Note that the value, just seen, enters a nonlinearity: the site is a pre-activation."""
        if self.activation not in ("", activation):
            return
        self.role, self.activation, self._region = "pre-activation", activation, region
        if self._options.stats != "all" or value.dim() < 2 or not value.numel():
            return
        value = local_shard(value)
        if not self.has_units and not self._varies:
            self.has_units = True
            if isinstance(self._forward, CpuAccumulator):
                self._forward.forget_shape()
            units = self._units_of(value)
            if units is not None:
                units.see(value, self.unit_axis)
        if self._units is not None:
            self._units.mark_preactivation(value, self.unit_axis, region)

    def see_attention(self, seen: SoftmaxFigures, *, axis: int | None = None) -> None:
        """Add what the softmax of one call shows; `axis`: that of the site along which it sums to 1."""
        self._axis = axis
        before, self._attended = self._attention, self._attended + 1
        if isinstance(before, SoftmaxFigures):
            seen = _together(before, seen)
        elif before is not None:
            kept = before.kept()
            kept.copy_(torch.stack(_together(SoftmaxFigures(*kept), seen)))
            return
        if self._options.may_sync(seen.largest):
            self._attention = seen
        else:
            self._attention = Numbers(self._options.memory, len(seen), seen.largest.device)
            self._attention.keep(torch.stack(seen))

    def see_summands(self, summands: Summands) -> None:
        """Add what one residual sum adds up; which operand is the stream is kept once the graph has told it."""
        if summands.stream is not None:
            self._stream = summands.stream
        stream, branch = summands.first, summands.second
        if (summands.earlier if self._stream is None else self._stream) == 1:
            stream, branch = branch, stream
        if not isinstance(self._branch, Numbers):
            if self._branch is not None:
                branch, stream = self._branch[0] + branch, self._branch[1] + stream
            on_device = [one for one in (branch, stream) if isinstance(one, Tensor) and not self._options.may_sync(one)]
            if not on_device:
                self._branch = (branch, stream)
                return
            self._branch = Numbers(self._options.memory, 2, on_device[0].device)
            self._branch.keep(torch.zeros_like(on_device[0]).expand(2))
        for kept, more in zip(self._branch.kept(), (branch, stream), strict=True):
            kept.add_(more)

    def _units_of(self, value: Tensor) -> CpuUnits | DeviceUnits | None:
        count = value.shape[self.unit_axis]
        if self._units is not None and self._units.units != count:
            # A length that changes from batch to batch is no number of units.
            self.has_units, self._units, self._varies = False, None, True
            return None
        if self._units is None:
            self._units = self._options.units(count, value)
        return self._units

    def _see_geometry(self, value: Tensor) -> None:
        if (places := self._options.places) is not None:
            self._rows = rows_of_rank(value, self.unit_axis, places.data, places.data_size)
            return
        # Autocast would lower the product of a float32 network's samples to half precision.
        if torch.is_autocast_enabled(value.device.type):
            with torch.autocast(value.device.type, enabled=False):
                products = gram(value, self.unit_axis)
        else:
            products = gram(value, self.unit_axis)
        if products is None or self._options.may_sync(value):
            self._gram = self._gram if products is None else products
            return
        if not isinstance(self._gram, Numbers):
            self._gram = Numbers(self._options.memory, GEOMETRY_ROWS**2, value.device)
        self._gram.keep(products.flatten())

    def end_pass(self) -> None:
        """Note that a backward pass ended, so that the first one with values that are not finite is known."""
        if self._broken is None and isinstance(self._forward, CpuAccumulator) and self._forward.broken_at is not None:
            self._broken = self._passes
        self._passes += 1

    def _origin(self, rank: int) -> Origin | None:
        """Return where values that are not finite came up first, None for nowhere; waits for the device."""
        at = None if self._forward is None else self._forward.broken_at
        if at is None:
            return None
        return Origin(rank, int(at * self._passes) if self._broken is None else self._broken)

    def end_batch(self) -> bool:
        """End a batch; return whether the site was in it, so that its geometry is to be kept."""
        ran, self._samples_before = self._samples > self._samples_before, self._samples
        return ran and self._options.places is None

    def keep_geometry(self, geometry: Geometry) -> None:
        """Keep the geometry of the batch that ended."""
        self._geometry.append(geometry)

    @property
    def keeps_geometry(self) -> bool:
        """Whether the geometry of some batch was kept."""
        return bool(self._geometry)

    @property
    def products(self) -> NDArray[np.floating] | None:
        """The inner products of the last batch's samples, see `geometry.gram`; waits for the device."""
        if isinstance(self._gram, Numbers):
            products = self._gram.read()
            found: NDArray[np.floating] = products.reshape(math.isqrt(len(products)), -1).numpy()
            return found
        return self._gram.numpy() if isinstance(self._gram, Tensor) else self._gram

    def measured(self) -> dict[str, Any]:
        """Return what was gathered, as fields of a `Site`, with the `products` of the rows; waits for the device."""
        units, attention = self._units, self._attention
        found: dict[str, Any] = {
            "shape": self.shape,
            "forward": self._forward.summary() if self._forward is not None else None,
            "backward": self._backward.summary() if self._backward is not None else None,
            "samples": self._samples,
            **figures_of(units)._asdict(),
            "branch_share": _share(*self._squares_of_summands()),
            "products": self.products,
        }
        if attention is not None:
            entropy, largest_logit, square_spread, masked = self._attention_means(attention)
            found |= {
                "attention_entropy": entropy,
                "largest_logit": largest_logit,
                "logit_spread": _root(square_spread),
                "masked_rows": masked,
            }
        return found

    def _attention_means(self, seen: SoftmaxFigures | Numbers) -> tuple[float, float, float, float]:
        """Return the figures of a call in the mean, and of all calls the largest logit."""
        entropy, top, square_spread, masked = map(float, seen.read() if isinstance(seen, Numbers) else seen)
        return entropy / self._attended, top, square_spread / self._attended, masked / self._attended

    def _squares_of_summands(self) -> tuple[float, float]:
        """Return the mean squares of the branch and of the stream, NaN where there is no sum."""
        if self._branch is None:
            return math.nan, math.nan
        branch, stream = self._branch.read() if isinstance(self._branch, Numbers) else self._branch
        return float(branch), float(stream)

    def share(self, places: Places, sharding: Sharding | None, *, bins: bool) -> Share:
        """Return what this rank brings of the site, from which come "all", "alike" and "origin".

        These are what `measured` returns for all ranks, whether several ranks of data have the same values, by their
        moments, and where values that are not finite came up first. `sharding`: how the site lies on the ranks. `bins`:
        whether histograms are put together.
        """
        return Share((self.kind, len(self.shape)), self._merged(places, sharding, bins=bins))

    def _merged(self, places: Places, sharding: Sharding | None, *, bins: bool) -> Part[dict[str, Any]]:
        own = self.measured()
        split = places.splits_units(sharding)
        # What several ranks hold, one brings.
        brings = places.brings_value(sharding)
        weight = float(self._samples) if brings else 0.0
        attention = self._attention if brings else None
        nothing = 0.0, -math.inf, 0.0, 0.0
        entropy, top, square_spread, masked = nothing if attention is None else self._attention_means(attention)
        branch, stream = self._squares_of_summands()
        weighted = [0.0 if math.isnan(one) else one * weight for one in (branch, stream)]
        attended = weight if attention is not None else 0.0
        counted = float(places.brings_samples(sharding))
        counts = counted * self._samples, counted * (self.shape[0] if self.shape else 0)
        means = [attended * one for one in (entropy, square_spread, masked)]
        along = self._split_axis(places, sharding)
        length = 0.0 if along is None or places.data else float(self.shape[along])
        origin = self._origin(places.ranks.members[places.ranks.rank])
        code = -math.inf if origin is None else origin.code
        parts: tuple[Part[Any], ...] = (
            summarized(own["forward"] if brings else None, bins=bins),
            summarized(own["backward"] if brings else None, bins=bins),
            largest([top, float(attention is not None), float(self._branch is not None), code]),
            added([*counts, length, attended, *means, *weighted]),
            gathered_gram(self._rows if brings else None, places, sharding),
            merged_units(self._units if brings else None, places, split=split),
        )
        (forward, alike), (backward, _), tops, sums, products, unit_figures = yield from joint(parts)
        top, attends, sums_up, code = tops.tolist()
        samples, first, length, attended, *figures = sums.tolist()
        shape = list(self.shape if sharding is None or sharding.shape is None else sharding.shape)
        if along is not None and length:
            shape[along] = round(length)
        found: dict[str, Any] = {
            "shape": (round(first), *shape[1:]) if shape else (),
            "forward": forward,
            "backward": backward,
            "samples": round(samples),
            **unit_figures._asdict(),
            "branch_share": _share(*figures[3:]) if sums_up > 0 else None,
            "products": products,
        }
        if attends > 0:
            entropy, square_spread, masked = (one / attended for one in figures[:3])
            found |= {
                "attention_entropy": entropy,
                "largest_logit": top,
                "logit_spread": _root(square_spread),
                "masked_rows": masked,
            }
        return {"all": found, "alike": alike == places.data_size > 1, "origin": origin_of(code)}

    def _split_axis(self, places: Places, sharding: Sharding | None) -> int | None:
        """Return the axis that the ranks of a model share, None where none is known."""
        if len(self.shape) < 2 or not places.parts_differ(sharding):
            return None
        units = self.unit_axis % len(self.shape)
        if places.splits_units(sharding):
            return units
        others = [axis for axis in range(1, len(self.shape)) if axis != units]
        return others[0] if len(others) == 1 and places.splits_positions(sharding) else None

    def record(
        self,
        *,
        name: str | None = None,
        layer: int | None = None,
        measured: dict[str, Any] | None = None,
        geometry: Geometry | None = None,
        **more: Any,
    ) -> Site:
        """Return what was gathered, with `more` fields of the site; waits for the device.

        `measured`: what `measured` returns, where it is known. `geometry`: what `geometry.geometries` makes of the
        products, where it is known. The geometry of the batches that was kept comes first.
        """
        found = dict(self.measured() if measured is None else measured)
        products, forward = found.pop("products"), found["forward"]
        batches = self._geometry or [geometries([products])[0] if geometry is None else geometry]
        cosine, rank = map(_mean, zip(*batches, strict=True))
        flat = None
        if self._region is not None and forward is not None and forward.histogram is not None:
            flat = self._region.fraction(forward.histogram)
        return Site(
            name=name or self.name,
            kind=self.kind,
            role=self.role,
            dtype=self.dtype,
            layer=layer,
            activation=self.activation,
            flat_fraction=flat,
            mean_cosine=cosine,
            effective_rank=rank,
            softmax_axis=self._axis,
            features=found["shape"][self.unit_axis] if len(self.shape) > 1 else 1,
            **found,
            **more,
        )


def _together(one: SoftmaxFigures, other: SoftmaxFigures) -> SoftmaxFigures:
    """Return the sums of the figures of two calls, and the largest logit of both."""
    largest = torch.maximum(one.largest, other.largest)
    sums = SoftmaxFigures(*(a + b for a, b in zip(one, other, strict=True)))
    return sums._replace(largest=largest)


def _share(branch: float, stream: float) -> float | None:
    return branch / (branch + stream) if branch + stream > 0 else None


def _root(square: float) -> float | None:
    return math.sqrt(square) if 0 <= square < math.inf else None


def _mean(values: tuple[float | None, ...]) -> float | None:
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present else None


def measurable(tensor: Tensor) -> Tensor:
    """Return the magnitude of complex values, and other tensors with a lazy negation written to memory.

    A distributed tensor gives the shard that this process holds. Raises `NotRecordableError` where the memory is gone.
    """
    tensor = local_shard(tensor)
    require_storage(tensor)
    if tensor.is_complex():
        return tensor.abs()
    return tensor.resolve_neg() if tensor.is_neg() else tensor
