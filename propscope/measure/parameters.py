"""`ParameterAccumulator`: gathers one parameter's gradients, and its value once, when asked."""

from __future__ import annotations

from torch import Tensor

from propscope.measure.device import DeviceTensor
from propscope.measure.host import HostTensor
from propscope.measure.sites import Options, measurable
from propscope.measure.units import DeviceUnits, HostUnits
from propscope.results.network import Parameter


class ParameterAccumulator:
    """Gathers one parameter."""

    __slots__ = ("_gradient", "_options", "_parameter", "_was_frozen", "name")

    def __init__(self, name: str, parameter: Tensor, options: Options) -> None:
        self.name = name
        self._parameter = parameter
        self._options = options
        self._was_frozen = not parameter.requires_grad
        self._gradient: HostTensor | DeviceTensor | None = None

    def see_gradient(self, gradient: Tensor) -> None:
        """Take in the gradient of one backward pass; the zeros that a sparse one leaves out count as zeros."""
        seen = self._gradient
        if seen.__class__ is HostTensor and seen.add_alike(gradient) is not None:
            return
        gradient = gradient.detach()
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
    def why_no_gradient(self) -> str:
        """Why none was seen."""
        if self._was_frozen:
            return "frozen: requires_grad was False when tracking began"
        return "no gradient reached it"

    def record(self) -> Parameter | None:
        """Return the parameter as it is now, with the gradients gathered; None for what has no floating values."""
        value = self._parameter.detach()
        if value.is_meta or not (value.is_floating_point() or value.is_complex()):
            return None
        value = measurable(value)
        seen = self._options.accumulator(value)
        units: HostUnits | DeviceUnits | None = None
        if value.dim() > 1 and value.numel() and self._options.stats == "all":
            units = HostUnits(len(value)) if self._options.may_look(value) else DeviceUnits(len(value))
        seen.add(value, units, 0)
        return Parameter(
            name=self.name,
            shape=tuple(value.shape),
            dtype=str(value.dtype).removeprefix("torch."),
            value=seen.summary(),
            gradient=self._gradient.summary() if self._gradient is not None else None,
            symmetric_units=None if units is None else units.symmetric,
        )
