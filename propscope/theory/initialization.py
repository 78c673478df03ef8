"""What an initializer is to mean-field theory: sigma_w^2 and sigma_b^2."""

from __future__ import annotations

from dataclasses import dataclass

from propscope.errors import InputError
from propscope.networks.initializers import InitializerSpec, parse_initializer
from propscope.theory.valid import count, number


@dataclass(frozen=True, slots=True)
class LayerVariances:
    """`weight_variance` sigma_w^2 = fan_in Var[W], `bias_variance` sigma_b^2 = Var[b], floats.

    `orthogonal`: the weight's rows or columns are orthogonal, which leaves a finite network less to chance.
    """

    weight_variance: float
    bias_variance: float
    orthogonal: bool


_NO_LIMIT = {
    "zeros": "it gives every weight the same value, so the units of a layer are copies of one another",
    "ones": "it gives every weight the same value, so the units of a layer are copies of one another",
    "constant": "it gives every weight the same value, so the units of a layer are copies of one another",
    "uniform": "its weights have a mean other than 0, whose share of a pre-activation grows with the width",
    "identity": "its weights are not random: a layer passes its input on as it is",
    "dirac": "its weights are not random: a layer passes its input on as it is",
}


def layer_variances(
    initializer: str | InitializerSpec, *, fan_in: int, fan_out: int, bias: float | None = None
) -> LayerVariances:
    """Return the variances of a layer of these fans; `bias` is the biases' standard deviation where it is set.

    With bias None what the initializer does: 0, or 1 / (3 fan_in) for torch's `default`. Raises `InputError` for an
    initializer without a mean-field limit, with the reason, for one of the user's, whose variance is not known, and
    for fans that are not whole numbers of at least 1.
    """
    spec = parse_initializer(initializer)
    fan_in, fan_out = count("fan_in", fan_in), count("fan_out", fan_out)
    variance = spec.weight_variance(fan_in, fan_out)
    if variance is None:
        reason = _NO_LIMIT.get(spec.name, "the variance of its weights is not known")
        raise InputError(
            f"mean field does not apply to initializer {spec.label!r}: {reason}",
            hint="valid is one with random weights of mean 0, for example he_normal; or give weight_variance itself",
        )
    if variance == 0:
        raise InputError(
            f"mean field does not apply to initializer {spec.label!r}: its weights are all 0",
            hint="valid is one whose weights have a variance above 0",
        )
    if bias is not None:
        bias_variance = number("bias", bias) ** 2
    else:
        bias_variance = 1 / (3 * fan_in) if spec.name == "default" else 0.0
    return LayerVariances(fan_in * variance, bias_variance, spec.name == "orthogonal")


def weight_variance_of(initializer: str | InitializerSpec, fan_in: int, fan_out: int) -> float:
    """Return sigma_w^2 = fan_in Var[W] of `layer_variances`, which see."""
    return layer_variances(initializer, fan_in=fan_in, fan_out=fan_out).weight_variance
