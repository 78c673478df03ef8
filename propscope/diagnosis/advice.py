"""What to change and by which number: for networks that can be built again, and for existing models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from propscope.diagnosis.evidence import Evidence
from propscope.records.activations import HE, NORMED_SUMS, Advice, find_activation
from propscope.records.finding import Action, Finding, Kind, Remedy
from propscope.records.network import Label, NetworkProfile, Site
from propscope.records.numerals import number

# What draws or scales weights anew, which throws away what a network has learned.
_NEW_WEIGHTS = ("initializer", "scale", "calibrate", "centre")
_BACK = "go back to a checkpoint from before, and train on with a lower learning rate and a warm-up"
_IN_TRAINING: Mapping[Kind, str] = {
    "exploding": "lower the learning rate, clip the gradient, or add weight decay",
    "saturated": "lower the learning rate, or add weight decay, so that the weights shrink",
    "symmetric": f"{_BACK}: units that are equal stay equal",
    "inactive": f"{_BACK}, or clip the gradient: units that are off on every sample learn nothing",
}


def in_training(finding: Finding) -> Finding:
    """Return a finding on a trained network with what to change in its training in place of new weights."""
    if finding.remedy is None or finding.remedy.action not in _NEW_WEIGHTS:
        return finding
    return replace(finding, remedy=Remedy("training", _IN_TRAINING.get(finding.kind, _BACK)))


def advice_for(activation: str) -> Advice:
    """Return the options that keep the signal of an activation, given as a spec ("leaky_relu:negative_slope=0.2").

    He initialization for an activation that propscope does not know.
    """
    entry = find_activation(activation)
    return HE if entry is None else entry.advice


def can_be_rebuilt(profile: NetworkProfile) -> bool:
    """Return whether the labels of a profile say how to build its network again: initializer, activation, depth."""
    return {"initializer", "activation", "depth"} <= profile.labels.keys()


def remedy_for_size(evidence: Evidence, sites: Sequence[Site], each: float) -> Remedy | None:
    """Return the remedy that brings a factor of `each` per layer over `sites` back to 1."""
    first = evidence.members[0]
    if not 0 < each < math.inf:
        return new_start(first, "a value here is zero") if can_be_rebuilt(first) else None
    scale = _scale(evidence, sites, 1 / each)
    if can_be_rebuilt(first):
        start = new_start(first, "")
        return replace(start, text=f"{start.text}; or {scale.text}", factors=scale.factors)
    if len(sites) <= 2:
        return scale
    start = for_model(sites[0].activation)
    if start.action == "centre":
        return start
    return Remedy("calibrate", f"{scale.text}, or run propscope.calibrate(model, batch)", factors=scale.factors)


def new_start_or(otherwise: Remedy, evidence: Evidence, why: str) -> Remedy:
    """Return `new_start` for a network that can be built again, and `otherwise` for an existing model."""
    first = evidence.members[0]
    return new_start(first, why) if can_be_rebuilt(first) else otherwise


def for_model(activation: str) -> Remedy:
    """Return the remedy that gives the layers of an existing model a sound start, by the activation after them."""
    # Measured with nine activations at depths 12 to 40: networks of sigmoid and softplus were never healthy after
    # calibrate, and five of six times after centre.
    if (entry := find_activation(activation)) is not None and entry.offset:
        text = "bring each unit to mean 0 and each layer to std 1: propscope.remedies.centre(model, batch)"
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


def new_start(profile: NetworkProfile, why: str) -> Remedy:
    """Return the remedy that builds a network again with what suits its activation; `why` may be empty."""
    advice = advice_for(str(profile.labels["activation"]))
    usual: Mapping[str, Label | None] = {"gain": 1.0, "weight_variance": None}
    scaled = [name for name, value in usual.items() if profile.labels.get(name, value) != value]
    if not scaled and all(str(profile.labels.get(name)) == str(value) for name, value in advice.options.items()):
        return norm_layer("use fewer layers", profile)
    unscaled = f", without {scaled[0]}" if scaled else ""
    text = f"{_use(advice.options)}{unscaled} ({advice.source}){why and f': {why}'}"
    return Remedy(_action(advice.options), text, options=advice.options)


def norm_layer(also: str, profile: NetworkProfile) -> Remedy:
    """Return the remedy for a network without layer norm, then without residual sums, else only `also`."""
    has_norm = profile.labels.get("norm") == "layer"
    if has_norm and profile.labels.get("residual", "False") != "False":
        return Remedy("activation", f"{also}, or another activation")
    options: Mapping[str, Label | bool] = NORMED_SUMS if has_norm else {"norm": "layer"}
    return Remedy(_action(options), f"{_use(options)}; or {also}", options=options)


def _action(options: Mapping[str, Label | bool]) -> Action:
    return "residual" if "residual" in options else "norm" if "norm" in options else "initializer"


def _use(options: Mapping[str, Label | bool]) -> str:
    said = [f"initialize the weights with {options['initializer']}"] if "initializer" in options else []
    if "residual" in options:
        said.append("put residual sums around layer norms (--residual --norm layer)")
    elif "norm" in options:
        said.append("put layer norm before every activation (--norm layer)")
    return ", and ".join(said)
