"""What an initializer is to mean-field theory: sigma_w^2 and sigma_b^2; and `critical`, which asks theory for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from propscope.checks import count, number
from propscope.errors import InputError
from propscope.networks.initializers import InitializerSpec, parse_initializer
from propscope.records.theory import CriticalPoint
from propscope.theory.critical import NoCriticalPoint, critical_point
from propscope.theory.elementwise import ActivationLike, Elementwise


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
    "critical": "its variances are the activation's to say, see critical_initializer",
}


def layer_variances(
    initializer: str | InitializerSpec, *, fan_in: int, fan_out: int, bias: float | None = None
) -> LayerVariances:
    """Return the variances of a layer of these fans; `bias` is the biases' standard deviation where it is set.

    With bias None what the initializer does: 0, 1 / (3 fan_in) for torch's `default`, the given one for `critical`, of
    which the first layer may have weights of its own: `InitializerSpec.first_layer`. Raises `InputError` for an
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
    bias_variance = spec.bias_variance(fan_in) if bias is None else number("bias", bias) ** 2
    return LayerVariances(fan_in * variance, bias_variance, spec.name == "orthogonal")


def weight_variance_of(initializer: str | InitializerSpec, fan_in: int, fan_out: int) -> float:
    """Return sigma_w^2 = fan_in Var[W] of `layer_variances`, which see."""
    return layer_variances(initializer, fan_in=fan_in, fan_out=fan_out).weight_variance


def critical_initializer(
    initializer: str | InitializerSpec,
    activation: ActivationLike,
    *,
    bias: float | None = None,
    mean_square: float | None = None,
) -> InitializerSpec:
    """Return `critical` with its variances, those of the activation's critical point; any other initializer as it is.

    That is `nearest_critical_point(activation)`, or with a bias variance, its own or that of `bias`, the biases'
    standard deviation, the critical point there. It is the point of the plain network: without residuals, norm or
    dropout.

    With `mean_square`, that of the input's elements, the first layer's weights get the variance (q - bias_variance) /
    mean_square, so that the variance starts at the fixed point q and stays: from below, GELU leaves its half-stable q
    for another where chi_1 is not 1. They are left alone where every q is a fixed point (ReLU), and where q tends to 0
    (tanh without biases).

    Raises `NoCriticalPoint` where there is none, and `InputError` when `bias` and its own bias variance are both given.
    """
    spec = parse_initializer(initializer)
    if spec.name != "critical" or spec.parameters["weight_variance"] != "auto":
        return spec
    own = spec.parameters["bias_variance"]
    if bias is not None and own != "auto":
        raise InputError(f"bias is {bias:g}, and {spec.label} has a bias variance too", hint="give one of them")
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
    """Return `critical_point`, or where no point has chi_parallel = 1 (sigmoid), the critical point without biases.

    Raises `NoCriticalPoint` where there is neither.
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
        return replace(found, note="without biases, for chi_parallel is 1 nowhere on the critical line")
