"""The initializers: how each fills a weight, which variance that gives, the table of them, and how a spec picks one.

A new initializer is one entry of `INITIALIZERS`, with its fill and its variance above it, and its test.

A fill is `fill(weight, generator, **parameters)`, in place; a variance is `variance(fan_in, fan_out, **parameters)` of
one entry of the weight, or None where the entries do not have mean zero or are not random.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from propscope.errors import InputError, error_line
from propscope.networks.randomness import global_stream
from propscope.networks.spec import ChosenCallable, Value, index_names, label, load_callable, parse_spec
from propscope.records.activations import ACTIVATIONS
from propscope.records.spec_parameter import SpecParameter

Generator = torch.Generator | None
Fill = Callable[..., Any]
Variance = Callable[..., float | None]

# A standard normal cut at +-2 has this variance, 1 - 4 pdf(2) / (2 cdf(2) - 1) = 0.774; its root is Keras's 0.8796.
CUT = 2.0
CUT_VARIANCE = 1 - 2 * CUT * math.exp(-CUT * CUT / 2) / math.sqrt(2 * math.pi) / math.erf(CUT / math.sqrt(2))


def fans(weight: Tensor) -> tuple[int, int]:
    """Return fan_in and fan_out of a weight of shape (out, in, *kernel), counted as torch.nn.init does."""
    kernel = math.prod(weight.shape[2:])
    return weight.shape[1] * kernel, weight.shape[0] * kernel


def draw_into(target: Tensor, generator: Generator, draw: Callable[[Tensor], Any]) -> None:
    """Let `draw` fill `target` in place, without recording gradients.

    `draw` fills a tensor on the generator's device, in float32, or in float64 for a float64 target: a seed then gives
    the same numbers, rounded, for every dtype and device.
    """
    device = target.device if generator is None else generator.device
    dtype = torch.float64 if target.dtype == torch.float64 else torch.float32
    with torch.no_grad():
        if (target.device, target.dtype) == (device, dtype) and target.is_contiguous():
            draw(target)
        else:
            values = torch.empty(target.shape, dtype=dtype, device=device)
            draw(values)
            target.copy_(values)


def draw_normal(weight: Tensor, generator: Generator, variance: float) -> None:
    """Fill with N(0, variance)."""
    weight.normal_(0.0, math.sqrt(variance), generator=generator)


def draw_uniform(weight: Tensor, generator: Generator, variance: float) -> None:
    """Fill with U(-b, b), b^2 = 3 variance."""
    bound = math.sqrt(3 * variance)
    weight.uniform_(-bound, bound, generator=generator)


def draw_truncated(weight: Tensor, generator: Generator, variance: float) -> None:
    """Fill with a normal distribution cut at 2 of its standard deviations; `variance` is that after the cut."""
    std = math.sqrt(variance / CUT_VARIANCE)
    # By the inverse of the distribution function: four times as fast as torch's rejection of outliers.
    share = math.erf(CUT / math.sqrt(2))
    weight.uniform_(-share, share, generator=generator).erfinv_().mul_(math.sqrt(2) * std)
    weight.clamp_(-CUT * std, CUT * std)


Draw = Callable[[Tensor, Generator, float], None]


def scaled(draw: Draw, variance: Callable[..., float]) -> Fill:
    """Return the fill that draws with the variance that the formula gives for the weight's fans."""

    def fill(weight: Tensor, generator: Generator, **parameters: Any) -> None:
        draw(weight, generator, variance(*fans(weight), **parameters))

    return fill


def glorot_variance(fan_in: int, fan_out: int, *, gain: float) -> float:
    """Glorot, Bengio 2010, eq. 12 (eq. 16 for the uniform): 2 gain^2 / (fan_in + fan_out)."""
    return 2 * gain * gain / (fan_in + fan_out)


