"""How a weight is filled, and the variance that this gives: the arithmetic behind the table of initializers.

A fill is `fill(weight, generator, **parameters)`, in place; a variance is `variance(fan_in, fan_out, **parameters)`, of
one entry of the weight, or None where the entries do not have mean zero or are not random.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from propscope.errors import InputError

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

    On the generator's device, in float32, or float64 for a float64 target: a seed then gives the same numbers, rounded,
    for every dtype and device.
    """
    device = target.device if generator is None else generator.device
    dtype = torch.float64 if target.dtype == torch.float64 else torch.float32
    with torch.no_grad():
        if (target.device, target.dtype) == (device, dtype) and target.is_contiguous():
            draw(target)
        else:
            drawn = torch.empty(target.shape, dtype=dtype, device=device)
            draw(drawn)
            target.copy_(drawn)


def draw_normal(weight: Tensor, generator: Generator, variance: float) -> None:
    """Fill with N(0, variance)."""
    weight.normal_(0.0, math.sqrt(variance), generator=generator)


def draw_uniform(weight: Tensor, generator: Generator, variance: float) -> None:
    """Fill with the uniform distribution of this variance about 0, U(-sqrt(3 variance), sqrt(3 variance))."""
    bound = math.sqrt(3 * variance)
    weight.uniform_(-bound, bound, generator=generator)


def draw_truncated(weight: Tensor, generator: Generator, variance: float) -> None:
    """Fill with a normal cut at 2 of its standard deviations, of this variance after the cut."""
    std = math.sqrt(variance / CUT_VARIANCE)
    # By the inverse of the distribution function: four times as fast as torch's rejection of outliers.
    share = math.erf(CUT / math.sqrt(2))
    weight.uniform_(-share, share, generator=generator).erfinv_().mul_(math.sqrt(2) * std)
    weight.clamp_(-CUT * std, CUT * std)


Draw = Callable[[Tensor, Generator, float], None]


def scaled(draw: Draw, variance: Callable[..., float]) -> Fill:
    """Return the fill that draws with the variance that the weight's fans call for."""

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
            f"a of initializer he is {a:g}, the slope of leaky_relu, but nonlinearity is {nonlinearity}",
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
    """Fill with N(0, weight_variance / fan_in); raises `InputError` where that is not known."""
    variance = critical_variance(*fans(weight), weight_variance=weight_variance)
    if variance is None:
        raise InputError(
            "initializer critical depends on the activation, which is not known here",
            hint="propscope theory --act NAME prints the variances for critical:weight_variance=...:bias_variance=...",
        )
    draw_normal(weight, generator, variance)


def critical_variance(fan_in: int, fan_out: int, *, weight_variance: float | str, **parameters: Any) -> float | None:
    """weight_variance / fan_in; None while it is "auto", the activation's to say."""
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
            f"low of initializer uniform is {low:g}, high {high:g}; valid is low < high",
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
    """Fill with N(0, std^2) and ceil(sparsity rows) zeros in each column, as torch.nn.init.sparse_ does.

    Without its loop over columns, which takes three times as long and draws from the global generator.
    """
    matrix = weight.reshape(weight.shape[0], -1)
    rows, columns = matrix.shape
    kept = rows - math.ceil(sparsity * rows)
    keys = torch.empty(columns, rows, dtype=weight.dtype, device=weight.device).uniform_(generator=generator)
    chosen = keys.topk(kept, dim=1, sorted=False).indices
    values = keys.new_empty(columns, kept).normal_(0.0, std, generator=generator)
    weight.copy_(torch.zeros_like(matrix).scatter_(0, chosen.t(), values.t()).view_as(weight))


def sparse_variance(fan_in: int, fan_out: int, *, sparsity: float, std: float) -> float:
    """(share that is not zero) std^2."""
    return (1 - math.ceil(sparsity * fan_out) / fan_out) * std * std


def identity(weight: Tensor, generator: Generator) -> None:
    """Fill a matrix with ones on the diagonal."""
    nn.init.eye_(weight)


def dirac(weight: Tensor, generator: Generator) -> None:
    """Fill a convolution's weight so that it passes its input channels on, as far as there are as many."""
    nn.init.dirac_(weight)
