"""What to change, by which number: from what was measured, for networks of the grid and for existing models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from propscope.diagnosis.evidence import Evidence
from propscope.results.finding import Kind, Remedy
from propscope.results.network import Direction, NetworkProfile, Site
from propscope.results.table import number


@dataclass(frozen=True, slots=True)
class Advice:
    """What is known to keep the signal of some activations: the option of a network, and who found it."""

    activations: frozenset[str]
    option: str
    value: str
    source: str


# fmt: off
ADVICE: tuple[Advice, ...] = (
    Advice(frozenset({"relu", "leaky_relu", "prelu", "relu6"}), "initializer", "he_normal", "He et al. 2015"),
    Advice(frozenset({"tanh", "hardtanh", "softsign", "sin", "erf", "elu", "celu", "identity"}),
           "initializer", "xavier_normal", "Glorot, Bengio 2010: the slope at 0 is 1"),
    Advice(frozenset({"selu"}), "initializer", "lecun_normal", "Klambauer et al. 2017"),
    Advice(frozenset({"gelu", "silu", "mish", "hardswish", "sigmoid", "hardsigmoid", "logsigmoid"}),
           "initializer", "critical", "Schoenholz et al. 2017: weights and biases on the critical line"),
    Advice(frozenset({"softplus", "tanhshrink"}), "norm", "layer", "Ba et al. 2016; no critical point exists"),
)
# fmt: on
_ORDINARY = Advice(frozenset(), "initializer", "he_normal", "He et al. 2015")


def advice_for(activation: str) -> Advice:
    """Return what keeps the signal of an activation, given as a spec ("leaky_relu:negative_slope=0.2")."""
    name = activation.split(":")[0].lower()
    return next((advice for advice in ADVICE if name in advice.activations), _ORDINARY)


def is_of_grid(profile: NetworkProfile) -> bool:
    """Return whether a profile is of a network that its initializer and activation name, so that it can be remade."""
    return {"initializer", "activation", "depth"} <= profile.labels.keys()


def remedy_for_size(
    evidence: Evidence, sites: Sequence[Site], each: float, *, kind: Kind, direction: Direction
) -> Remedy | None:
    """Return what brings a factor of `each` a layer over `sites` back to one."""
    first = evidence.members[0]
    if not 0 < each < math.inf:
        return new_start(first, "something here is zero") if is_of_grid(first) else None
    scale = _scale(evidence, sites, 1 / each)
    if is_of_grid(first):
        return _of_grid(first, scale)
    if len(sites) > 2:
        return Remedy("calibrate", f"{scale.text}, or run propscope.calibrate(model, batch)", factors=scale.factors)
    return scale


def _scale(evidence: Evidence, sites: Sequence[Site], factor: float) -> Remedy:
    """Return the remedy that multiplies the weights of these layers."""
    weights = {parameter.name for parameter in evidence.members[0].parameters}
    names = [site.name.split("#")[0] for site in sites]
    factors = {name: factor for name in names if f"{name}.weight" in weights}
    layers = sorted(site.layer for site in sites if site.layer is not None)
    if layers:
        where = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"
    else:
        where = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    return Remedy("scale", f"multiply the weight std of {where} by {number(factor)}", factors=factors)


def _of_grid(profile: NetworkProfile, scale: Remedy) -> Remedy:
    advice = advice_for(str(profile.labels["activation"]))
    options = {advice.option: advice.value}
    if profile.labels.get(advice.option) == advice.value:
        return norm_layer(scale.text)
    return Remedy("initializer" if advice.option == "initializer" else "norm", f"{_use(advice)}; or {scale.text}",
                  options=options, factors=scale.factors)  # fmt: skip


def new_start(profile: NetworkProfile, why: str) -> Remedy:
    """Return the remedy that fills the weights anew, as the activation asks for."""
    advice = advice_for(str(profile.labels["activation"]))
    return Remedy("initializer", f"{_use(advice)}: {why}", options={advice.option: advice.value})


def norm_layer(also: str) -> Remedy:
    """Return the remedy that puts a norm before every activation."""
    return Remedy(
        "norm", f"put layer norm before every activation (--norm layer); or {also}", options={"norm": "layer"}
    )


def _use(advice: Advice) -> str:
    what = "draw the weights by" if advice.option == "initializer" else "put before every activation a norm:"
    return f"{what} {advice.value} ({advice.source})"
