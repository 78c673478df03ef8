"""What theory says of an activation, alone and in networks: the records that `propscope theory` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch.nn.init import calculate_gain

from propscope.checks import count
from propscope.errors import InputError
from propscope.networks import ActivationSpec, parse_activation, parse_initializer
from propscope.networks.spec import written
from propscope.theory import (
    CriticalPoint,
    DepthScales,
    FixedPoint,
    MeanField,
    NoCriticalPoint,
    critical_initializer,
    gain,
    layer_variances,
)
from propscope.theory.depth_scales import depth_scales
from propscope.theory.initialization import nearest_critical_point

# Those whose convention differs from 1 / sqrt(E[phi^2]) or agrees with it; torch has none for the others.
_TORCH = {"identity": "linear", "sigmoid": "sigmoid", "tanh": "tanh", "relu": "relu", "selu": "selu"}


@dataclass(frozen=True, slots=True)
class Asked:
    """Which networks: those of `initializers`, of `width` units a layer, or that of the variances, or the critical."""

    initializers: tuple[str, ...] = ()
    weight_variance: float | None = None
    bias_variance: float | None = None
    width: int = 256


@dataclass(frozen=True, slots=True)
class Settling:
    """A fixed point of the variance, its depth scales, and whether an input of mean square 1 ends `reached` it."""

    point: FixedPoint
    scales: DepthScales
    reached: bool


@dataclass(frozen=True, slots=True)
class Network:
    """A network by `name`: its variances and every fixed point, or the `reason` that mean field does not apply."""

    name: str
    weight_variance: float | None
    bias_variance: float | None
    settlings: tuple[Settling, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Account:
    """An activation: `gain`, torch's other one where there is one, its critical point or why not, its `networks`."""

    activation: str
    gain: float
    torch_gain: float | None
    critical: CriticalPoint | None
    no_critical: str
    networks: tuple[Network, ...]

    def document(self) -> dict[str, Any]:
        """Return the account as JSON has it."""
        return {
            "activation": self.activation,
            "gain": self.gain,
            "torch_gain": self.torch_gain,
            "critical_point": None if self.critical is None else asdict(self.critical),
            "no_critical_point": self.no_critical or None,
            "networks": [_network_document(network) for network in self.networks],
        }


def _network_document(network: Network) -> dict[str, Any]:
    return {
        "network": network.name,
        "weight_variance": network.weight_variance,
        "bias_variance": network.bias_variance,
        "no_mean_field": network.reason or None,
        "fixed_points": [
            {
                "q": settling.point.q,
                "stability": settling.point.stability,
                "law": str(settling.point.law) if settling.point.law else None,
                "reached": settling.reached,
                "chi_1": settling.point.chi,
                "chi_parallel": settling.point.chi_parallel,
                "depth_scales": asdict(settling.scales),
            }
            for settling in network.settlings
        ],
    }


def account(activation: str, asked: Asked) -> Account:
    """Return what theory says of an activation, and of the networks asked for.

    Without any the network at the critical point, with a bias variance alone the critical one there. Raises
    `InputError` for an activation, an initializer or a variance that is not valid, and for variances asked for beside
    initializers.
    """
    spec = parse_activation(activation)
    if asked.initializers and (asked.weight_variance, asked.bias_variance) != (None, None):
        raise InputError("--init and variances are both given; valid is one of them")
    scale = gain(spec)
    critical, no_critical = None, ""
    count("width", asked.width)
    alone = asked.weight_variance is None
    try:
        critical = nearest_critical_point(spec, bias_variance=asked.bias_variance if alone else None)
    except NoCriticalPoint as error:
        no_critical = str(error).removeprefix(f"activation {spec.label!r} ")
    if asked.initializers:
        networks = tuple(_initialized(spec, name, asked.width) for name in asked.initializers)
    elif asked.weight_variance is not None:
        networks = (_network(spec, "given", asked.weight_variance, asked.bias_variance or 0.0),)
    elif critical is not None:
        at = "" if asked.bias_variance is None else f":bias_variance={written(critical.bias_variance)}"
        networks = (_initialized(spec, f"critical{at}", asked.width),)
    else:
        networks = ()
    return Account(spec.label, scale, torch_gain(spec), critical, no_critical, networks)


def accounts(activations: Sequence[str], asked: Asked) -> list[Account]:
    """Return the account of each activation, each once."""
    return [account(name, asked) for name in dict.fromkeys(parse_activation(name).label for name in activations)]


def torch_gain(activation: ActivationSpec) -> float | None:
    """Return what `torch.nn.init.calculate_gain` has for an activation; None where it has nothing."""
    if activation.name == "leaky_relu":
        return calculate_gain("leaky_relu", activation.parameters["negative_slope"])  # type: ignore[arg-type]
    name = _TORCH.get(activation.name)
    return None if name is None else calculate_gain(name)  # type: ignore[arg-type]


def _initialized(activation: ActivationSpec, initializer: str, width: int) -> Network:
    name = parse_initializer(initializer).label
    try:
        chosen = critical_initializer(initializer, activation, mean_square=1.0)
        found = layer_variances(chosen, fan_in=width, fan_out=width)
    except InputError as error:
        return Network(name, None, None, (), str(error))
    first = layer_variances(chosen.first_layer, fan_in=width, fan_out=width)
    start = first.weight_variance + first.bias_variance
    return _network(activation, name, found.weight_variance, found.bias_variance, start)


def _network(
    activation: ActivationSpec, name: str, weight_variance: float, bias_variance: float, start: float | None = None
) -> Network:
    """Return a network in which q starts from `start`, by default what an input of mean square 1 makes of it."""
    field = MeanField(activation, weight_variance=weight_variance, bias_variance=bias_variance)
    end = field.fixed_point(field.weight_variance + field.bias_variance if start is None else start)
    # Where every q is fixed it is the one that the first layer has.
    points = (end,) if end.stability == "line" else field.fixed_points()
    settlings = tuple(
        Settling(point, depth_scales(field.activation, field.weight_variance, point), point.q == end.q)
        for point in points
    )
    return Network(name, field.weight_variance, field.bias_variance, settlings)