def he_variance(fan_in: int, fan_out: int, *, mode: str, nonlinearity: str, a: float) -> float:
    """He et al. 2015, eq. 10 for fan_in, eq. 14 for fan_out: gain^2 / fan, with torch's gain of the nonlinearity."""
    if a and nonlinearity != "leaky_relu":
        raise InputError(
            f"a of initializer he is the slope of leaky_relu and must be 0 for nonlinearity {nonlinearity}, got {a:g}",
            hint="leave a out, or write nonlinearity=leaky_relu",
        )
    gain: float = nn.init.calculate_gain(nonlinearity, a if nonlinearity == "leaky_relu" else None)  # type: ignore[arg-type]
    return gain * gain / (fan_in if mode == "fan_in" else fan_out)


def lecun_variance(fan_in: int, fan_out: int) -> float:
    """LeCun et al. 1998, section 4.6: 1 / fan_in."""
    return 1 / fan_in


def default_variance(fan_in: int, fan_out: int) -> float:
    """torch.nn.Linear and torch.nn.Conv: kaiming_uniform_ with a = sqrt(5), that is 1 / (3 fan_in)."""
    return 1 / (3 * fan_in)


def critical(weight: Tensor, generator: Generator, *, weight_variance: float | str, **parameters: Any) -> None:
    """Fill with N(0, weight_variance / fan_in); raises `InputError` while weight_variance is "auto"."""
    variance = critical_variance(*fans(weight), weight_variance=weight_variance)
    if variance is None:
        raise InputError(
            "initializer critical needs numbers for its variances here, where the activation is not known",
            hint="propscope theory --act NAME prints them; write critical:weight_variance=...:bias_variance=...",
        )
    draw_normal(weight, generator, variance)


def critical_variance(fan_in: int, fan_out: int, *, weight_variance: float | str, **parameters: Any) -> float | None:
    """weight_variance / fan_in; None while weight_variance is "auto"."""
    return None if isinstance(weight_variance, str) else weight_variance / fan_in


def variance_scaling_variance(fan_in: int, fan_out: int, *, scale: float, mode: str, distribution: str) -> float:
    """Keras VarianceScaling: scale / n, n = fan_in, fan_out or their average; the same for every distribution."""
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
    return scale / fan


def variance_scaling(weight: Tensor, generator: Generator, *, distribution: str, **parameters: Any) -> None:
    """Fill as Keras's VarianceScaling; the truncated normal has its std divided by 0.8796 before the cut."""
    draws: dict[str, Draw] = {"uniform": draw_uniform, "truncated_normal": draw_truncated}
    draw = draws.get(distribution, draw_normal)
    draw(weight, generator, variance_scaling_variance(*fans(weight), distribution=distribution, **parameters))


def normal(weight: Tensor, generator: Generator, *, std: float) -> None:
    """Fill with N(0, std^2)."""
    weight.normal_(0.0, std, generator=generator)


def normal_variance(fan_in: int, fan_out: int, *, std: float) -> float:
    """std^2."""
    return std * std


def trunc_normal(weight: Tensor, generator: Generator, *, std: float) -> None:
    """Fill with N(0, std^2) cut at +-2 std (torch's trunc_normal_ cuts at +-2 whatever the std)."""
    draw_truncated(weight, generator, CUT_VARIANCE * std * std)


def trunc_normal_variance(fan_in: int, fan_out: int, *, std: float) -> float:
    """0.774 std^2, the variance of a normal cut at 2 standard deviations."""
    return CUT_VARIANCE * std * std


def uniform(weight: Tensor, generator: Generator, *, low: float, high: float) -> None:
    """Fill with U(low, high)."""
    weight.uniform_(low, high, generator=generator)


def uniform_variance(fan_in: int, fan_out: int, *, low: float, high: float) -> float | None:
    """(high - low)^2 / 12 when the mean is zero; raises `InputError` unless low < high."""
    if not low < high:
        raise InputError(
            f"low of initializer uniform must be below high, got low {low:g} and high {high:g}",
            hint="give both, for example uniform:low=-0.1:high=0.1",
        )
    return (high - low) ** 2 / 12 if low == -high else None


