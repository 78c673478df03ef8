"""What to change, by which number: from what was measured, for networks of the grid and for existing models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from propscope.diagnosis.evidence import Evidence
from propscope.records.finding import Action, Remedy
from propscope.records.network import Label, NetworkProfile, Site
from propscope.records.numerals import number


@dataclass(frozen=True, slots=True)
class Advice:
    """What is known to keep the signal of some activations: the options of a network, and who found it."""

    activations: frozenset[str]
    options: Mapping[str, Label | bool]
    source: str

    def followed(self, profile: NetworkProfile) -> bool:
        """Return whether a network of the grid has these options already, as its labels tell."""
        return all(str(profile.labels.get(name)) == str(value) for name, value in self.options.items())


# Activations of which even the smallest input gives values of one sign.
OFFSET = frozenset({"sigmoid", "hardsigmoid", "logsigmoid", "softplus"})
AROUND: Mapping[str, Label | bool] = {"norm": "layer", "residual": True}

# Each was diagnosed at depths 10, 20 and 40, and trained at depth 20: tests/diagnosis/test_remedies.py.
# fmt: off
ADVICE: tuple[Advice, ...] = (
    Advice(frozenset({"relu", "leaky_relu", "prelu", "relu6"}), {"initializer": "he_normal"}, "He et al. 2015"),
    Advice(frozenset({"tanh", "hardtanh", "sin", "erf", "elu", "celu", "identity"}), {"initializer": "xavier_normal"},
           "Glorot, Bengio 2010: the slope at 0 is 1"),
    Advice(frozenset({"selu"}), {"initializer": "lecun_normal"}, "Klambauer et al. 2017"),
    Advice(frozenset({"gelu", "silu", "mish", "hardswish"}), {"initializer": "critical"},
           "Schoenholz et al. 2017: weights and biases at the critical point"),
    # Without biases its slope falls as fast as its values rise, and the signal fades like a power of the depth.
    Advice(frozenset({"softsign"}), {"initializer": "critical:bias_variance=0.05"},
           "Schoenholz et al. 2017: weights of the critical line at bias_std 0.22"),
    # Their values have a mean that grows into all there is, behind a norm too: only a sum passes the rest.
    Advice(OFFSET | {"tanhshrink"},
           {"initializer": "he_normal", **AROUND}, "He et al. 2016, Ba et al. 2016"),
)
# fmt: on
_ORDINARY = Advice(frozenset(), {"initializer": "he_normal"}, "He et al. 2015")


def advice_for(activation: str) -> Advice:
    """Return what keeps the signal of an activation, given as a spec ("leaky_relu:negative_slope=0.2")."""
    name = activation.split(":")[0].lower()
    return next((advice for advice in ADVICE if name in advice.activations), _ORDINARY)


def is_of_grid(profile: NetworkProfile) -> bool:
    """Return whether a profile is of a network that its initializer and activation name, so that it can be remade."""
    return {"initializer", "activation", "depth"} <= profile.labels.keys()


def remedy_for_size(evidence: Evidence, sites: Sequence[Site], each: float) -> Remedy | None:
    """Return what brings a factor of `each` a layer over `sites` back to one."""
    first = evidence.members[0]
    if not 0 < each < math.inf:
        return new_start(first, "something here is zero") if is_of_grid(first) else None
    scale = _scale(evidence, sites, 1 / each)
    if is_of_grid(first):
        return _of_grid(first, scale)
    if len(sites) <= 2:
        return scale
    start = of_model(sites[0].activation)
    if start.action == "centre":
        return start
    return Remedy("calibrate", f"{scale.text}, or run propscope.calibrate(model, batch)", factors=scale.factors)


def of_model(activation: str) -> Remedy:
    """Return what brings the layers of an existing model to a sound start, by the activation behind them."""
    # Of nine activations at depths 12 to 40 sigmoid and softplus were never sound once calibrated, and five times of
    # six once centred.
    if activation.lower() in OFFSET:
        text = "bring each unit to mean 0 and each layer to deviation 1: propscope.remedies.centre(model, batch)"
        return Remedy("centre", text)
    return Remedy("calibrate", "run propscope.calibrate(model, batch), or put layer norm before the activations")


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
    start = new_start(profile, "")
    return replace(start, text=f"{start.text}; or {scale.text}", factors=scale.factors)


def new_start(profile: NetworkProfile, why: str) -> Remedy:
    """Return the remedy that makes a network of the grid anew, as its activation asks for; `why` may be empty."""
    advice = advice_for(str(profile.labels["activation"]))
    if advice.followed(profile):
        return norm_layer("use fewer layers", profile)
    text = f"{_use(advice.options)} ({advice.source}){why and f': {why}'}"
    return Remedy(_action(advice.options), text, options=advice.options)


def norm_layer(also: str, profile: NetworkProfile) -> Remedy:
    """Return the remedy that puts a norm before every activation, then a sum around it, then `also` alone."""
    has_norm = profile.labels.get("norm") == "layer"
    if has_norm and str(profile.labels.get("residual")) == "True":
        return Remedy("activation", f"{also}, or another activation")
    options: Mapping[str, Label | bool] = AROUND if has_norm else {"norm": "layer"}
    return Remedy(_action(options), f"{_use(options)}; or {also}", options=options)


def _action(options: Mapping[str, Label | bool]) -> Action:
    return "residual" if "residual" in options else "norm" if "norm" in options else "initializer"


def _use(options: Mapping[str, Label | bool]) -> str:
    said = [f"draw the weights by {options['initializer']}"] if "initializer" in options else []
    if "residual" in options:
        said.append("put residual sums around layer norms, --residual --norm layer")
    elif "norm" in options:
        said.append("put layer norm before every activation, --norm layer")
    return ", and ".join(said)
