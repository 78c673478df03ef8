"""The initializers: one table, and how a spec string picks from it.

A new initializer is one entry of `INITIALIZERS` and its test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from propscope.errors import InputError
from propscope.networks import fills
from propscope.networks.fills import Fill, Variance, scaled
from propscope.networks.randomness import global_stream
from propscope.networks.spec import (
    SpecParameter,
    Value,
    index_names,
    label,
    load_callable,
    look_up,
    own_parameters,
    parse_spec,
)

Shape = Literal["any", "two or more dimensions", "a matrix", "a convolution"]
_DIMENSIONS: dict[Shape, range] = {
    "any": range(64),
    "two or more dimensions": range(2, 64),
    "a matrix": range(2, 3),
    "a convolution": range(3, 6),
}


@dataclass(frozen=True, slots=True)
class Initializer:
    """A way to fill a weight W of shape (fan_out, fan_in, *kernel).

    `formula` of its entries, `source`, the activations that it is `recommended_for`, the `shape` that it needs,
    `fill(weight, generator, **parameters)` in place, and `variance(fan_in, fan_out, **parameters)` of an entry, None
    where mean field does not apply. `on_square`: compared by default on an MLP of equal widths.
    """

    name: str
    formula: str
    source: str
    fill: Fill
    variance: Variance | None = None
    shape: Shape = "any"
    recommended_for: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    parameters: tuple[SpecParameter, ...] = ()
    on_square: bool = True


# Far beyond use, and no bound or square on the way to a float32 weight overflows.
_LARGEST = 1e30


def _std(default: float) -> SpecParameter:
    return SpecParameter("std", default, low=0.0, high=_LARGEST)


_GAIN = (SpecParameter("gain", 1.0, low=0.0, high=_LARGEST),)
_HE = (
    SpecParameter("mode", "fan_in", choices=("fan_in", "fan_out")),
    SpecParameter("nonlinearity", "leaky_relu", choices=("linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu")),
    SpecParameter("a", 0.0, low=-_LARGEST, high=_LARGEST),
)
_SCALING = (
    SpecParameter("scale", 1.0, low=0.0, high=_LARGEST, above=True),
    SpecParameter("mode", "fan_in", choices=("fan_in", "fan_out", "fan_avg")),
    SpecParameter(
        "distribution", "truncated_normal", choices=("uniform", "normal", "truncated_normal", "untruncated_normal")
    ),
)
_FANS: Shape = "two or more dimensions"
_SATURATING = ("tanh", "sigmoid", "softsign", "hardtanh", "erf")
_RECTIFIERS = ("relu", "leaky_relu", "prelu", "relu6")

# fmt: off
INITIALIZERS: tuple[Initializer, ...] = (
    Initializer("zeros", "W = 0", "", lambda weight, generator: weight.zero_(), aliases=("zero",)),
    Initializer("ones", "W = 1", "", lambda weight, generator: weight.fill_(1.0), aliases=("one",)),
    Initializer("constant", "W = value", "", fills.constant,
                parameters=(SpecParameter("value", 0.01, low=-_LARGEST, high=_LARGEST),)),
    Initializer("uniform", "U(low, high)", "Keras RandomUniform", fills.uniform, fills.uniform_variance,
                parameters=(SpecParameter("low", -0.05, low=-_LARGEST, high=_LARGEST),
                            SpecParameter("high", 0.05, low=-_LARGEST, high=_LARGEST))),
    Initializer("normal", "N(0, std^2)", "Krizhevsky et al. 2012, section 5", fills.normal, fills.normal_variance,
                aliases=("gaussian",), parameters=(_std(0.01),)),
    Initializer("trunc_normal", "N(0, std^2) cut at +-2 std; variance 0.774 std^2", "Devlin et al. 2019, BERT",
                fills.trunc_normal, fills.trunc_normal_variance, aliases=("truncated_normal",),
                parameters=(_std(0.02),)),
    Initializer("xavier_uniform", "U(-b, b), b^2 = 6 gain^2 / (fan_in + fan_out)", "Glorot, Bengio 2010, eq. 16",
                scaled(fills.draw_uniform, fills.glorot_variance), fills.glorot_variance, _FANS, _SATURATING,
                aliases=("glorot_uniform",), parameters=_GAIN),
    Initializer("xavier_normal", "N(0, 2 gain^2 / (fan_in + fan_out))", "Glorot, Bengio 2010, eq. 12",
                scaled(fills.draw_normal, fills.glorot_variance), fills.glorot_variance, _FANS, _SATURATING,
                aliases=("glorot_normal",), parameters=_GAIN),
    Initializer("he_uniform", "U(-b, b), b^2 = 3 gain^2 / fan", "He et al. 2015, eq. 10 (fan_in), 14 (fan_out)",
                scaled(fills.draw_uniform, fills.he_variance), fills.he_variance, _FANS, _RECTIFIERS,
                aliases=("kaiming_uniform",), parameters=_HE),
    Initializer("he_normal", "N(0, gain^2 / fan), gain^2 = 2 / (1 + a^2)",
                "He et al. 2015, eq. 10 (fan_in), 14 (fan_out)",
                scaled(fills.draw_normal, fills.he_variance), fills.he_variance, _FANS, _RECTIFIERS,
                aliases=("kaiming_normal",), parameters=_HE),
    Initializer("lecun_uniform", "U(-b, b), b^2 = 3 / fan_in", "LeCun et al. 1998, section 4.6",
                scaled(fills.draw_uniform, fills.lecun_variance), fills.lecun_variance, _FANS, ("selu", "tanh")),
    Initializer("lecun_normal", "N(0, 1 / fan_in)", "LeCun et al. 1998, section 4.6; Klambauer et al. 2017",
                scaled(fills.draw_normal, fills.lecun_variance), fills.lecun_variance, _FANS, ("selu", "tanh")),
    Initializer("orthogonal", "W W^T = gain^2 I or W^T W = gain^2 I", "Saxe et al. 2014", fills.orthogonal,
                fills.orthogonal_variance, _FANS, ("identity", "tanh"), parameters=_GAIN),
    Initializer("identity", "W = I", "Le, Jaitly, Hinton 2015", fills.identity, None, "a matrix",
                ("identity", "relu"), aliases=("eye",)),
    Initializer("dirac", "the kernel's centre passes channel i to channel i", "Zagoruyko, Komodakis 2017", fills.dirac,
                None, "a convolution", ("identity", "relu"), on_square=False),
    Initializer("sparse", "N(0, std^2), ceil(sparsity fan_out) zeros in each column", "Martens 2010, section 5",
                fills.sparse, fills.sparse_variance, _FANS,
                parameters=(SpecParameter("sparsity", 0.9, low=0.0, high=1.0), _std(0.01))),
    Initializer("variance_scaling", "mean 0, variance scale / n, n = fan_in, fan_out or their average",
                "Keras VarianceScaling", fills.variance_scaling, fills.variance_scaling_variance, _FANS,
                parameters=_SCALING, on_square=False),
    Initializer("default", "U(-b, b), b^2 = 1 / fan_in, for weight and bias", "torch.nn.Linear, torch.nn.Conv2d",
                scaled(fills.draw_uniform, fills.default_variance), fills.default_variance, _FANS,
                aliases=("torch", "pytorch")),
)
# fmt: on

SQUARE_DEFAULTS: tuple[str, ...] = tuple(entry.name for entry in INITIALIZERS if entry.on_square)
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

    def fits(self, weight: Tensor) -> bool:
        """Return whether the weight has the number of dimensions that this fills."""
        return weight.ndim in _DIMENSIONS[self.shape]

    def weight_variance(self, fan_in: int, fan_out: int) -> float | None:
        """Return the variance of an entry of the weight; None for a mean other than zero, or no randomness."""
        variance = None if self.custom else _INDEX[self.name].variance
        return None if variance is None else variance(fan_in, fan_out, **self.parameters)

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

        That is zeros, and for `default`, as torch.nn.Linear, U(-b, b) with b^2 = 1 / fan_in.
        """
        if std:
            fills.draw_into(bias, generator, lambda target: fills.draw_normal(target, generator, std * std))
        elif std is None and self.name == "default":
            variance = fills.default_variance(fan_in, bias.numel())
            fills.draw_into(bias, generator, lambda target: fills.draw_uniform(target, generator, variance))
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