def constant(weight: Tensor, generator: Generator, *, value: float) -> None:
    """Fill with one value."""
    weight.fill_(value)


def orthogonal(weight: Tensor, generator: Generator, *, gain: float) -> None:
    """Fill with gain times a random matrix of orthonormal rows or columns; a kernel's dimensions are flattened."""
    nn.init.orthogonal_(weight, gain, generator=generator)


def orthogonal_variance(fan_in: int, fan_out: int, *, gain: float) -> float:
    """gain^2 / max(fan_in, fan_out): the mean square of an entry, exact for a matrix."""
    return gain * gain / max(fan_in, fan_out)


def sparse(weight: Tensor, generator: Generator, *, sparsity: float, std: float) -> None:
    """Fill with N(0, std^2) and ceil(sparsity rows) zeros in each column, as torch.nn.init.sparse_ does."""
    # torch's loop over columns takes three times as long and draws from the global generator.
    matrix = weight.reshape(weight.shape[0], -1)
    rows, columns = matrix.shape
    nonzero = rows - math.ceil(sparsity * rows)
    keys = torch.empty(columns, rows, dtype=weight.dtype, device=weight.device).uniform_(generator=generator)
    chosen = keys.topk(nonzero, dim=1, sorted=False).indices
    values = keys.new_empty(columns, nonzero).normal_(0.0, std, generator=generator)
    weight.copy_(torch.zeros_like(matrix).scatter_(0, chosen.t(), values.t()).view_as(weight))


def sparse_variance(fan_in: int, fan_out: int, *, sparsity: float, std: float) -> float:
    """(share of entries that are not zero) std^2."""
    return (1 - math.ceil(sparsity * fan_out) / fan_out) * std * std


def identity(weight: Tensor, generator: Generator) -> None:
    """Fill a matrix with ones on the diagonal."""
    nn.init.eye_(weight)


def dirac(weight: Tensor, generator: Generator) -> None:
    """Fill a convolution's weight so that output channel i is input channel i, for as many as both have."""
    nn.init.dirac_(weight)


Shape = Literal["any", "two or more dimensions", "a matrix", "a convolution"]


@dataclass(frozen=True, slots=True)
class Initializer:
    """A way to fill a weight W of shape (fan_out, fan_in, *kernel).

    `formula`: of an entry of W. `source`: where it was published. `fill(weight, generator, **parameters)`: fills in
    place. `variance(fan_in, fan_out, **parameters)`: of an entry, None where mean field does not apply, and `no_limit`
    then says why. `shape`: the weights that it can fill. `on_square`: whether `propscope profile` compares it by
    default on an MLP of equal widths.
    """

    name: str
    formula: str
    source: str
    fill: Fill
    variance: Variance | None = None
    shape: Shape = "any"
    aliases: tuple[str, ...] = ()
    parameters: tuple[SpecParameter, ...] = ()
    no_limit: str = ""
    on_square: bool = True

    @property
    def recommended_for(self) -> tuple[str, ...]:
        """The activations whose literature recommends it: their entries in `ACTIVATIONS` say so."""
        return tuple(entry.name for entry in ACTIVATIONS if self.name in entry.initializers)


# Far beyond use, and no bound or square on the way to a float32 weight overflows.
LARGEST = 1e30


def _std(default: float) -> SpecParameter:
    return SpecParameter("std", default, low=0.0, high=LARGEST)


_GAIN = (SpecParameter("gain", 1.0, low=0.0, high=LARGEST),)
_HE = (
    SpecParameter("mode", "fan_in", choices=("fan_in", "fan_out")),
    SpecParameter("nonlinearity", "leaky_relu", choices=("linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu")),
    SpecParameter("a", 0.0, low=-LARGEST, high=LARGEST),
)
_SCALING = (
    SpecParameter("scale", 1.0, low=0.0, high=LARGEST, above=True),
    SpecParameter("mode", "fan_in", choices=("fan_in", "fan_out", "fan_avg")),
    SpecParameter(
        "distribution", "truncated_normal", choices=("uniform", "normal", "truncated_normal", "untruncated_normal")
    ),
)
# `propscope.theory.critical_initializer` replaces "auto" by a number.
_CRITICAL = (
    SpecParameter("weight_variance", "auto", low=0.0, high=LARGEST, above=True),
    SpecParameter("bias_variance", "auto", low=0.0, high=LARGEST),
    SpecParameter("first_weight_variance", "auto", low=0.0, high=LARGEST, above=True),
)
_COPIES = "every weight has the same value, so the units of a layer are copies of one another"
_NOT_RANDOM = "the weights are not random: a layer passes its input on as it is"
_FANS: Shape = "two or more dimensions"

