"""What theory says about an activation, by itself and in networks, as `propscope theory` prints it."""

from __future__ import annotations

from collections.abc import Sequence

from torch.nn.init import calculate_gain

from propscope.checks import count
from propscope.errors import InputError
from propscope.networks import ActivationSpec, parse_activation, parse_initializer
from propscope.networks.spec import written
from propscope.records.activations import find_activation
from propscope.records.theory import ActivationTheory, NetworkTheory, ScaledFixedPoint
from propscope.theory.critical import NoCriticalPoint, gain
from propscope.theory.depth_scales import depth_scales
from propscope.theory.initialization import critical_initializer, layer_variances, nearest_critical_point
from propscope.theory.mean_field import MeanField


def activation_theory(
    activation: str | ActivationSpec,
    *,
    initializers: Sequence[str] = (),
    weight_variance: float | None = None,
    bias_variance: float | None = None,
    width: int = 256,
) -> ActivationTheory:
    """Return what theory says about an activation and about networks with it.

    There is one network for each of `initializers`, with `width` units per layer, or one network with both variances.
    With neither, the network is at the critical point; with only a bias variance, at the critical point for that bias
    variance. Raises `InputError` for an activation, an initializer or a variance that is not valid, and if initializers
    and variances are both given.
    """
    spec = parse_activation(activation)
    if initializers and (weight_variance, bias_variance) != (None, None):
        raise InputError("--init and variances cannot both be given", hint="give one of them")
    scale = gain(spec)
    critical, no_critical = None, ""
    count("width", width)
    try:
        critical = nearest_critical_point(spec, bias_variance=bias_variance if weight_variance is None else None)
    except NoCriticalPoint as error:
        no_critical = str(error).removeprefix(f'activation "{spec.label}" ')
    if initializers:
        networks = tuple(_initialized(spec, name, width) for name in initializers)
    elif weight_variance is not None:
        networks = (_network(spec, "given", weight_variance, bias_variance or 0.0),)
    elif critical is not None:
        at = "" if bias_variance is None else f":bias_variance={written(critical.bias_variance)}"
        networks = (_initialized(spec, f"critical{at}", width),)
    else:
        networks = ()
    return ActivationTheory(spec.label, scale, torch_gain(spec), critical, no_critical, networks)


def torch_gain(activation: ActivationSpec) -> float | None:
    """Return the gain that `torch.nn.init.calculate_gain` has for an activation; None where it has none."""
    entry = find_activation(activation.name)
    if entry is None or not entry.torch_gain:
        return None
    return calculate_gain(entry.torch_gain, activation.parameters.get("negative_slope"))  # type: ignore[arg-type]


def _initialized(activation: ActivationSpec, initializer: str, width: int) -> NetworkTheory:
    spec = parse_initializer(initializer)
    try:
        chosen = critical_initializer(spec, activation, mean_square=1.0)
        found = layer_variances(chosen, fan_in=width, fan_out=width)
    except InputError as error:
        return NetworkTheory(spec.label, None, None, (), str(error))
    first = layer_variances(chosen.first_layer, fan_in=width, fan_out=width)
    start = first.weight_variance + first.bias_variance
    return _network(activation, spec.label, found.weight_variance, found.bias_variance, start)


def _network(
    activation: ActivationSpec, name: str, weight_variance: float, bias_variance: float, start: float | None = None
) -> NetworkTheory:
    """Return a network in which q starts from `start`, by default its value in the first layer for mean square 1."""
    field = MeanField(activation, weight_variance=weight_variance, bias_variance=bias_variance)
    end = field.fixed_point(field.weight_variance + field.bias_variance if start is None else start)
    # Where every q is fixed, the one of the first layer stays.
    points = (end,) if end.stability == "line" else field.fixed_points()
    scaled = tuple(
        ScaledFixedPoint(point, depth_scales(field.activation, field.weight_variance, point), point.q == end.q)
        for point in points
    )
    return NetworkTheory(name, field.weight_variance, field.bias_variance, scaled)
