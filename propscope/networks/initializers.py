"""How a spec string picks an initializer, and what the picked one fills."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from propscope.errors import InputError
from propscope.networks import fills
from propscope.networks.initializer_table import INITIALIZERS, Shape
from propscope.networks.randomness import global_stream
from propscope.networks.spec import (
    Value,
    index_names,
    label,
    load_callable,
    look_up,
    own_parameters,
    parse_spec,
)

_DIMENSIONS: dict[Shape, range] = {
    "any": range(64),
    "two or more dimensions": range(2, 64),
    "a matrix": range(2, 3),
    "a convolution": range(3, 6),
}
_INDEX = index_names(INITIALIZERS)


@dataclass(frozen=True, slots=True)
class InitializerSpec:
    """An initializer that was picked: every parameter's value, and `label`, its canonical spec.

    The label resolves aliases and holds the parameters that differ from their defaults. Equal labels, equal specs.
    """

    name: str
    parameters: Mapping[str, Value] = field(hash=False)
    label: str

    @property
    def custom(self) -> bool:
        """Whether this is a callable of the user's."""
        return ":" in self.name

    @property
    def shape(self) -> Shape:
        """The shape that a weight must have."""
        return "any" if self.custom else _INDEX[self.name].shape

    @property
    def stream_name(self) -> str:
        """What its random streams are drawn by: the label; `critical` scales the same numbers for every activation."""
        return self.name if self.name == "critical" else self.label

    def fits(self, weight: Tensor) -> bool:
        """Return whether the weight has the number of dimensions that this fills."""
        return weight.ndim in _DIMENSIONS[self.shape]

    def weight_variance(self, fan_in: int, fan_out: int) -> float | None:
        """Return the variance of an entry of the weight; None for a mean other than zero, or no randomness.

        None also for `critical` as long as the activation has not said which.
        """
        variance = None if self.custom else _INDEX[self.name].variance
        return None if variance is None else variance(fan_in, fan_out, **self.parameters)

    def bias_variance(self, fan_in: int) -> float:
        """Return the variance of the bias that this gives by itself: 0, but for `default` and `critical`."""
        if self.name == "default":
            return fills.default_variance(fan_in, 1)
        own = self.parameters["bias_variance"] if self.name == "critical" else 0.0
        return 0.0 if isinstance(own, str) else float(own)

    @property
    def first_layer(self) -> InitializerSpec:
        """The initializer of a network's first layer: this one, or `critical` with its first_weight_variance."""
        first = self.parameters["first_weight_variance"] if self.name == "critical" else "auto"
        if first == "auto":
            return self
        values = {**self.parameters, "weight_variance": first, "first_weight_variance": "auto"}
        return InitializerSpec(self.name, values, label(self.name, values, _INDEX[self.name].parameters))

    def fill(self, weight: Tensor, generator: torch.Generator | None = None) -> None:
        """Fill a weight of shape (out, in, *kernel) in place, without recording gradients.

        Drawn on the generator's device in float32, or in float64 for a float64 weight, so that a seed gives the same
        numbers, rounded, for every dtype and device. Without a generator, torch's global one draws. A user's callable
        gets the weight, while torch's global generator follows `generator`. Raises `InputError` for a shape that
        this initializer does not fill and for a user's callable that fails.
        """
        if not self.fits(weight):
            raise InputError(
                f"initializer {self.name} fills {self.shape}; the weight has shape {tuple(weight.shape)}",
                hint="choose another initializer for it",
            )
        fills.draw_into(weight, generator, lambda target: self._fill(target, generator))

    def fill_bias(
        self, bias: Tensor, *, fan_in: int, std: float | None = None, generator: torch.Generator | None = None
    ) -> None:
        """Fill a bias of shape (fan_out,) in place: N(0, std^2), or with std None as this initializer does.

        That is zeros, for `critical` N(0, bias_variance), and for `default`, as torch.nn.Linear, U(-b, b) with
        b^2 = 1 / fan_in.
        """
        variance = self.bias_variance(fan_in) if std is None else std * std
        draw = fills.draw_uniform if std is None and self.name == "default" else fills.draw_normal
        if variance:
            fills.draw_into(bias, generator, lambda target: draw(target, generator, variance))
        else:
            fills.draw_into(bias, None, torch.Tensor.zero_)

    def _fill(self, weight: Tensor, generator: torch.Generator | None) -> None:
        if not self.custom:
            _INDEX[self.name].fill(weight, generator, **self.parameters)
            return
        target = load_callable(self.name, "initializer")
        try:
            with global_stream(generator, (weight.device,)):
                result = target(weight, **self.parameters)
        except Exception as error:  # A user's callable may fail in any way.
            raise InputError(
                f"initializer {self.label!r} failed on a weight of shape {tuple(weight.shape)} "
                f"({type(error).__name__}: {error})",
                hint="it is called with the weight and the spec's parameters, and fills the weight in place",
            ) from error
        if isinstance(result, Tensor) and result.data_ptr() != weight.data_ptr():
            raise InputError(
                f"initializer {self.label!r} returned a new tensor",
                hint="it must fill the weight that it is given, in place",
            )


def parse_initializer(text: str | InitializerSpec) -> InitializerSpec:
    """Return the initializer that a spec names: `he_normal`, `normal:std=0.01`, `package.module:callable`.

    Raises `InputError` for an unknown name (with the nearest one), an unknown parameter, a value that is not valid,
    and a callable of the user's that cannot be loaded.
    """
    if isinstance(text, InitializerSpec):
        return text
    spec = parse_spec(text, "initializer")
    if spec.custom:
        load_callable(spec.name, "initializer")
        own = own_parameters(spec)
        return InitializerSpec(spec.name, own, label(spec.name, own))
    entry, values = look_up(_INDEX, spec, "initializer")
    made = InitializerSpec(entry.name, values, label(entry.name, values, entry.parameters))
    # The variance knows which values do not go together.
    made.weight_variance(1, 1)
    return made
