"""The table of initializers: a new one is one entry of `INITIALIZERS` and its test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from propscope.networks import fills
from propscope.networks.fills import Fill, Variance, scaled
from propscope.networks.spec import SpecParameter

Shape = Literal["any", "two or more dimensions", "a matrix", "a convolution"]


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
# "auto" is what `propscope.theory.critical_initializer` puts a number in for.
_CRITICAL = (
    SpecParameter("weight_variance", "auto", low=0.0, high=_LARGEST, above=True),
    SpecParameter("bias_variance", "auto", low=0.0, high=_LARGEST),
    SpecParameter("first_weight_variance", "auto", low=0.0, high=_LARGEST, above=True),
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
    Initializer("critical", "N(0, weight_variance / fan_in), bias N(0, bias_variance): the activation's critical point",
                "Schoenholz et al. 2017, section 3.1", fills.critical, fills.critical_variance, _FANS,
                parameters=_CRITICAL, on_square=False),
)
# fmt: on

SQUARE_DEFAULTS: tuple[str, ...] = tuple(entry.name for entry in INITIALIZERS if entry.on_square)