# fmt: off
INITIALIZERS: tuple[Initializer, ...] = (
    Initializer("zeros", "W = 0", "", lambda weight, generator: weight.zero_(), aliases=("zero",),
               no_limit=_COPIES),
    Initializer("ones", "W = 1", "", lambda weight, generator: weight.fill_(1.0), aliases=("one",),
               no_limit=_COPIES),
    Initializer("constant", "W = value", "", constant,
                parameters=(SpecParameter("value", 0.01, low=-LARGEST, high=LARGEST),), no_limit=_COPIES),
    Initializer("uniform", "U(low, high)", "Keras RandomUniform", uniform, uniform_variance,
                parameters=(SpecParameter("low", -0.05, low=-LARGEST, high=LARGEST),
                            SpecParameter("high", 0.05, low=-LARGEST, high=LARGEST)),
                no_limit="its weights have a mean other than 0, whose share of a pre-activation grows with the width"),
    Initializer("normal", "N(0, std^2)", "Krizhevsky et al. 2012, section 5", normal, normal_variance,
                aliases=("gaussian",), parameters=(_std(0.01),)),
    Initializer("trunc_normal", "N(0, std^2) cut at +-2 std; variance 0.774 std^2", "Devlin et al. 2019, BERT",
                trunc_normal, trunc_normal_variance, aliases=("truncated_normal",),
                parameters=(_std(0.02),)),
    Initializer("xavier_uniform", "U(-b, b), b^2 = 6 gain^2 / (fan_in + fan_out)", "Glorot, Bengio 2010, eq. 16",
                scaled(draw_uniform, glorot_variance), glorot_variance, _FANS,
                aliases=("glorot_uniform",), parameters=_GAIN),
    Initializer("xavier_normal", "N(0, 2 gain^2 / (fan_in + fan_out))", "Glorot, Bengio 2010, eq. 12",
                scaled(draw_normal, glorot_variance), glorot_variance, _FANS,
                aliases=("glorot_normal",), parameters=_GAIN),
    Initializer("he_uniform", "U(-b, b), b^2 = 3 gain^2 / fan", "He et al. 2015, eq. 10 (fan_in), 14 (fan_out)",
                scaled(draw_uniform, he_variance), he_variance, _FANS,
                aliases=("kaiming_uniform",), parameters=_HE),
    Initializer("he_normal", "N(0, gain^2 / fan), gain^2 = 2 / (1 + a^2)",
                "He et al. 2015, eq. 10 (fan_in), 14 (fan_out)",
                scaled(draw_normal, he_variance), he_variance, _FANS,
                aliases=("kaiming_normal",), parameters=_HE),
    Initializer("lecun_uniform", "U(-b, b), b^2 = 3 / fan_in", "LeCun et al. 1998, section 4.6",
                scaled(draw_uniform, lecun_variance), lecun_variance, _FANS),
    Initializer("lecun_normal", "N(0, 1 / fan_in)", "LeCun et al. 1998, section 4.6; Klambauer et al. 2017",
                scaled(draw_normal, lecun_variance), lecun_variance, _FANS),
    Initializer("orthogonal", "W W^T = gain^2 I or W^T W = gain^2 I", "Saxe et al. 2014", orthogonal,
                orthogonal_variance, _FANS, parameters=_GAIN),
    Initializer("identity", "W = I", "Le, Jaitly, Hinton 2015", identity, None, "a matrix",
                aliases=("eye",), no_limit=_NOT_RANDOM),
    Initializer("dirac", "the kernel's centre passes channel i to channel i", "Zagoruyko, Komodakis 2017", dirac,
                None, "a convolution", no_limit=_NOT_RANDOM, on_square=False),
    Initializer("sparse", "N(0, std^2), ceil(sparsity fan_out) zeros in each column", "Martens 2010, section 5",
                sparse, sparse_variance, _FANS,
                parameters=(SpecParameter("sparsity", 0.9, low=0.0, high=1.0), _std(0.01))),
    Initializer("variance_scaling", "mean 0, variance scale / n, n = fan_in, fan_out or their average",
                "Keras VarianceScaling", variance_scaling, variance_scaling_variance, _FANS,
                parameters=_SCALING, on_square=False),
    Initializer("default", "U(-b, b), b^2 = 1 / fan_in, for weight and bias", "torch.nn.Linear, torch.nn.Conv2d",
                scaled(draw_uniform, default_variance), default_variance, _FANS,
                aliases=("torch", "pytorch")),
    Initializer("critical", "N(0, weight_variance / fan_in), bias N(0, bias_variance): the activation's critical point",
                "Schoenholz et al. 2017, section 3.1", critical, critical_variance, _FANS,
                parameters=_CRITICAL, on_square=False,
                no_limit="its variances follow from the activation, see critical_initializer"),
)
# fmt: on

