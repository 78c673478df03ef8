"""`ParameterAccumulator`: gathers one parameter's gradients, and its value once, when asked."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from propscope.measure.cpu_accumulator import CpuAccumulator
from propscope.measure.device_accumulator import DeviceAccumulator
from propscope.measure.parts import Part, Vector, both_ends, joint, largest, summarized
from propscope.measure.rank_places import Places
from propscope.measure.ranks import Share
from propscope.measure.shards import Sharding, local_shard, sharding_of, summed_up
from propscope.measure.sites import Options, measurable
from propscope.measure.units import CpuUnits, DeviceUnits
from propscope.records.network import Parameter
from propscope.records.summary import TensorSummary


class Value(NamedTuple):
    """What was seen of a parameter's value."""

    shape: tuple[int, ...]
    dtype: str
    accumulator: CpuAccumulator | DeviceAccumulator
    units: CpuUnits | DeviceUnits | None


class ParameterAccumulator:
    """Gathers one parameter."""

    __slots__ = (
        "_flat",
        "_fresh",
        "_gradient",
        "_latest",
        "_options",
        "_value",
        "gradient_sharding",
        "is_frozen",
        "name",
        "parameter",
        "reduced",
    )

    def __init__(
        self,
        name: str,
        parameter: nn.Parameter,
        options: Options,
        *,
        reduced: bool = False,
        flat: Sharding | None = None,
    ) -> None:
        self.name = name
        self.parameter = parameter
        # Whether FSDP reduces its gradient and puts it in place.
        self.reduced = reduced
        # How it lies on the ranks, of what does not say it itself.
        self._flat = flat
        self._options = options
        self.is_frozen = not parameter.requires_grad
        # How a distributed gradient lies on the ranks: as the parameter does, or as summands of what that will get.
        self.gradient_sharding: Sharding | None = None
        self._gradient: CpuAccumulator | DeviceAccumulator | None = None
        # Of the accumulated gradient: the one that may still grow, and whether the running pass begins another one.
        self._latest: CpuAccumulator | DeviceAccumulator | None = None
        self._fresh = True
        self._value: Value | None = None

    def see_gradient(self, gradient: Tensor) -> None:
        """Add the gradient of one backward pass; zeros that a sparse gradient does not store count as zeros."""
        accumulator = self._gradient
        if accumulator.__class__ is CpuAccumulator and accumulator.add_same_shape(gradient) is not None:
            return
        self._gradient = self._added(accumulator, gradient)

    def _added(
        self, accumulator: CpuAccumulator | DeviceAccumulator | None, gradient: Tensor
    ) -> CpuAccumulator | DeviceAccumulator:
        if accumulator is None:
            self.gradient_sharding = sharding_of(gradient)
        gradient = local_shard(gradient.detach())
        missing = 0
        if gradient.is_sparse:
            dense = gradient.numel()
            gradient = gradient.coalesce().values()
            missing = dense - gradient.numel()
        gradient = measurable(gradient)
        if accumulator is None:
            accumulator = self._options.accumulator(gradient)
        accumulator.add(gradient)
        accumulator.add_zeros(missing)
        return accumulator

    def begin_pass(self) -> None:
        """Note that a backward pass began; where no gradient is left of the passes before, it makes another one."""
        self._fresh = self.parameter.grad is None

    def see_accumulated(self, unscale: Callable[[Tensor], Tensor] | None) -> None:
        """Add the gradient that the pass left, reduced over the ranks, in place of the one that it was added to."""
        gradient = self.parameter.grad
        if gradient is None:
            return
        gradient = summed_up(gradient)
        if self._fresh and self._latest is not None:
            if self._gradient is None:
                self._gradient = self._latest
            else:
                self._gradient.absorb(self._latest)  # type: ignore[arg-type]
        self._latest = self._added(None, gradient if unscale is None else unscale(gradient))

    @property
    def gradient(self) -> TensorSummary | None:
        """The summary of the gradients; None where none was seen. Waits for the device."""
        seen = [one.summary() for one in (self._gradient, self._latest) if one is not None]
        return reduce(operator.add, seen) if seen else None

    @property
    def has_gradient(self) -> bool:
        """Whether any gradient was seen."""
        return self._gradient is not None or self._latest is not None

    @property
    def sharding(self) -> Sharding | None:
        """How a distributed parameter lies on the ranks, None for any other."""
        return self._flat or sharding_of(self.parameter)

    @property
    def why_no_gradient(self) -> str:
        """The reason that no gradient was seen."""
        if self.is_frozen:
            return "frozen: requires_grad was False when tracking began"
        if self.reduced and not local_shard(self.parameter.detach()).numel():
            return "this rank holds none of its elements"
        if self.reduced:
            return "FSDP put no gradient in place in the passes that were recorded"
        return "no gradient reached it"

    def share(self, own: Parameter, places: Places) -> Share:
        """Return what this rank brings of the parameter, of which it has recorded its `own` part.

        What comes of it is the parameter of all ranks, and whether those that have the same part agree in the moments
        of its value and of its gradient. Of a distributed parameter every rank brings its part.
        """
        sharding = self.sharding
        if sharding is None:
            return Share(own.shape, _same(own))
        # The gradient may lie on the ranks in another way than the value.
        parts = sharding, self.gradient_sharding or sharding
        shape = own.shape if sharding.shape is None else sharding.shape
        return Share(shape, _whole(own, shape, *map(places.brings_parameter, parts)))

    def see_value(self) -> None:
        """Begin what `record` does of a value on another device, so that one wait serves all parameters."""
        if not self.parameter.is_meta and not self._options.may_sync(self.parameter):
            self._value = self._added_value()

    def _added_value(self) -> Value | None:
        value = self.parameter.detach()
        if value.is_meta or not (value.is_floating_point() or value.is_complex()):
            return None
        value = measurable(value)
        accumulator = self._options.accumulator(value)
        units: CpuUnits | DeviceUnits | None = None
        if value.dim() > 1 and value.numel() and self._options.stats == "all":
            units = self._options.units(len(value), value)
        accumulator.add(value, units, 0)
        return Value(tuple(value.shape), str(value.dtype).removeprefix("torch."), accumulator, units)

    def record(self) -> Parameter | None:
        """Return the parameter as it is now, with the gradients gathered; None for what has no floating values."""
        value, self._value = self._value or self._added_value(), None
        if value is None:
            return None
        return Parameter(
            name=self.name,
            shape=value.shape,
            dtype=value.dtype,
            value=value.accumulator.summary(),
            gradient=self.gradient,
            symmetric_units=None if value.units is None else value.units.symmetric,
        )


def _same(own: Parameter) -> Part[tuple[Parameter, bool, bool]]:
    """Return a parameter that all ranks have whole, and whether they agree in its value and in its gradient."""
    same: Vector = yield from largest([end for one in (own.value, own.gradient) for end in _ends(one)])
    value, gradient = (bool((ends[::2] == -ends[1::2]).all()) for ends in np.split(same, 2))
    return own, value, gradient


def _whole(own: Parameter, shape: tuple[int, ...], *brings: bool) -> Part[tuple[Parameter, bool, bool]]:
    """Return a distributed parameter of all ranks; `brings`: whether this one brings its part of value and gradient."""
    pairs = zip((own.value, own.gradient), brings, strict=True)
    parts = [summarized(one if brought else None, bins=True) for one, brought in pairs]
    (whole, _), (slope, _) = yield from joint(parts)
    return replace(own, shape=shape, value=whole or own.value, gradient=slope, symmetric_units=None), True, True


def _ends(summary: TensorSummary | None) -> Vector:
    """Return what tells whether ranks have the same moments."""
    if summary is None or not summary.finite_count:
        return np.zeros(6)
    return np.concatenate([both_ends(one) for one in (summary.finite_count, summary.mean, summary.std)])
