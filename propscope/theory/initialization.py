"""The variances sigma_w^2 and sigma_b^2 that an initializer gives a layer, and those of `critical`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from propscope.checks import count, known_arguments, number
from propscope.errors import InputError
from propscope.networks.initializers import InitializerSpec, parse_initializer
from propscope.records.theory import CriticalPoint
from propscope.theory.critical import NoCriticalPoint, critical_point
from propscope.theory.elementwise import ActivationLike, Elementwise


@dataclass(frozen=True, slots=True)
class LayerVariances:
    """`weight_variance` sigma_w^2 = fan_in Var[W], and `bias_variance` sigma_b^2 = Var[b].

    `orthogonal`: whether the rows or columns of the weight are orthogonal, so that networks of finite width vary less.
    """

    weight_variance: float
    bias_variance: float
    orthogonal: bool


@known_arguments
def layer_variances(
    initializer: str | InitializerSpec, *, fan_in: int, fan_out: int, bias: float | None = None, gain: float = 1.0
) -> LayerVariances:
    """Return the variances of a layer with these fans; `gain` is a factor on the weights.

    `bias`: the standard deviation of the biases; with None the initializer decides: 1 / (3 fan_in) for torch's
    `default`, its own for `critical`, else 0. With `critical` the first layer may have another weight variance, see
    `InitializerSpec.first_layer`. Raises `InputError` for an initializer without a mean-field limit, with the reason,
    for a user's own initializer, whose variance is not known, and for fans that are not whole numbers of at least 1.
    """
    spec = parse_initializer(initializer)
    fan_in, fan_out = count("fan_in", fan_in), count("fan_out", fan_out)
    variance = spec.weight_variance(fan_in, fan_out)
    if variance is None:
        reason = spec.no_limit or "the variance of its weights is not known"
        raise InputError(
            f'mean field does not apply to initializer "{spec.label}": {reason}',
            hint="choose one with random weights of mean 0, for example he_normal, or give weight_variance itself",
        )
    if variance == 0:
        raise InputError(
            f'mean field does not apply to initializer "{spec.label}": its weights are all 0',
            hint="choose one whose weights have a variance above 0",
        )
    bias_variance = spec.bias_variance(fan_in) if bias is None else number("bias", bias) ** 2
    return LayerVariances(fan_in * variance * gain**2, bias_variance, spec.name == "orthogonal")


@known_arguments
def critical_initializer(
    initializer: str | InitializerSpec,
    activation: ActivationLike,
    *,
    bias: float | None = None,
    mean_square: float | None = None,
) -> InitializerSpec:
    """Return `critical` with the variances of the activation's critical point; return any other initializer unchanged.

    The point is `nearest_critical_point(activation)`, or the critical point with a given bias variance: the spec's
    own, or the square of `bias`, the standard deviation of the biases. It is that of the plain network, without
    residual connections, norm or dropout.

    `mean_square`: that of the input's elements. With it the weights of the first layer get the variance (q -
    bias_variance) / mean_square, so that the variance starts at the fixed point q and stays there: if it started lower,
    GELU would leave its half-stable q for another one where chi_1 is not 1. The first layer is like the others where
    every q is a fixed point (ReLU), and where q tends to 0 (tanh without biases).

    Raises `NoCriticalPoint` if there is none, and `InputError` if `bias` and a bias variance are both given.
    """
    spec = parse_initializer(initializer)
    if spec.name != "critical" or spec.parameters["weight_variance"] != "auto":
        return spec
    own = spec.parameters["bias_variance"]
    if bias is not None and own != "auto":
        raise InputError(
            f"bias {bias:g} and the bias variance of {spec.label} cannot both be given", hint="give one of them"
        )
    asked = bias**2 if bias is not None else None if own == "auto" else float(own)
    elementwise = Elementwise.of(activation)
    try:
        point = nearest_critical_point(elementwise, bias_variance=asked)
    except NoCriticalPoint as error:
        if "another activation" in error.hint:
            hint = "leave that pair out"
        elif asked is None:
            hint = "critical:bias_variance=B picks a point on the line"
        else:
            hint = "choose another bias variance, or plain critical"
        raise NoCriticalPoint(f"initializer {spec.label} with {error}", hint=hint) from error
    values = {"weight_variance": point.weight_variance, "bias_variance": point.bias_variance}
    first = spec.parameters["first_weight_variance"]
    if first != "auto":
        values["first_weight_variance"] = float(first)
    elif mean_square and point.q > 0 and elementwise.slopes is None:
        values["first_weight_variance"] = (point.q - point.bias_variance) / mean_square
    return spec.with_parameters(**values)


def nearest_critical_point(activation: ActivationLike, *, bias_variance: float | None = None) -> CriticalPoint:
    """Return `critical_point`, or the critical point without biases where none has chi_parallel = 1 (sigmoid).

    Raises `NoCriticalPoint` where neither exists.
    """
    try:
        return critical_point(activation, bias_variance=bias_variance)
    except NoCriticalPoint:
        if bias_variance is not None:
            raise
        try:
            found = critical_point(activation, bias_variance=0.0)
        except NoCriticalPoint:
            found = None
        if found is None:
            raise
        return replace(found, note="without biases, because chi_parallel is not 1 anywhere on the critical line")