SQUARE_DEFAULTS: tuple[str, ...] = tuple(entry.name for entry in INITIALIZERS if entry.on_square)


_DIMENSIONS: dict[Shape, range] = {
    "any": range(64),
    "two or more dimensions": range(2, 64),
    "a matrix": range(2, 3),
    "a convolution": range(3, 6),
}
_INDEX = index_names(INITIALIZERS)


@dataclass(frozen=True, slots=True)
class InitializerSpec(ChosenCallable):
    """A chosen initializer: an entry of `INITIALIZERS`, or the user's own callable."""

    @property
    def shape(self) -> Shape:
        """The shape of the weights that it can fill."""
        return "any" if self.custom else _INDEX[self.name].shape

    @property
    def stream_name(self) -> str:
        """The name of its random streams: the label, or "critical", which scales one stream for every activation."""
        return self.name if self.name == "critical" else self.label

    @property
    def no_limit(self) -> str:
        """The reason why mean field does not apply; empty if it does, and for a user's own callable."""
        return "" if self.custom else _INDEX[self.name].no_limit

    def fits(self, weight: Tensor) -> bool:
        """Return whether the weight has a number of dimensions that this initializer can fill."""
        return weight.ndim in _DIMENSIONS[self.shape]

    def weight_variance(self, fan_in: int, fan_out: int) -> float | None:
        """Return the variance of an entry of the weight; None where the mean is not zero or the weight is not random.

        None also for `critical` while its weight_variance is "auto".
        """
        variance = None if self.custom else _INDEX[self.name].variance
        return None if variance is None else variance(fan_in, fan_out, **self.parameters)

    def bias_variance(self, fan_in: int) -> float:
        """Return the variance of the bias where the network sets none: 0, except for `default` and `critical`."""
        if self.name == "default":
            return default_variance(fan_in, 1)
        own = self.parameters["bias_variance"] if self.name == "critical" else 0.0
        return 0.0 if isinstance(own, str) else float(own)

    @property
    def first_layer(self) -> InitializerSpec:
        """The initializer of a network's first layer: this one, or `critical` with its first_weight_variance."""
        first = self.parameters["first_weight_variance"] if self.name == "critical" else "auto"
        if first == "auto":
            return self
        return self.with_parameters(weight_variance=first, first_weight_variance="auto")

    def with_parameters(self, **parameters: Value) -> InitializerSpec:
        """Return the same initializer of the table with other values for these parameters."""
        values = {**self.parameters, **parameters}
        return InitializerSpec(self.name, values, label(self.name, values, _INDEX[self.name].parameters))

    def fill(self, weight: Tensor, generator: torch.Generator | None = None, *, gain: float = 1.0) -> None:
        """Fill a weight of shape (out, in, *kernel) in place, multiplied by `gain`, without recording gradients.

        The numbers are drawn on the generator's device in float32, or in float64 for a float64 weight, so that a seed
        gives the same numbers, rounded, for every dtype and device. Without a generator, torch's global one draws.
        While a user's callable fills the weight, torch's global generator draws what `generator` would. Raises
        `InputError` for a shape that this initializer does not fill and for a user's callable that fails.
        """
        if not self.fits(weight):
            raise InputError(
                f"initializer {self.name} fills {self.shape}; the weight has shape {tuple(weight.shape)}",
                hint="choose another initializer for it",
            )

        def draw(target: Tensor) -> None:
            self._fill(target, generator)
            if gain != 1:
                target.mul_(gain)

        draw_into(weight, generator, draw)

    def fill_bias(
        self, bias: Tensor, *, fan_in: int, std: float | None = None, generator: torch.Generator | None = None
    ) -> None:
        """Fill a bias of shape (fan_out,) in place with N(0, std^2).

        With std None: N(0, bias_variance) for `critical`; U(-b, b), b^2 = 1 / fan_in, for `default`, as
        torch.nn.Linear does; zeros for any other.
        """
        variance = self.bias_variance(fan_in) if std is None else std * std
        draw = draw_uniform if std is None and self.name == "default" else draw_normal
        if variance:
            draw_into(bias, generator, lambda target: draw(target, generator, variance))
        else:
            draw_into(bias, None, torch.Tensor.zero_)

    def _fill(self, weight: Tensor, generator: torch.Generator | None) -> None:
        if not self.custom:
            _INDEX[self.name].fill(weight, generator, **self.parameters)
            return
        target = self.target or load_callable(self.name, "initializer")
        before, version = weight.clone(), weight._version
        try:
            with global_stream(generator, (weight.device,)):
                result = target(weight, **self.parameters)
        except (Exception, SystemExit) as error:  # A user's callable may fail in any way.
            raise InputError(
                f'initializer "{self.label}" failed on a weight of shape {tuple(weight.shape)} ({error_line(error)})',
                hint="it is called with the weight and the spec's parameters, and fills the weight in place",
            ) from error
        if isinstance(result, Tensor) and result.data_ptr() != weight.data_ptr():
            raise InputError(
                f'initializer "{self.label}" returned a new tensor',
                hint="it must fill the weight that it is given, in place",
            )
        # What is set through `.data` has another version.
        if weight._version == version and torch.equal(before.nan_to_num(), weight.nan_to_num()):
            raise InputError(
                f'initializer "{self.label}" left a weight of shape {tuple(weight.shape)} as it was',
                hint="it must fill the weight that it is given; a function of a module is for module.apply",
            )


def parse_initializer(initializer: str | InitializerSpec | Callable[..., Any]) -> InitializerSpec:
    """Return the initializer that a spec names, or that a Python callable is.

    A spec: `he_normal`, `normal:std=0.01`, `package.module:callable`. A callable: a function that fills the weight it
    is given in place, such as `torch.nn.init.kaiming_normal_`, a `functools.partial` of one, or an object with
    `__call__`. Its label is its qualified name, `package.module:name`, with the arguments of a partial, or the object's
    public attributes that are numbers or words, as parameters.

    Raises `InputError` for an unknown name (with the nearest one as hint), an unknown parameter, a value that is not
    valid, and a callable that cannot be loaded.
    """
    if isinstance(initializer, InitializerSpec):
        return initializer
    if not isinstance(initializer, str):
        return InitializerSpec.of_callable(initializer, "initializer")
    spec = parse_spec(initializer, "initializer")
    made = InitializerSpec.parse(_INDEX, spec, "initializer")
    if made.custom:
        load_callable(made.name, "initializer")
    # The variance raises for values that do not go together.
    made.weight_variance(1, 1)
    return made
