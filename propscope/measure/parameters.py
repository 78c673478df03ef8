"""`ParameterAccumulator`: gathers one parameter's gradients, and its value once, when asked."""

from __future__ import annotations

from torch import Tensor, nn

from propscope.measure.cpu_accumulator import CpuAccumulator
from propscope.measure.device_accumulator import DeviceAccumulator
from propscope.measure.shards import Sharding, local_shard, sharding_of
from propscope.measure.sites import Options, measurable
from propscope.measure.units import CpuUnits, DeviceUnits
from propscope.records.network import Parameter


class ParameterAccumulator:
    """Gathers one parameter."""

    __slots__ = ("_flat", "_gradient", "_options", "is_frozen", "name", "parameter", "reduced")

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
        self._gradient: CpuAccumulator | DeviceAccumulator | None = None

    def see_gradient(self, gradient: Tensor) -> None:
        """Add the gradient of one backward pass; zeros that a sparse gradient does not store count as zeros."""
        accumulator = self._gradient
        if accumulator.__class__ is CpuAccumulator and accumulator.add_same_shape(gradient) is not None:
            return
        gradient = local_shard(gradient.detach())
        missing = 0
        if gradient.is_sparse:
            dense = gradient.numel()
            gradient = gradient.coalesce().values()
            missing = dense - gradient.numel()
        gradient = measurable(gradient)
        if self._gradient is None:
            self._gradient = self._options.accumulator(gradient)
        self._gradient.add(gradient)
        self._gradient.add_zeros(missing)

    @property
    def has_gradient(self) -> bool:
        """Whether any gradient was seen."""
        return self._gradient is not None

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

    def record(self) -> Parameter | None:
        """Return the parameter as it is now, with the gradients gathered; None for what has no floating values."""
        value = self.parameter.detach()
        if value.is_meta or not (value.is_floating_point() or value.is_complex()):
            return None
        value = measurable(value)
        accumulator = self._options.accumulator(value)
        units: CpuUnits | DeviceUnits | None = None
        if value.dim() > 1 and value.numel() and self._options.stats == "all":
            units = CpuUnits(len(value)) if self._options.may_sync(value) else DeviceUnits(len(value))
        accumulator.add(value, units, 0)
        return Parameter(
            name=self.name,
            shape=tuple(value.shape),
            dtype=str(value.dtype).removeprefix("torch."),
            value=accumulator.summary(),
            gradient=self._gradient.summary() if self._gradient is not None else None,
            symmetric_units=None if units is None else units.symmetric,
        )
