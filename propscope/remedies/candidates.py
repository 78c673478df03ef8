"""The remedies that are tried for a network of the grid, in order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from propscope.diagnosis.advice import advice_for
from propscope.errors import InputError
from propscope.networks import MLPSpec
from propscope.networks.spec import written
from propscope.records.activations import NORMED_SUMS
from propscope.records.finding import Diagnosis, Remedy
from propscope.records.numerals import number
from propscope.theory.initialization import critical_initializer, layer_variances

# On tanh's critical line a bias variance of 0.05 sets the weights' variance to 1.76 (Schoenholz et al. 2017, figure 1).
BIAS_VARIANCE = 0.05
_VARIANCES = ("bias", "gain", "weight_variance", "bias_variance")
# They set the biases themselves.
_OWN_BIASES = ("critical", "default")


def candidates(diagnosis: Diagnosis, request: Mapping[str, Any]) -> Iterator[Remedy]:
    """Yield the remedies for a network, each once, without those whose options the network has already.

    In order: the remedy of the worst finding; the weights multiplied by the measured factor; the critical points of
    theory; norms; residual sums around norms.
    """
    tried: list[Mapping[str, Any]] = []
    for remedy in _all(diagnosis, request):
        if with_options(request, remedy.options) != request and dict(remedy.options) not in tried:
            tried.append(dict(remedy.options))
            yield remedy


def with_options(request: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request changed by the options of a remedy."""
    axes = ("activation", "initializer")
    changed = {**request, **{name: [value] if name in axes else value for name, value in options.items()}}
    # An advised initializer is meant as it is, with the variances that are its own.
    if "initializer" in options:
        own = {"gain": 1.0, "weight_variance": None}
        if "bias" in options or str(options["initializer"]).startswith(_OWN_BIASES):
            own["bias_variance"] = None
        changed |= {name: value for name, value in own.items() if name in request}
    # These two set the biases themselves, so a separate standard deviation would contradict them.
    if str(options.get("initializer", "")).startswith(_OWN_BIASES) and "bias" not in options:
        changed["bias"] = None
    return changed


def _of(request: Mapping[str, Any], name: str) -> Any:
    value = request.get(name)
    return value[0] if name in ("activation", "initializer") and value else value


def _all(diagnosis: Diagnosis, request: Mapping[str, Any]) -> Iterator[Remedy]:
    worst = diagnosis.worst
    if worst is not None and worst.remedy is not None and worst.remedy.options:
        # The rest of the text names an alternative, which is tried by itself.
        yield replace(worst.remedy, text=worst.remedy.text.split("; or ")[0], factors={})
    if worst is not None and (each := worst.evidence.get("factor_per_layer", math.nan)) > 0:
        yield from _scaled(request, 1 / each)
    for spec in ("critical", f"critical:bias_variance={BIAS_VARIANCE}"):
        yield from _critical(request, spec)
    yield Remedy("norm", "put layer norm before every activation (--norm layer)", options={"norm": "layer"})
    yield Remedy("residual", "put residual sums around layer norms (--residual --norm layer)", options=NORMED_SUMS)
    if "initializer" in (advised := advice_for(str(_of(request, "activation"))).options):
        both = f"initialize the weights with {advised['initializer']}, and put residual sums around layer norms"
        yield Remedy("residual", both, options={**advised, **NORMED_SUMS})


def _scaled(request: Mapping[str, Any], factor: float) -> Iterator[Remedy]:
    """Yield the initializer whose weights are larger by `factor`, as a variance over the fan-in."""
    network = _network(request)
    units = network.widths[-1]
    try:
        gain = network.gain_of(network.initializer, units, units)
        known = layer_variances(network.initializer, fan_in=units, fan_out=units, bias=network.bias_std, gain=gain)
    except InputError:
        return
    if network.initializer.name == "critical" or not math.isfinite(factor):
        return
    scale = float(f"{known.weight_variance * factor**2:.4g}")
    bias = float(f"{math.sqrt(known.bias_variance):.4g}")
    yield Remedy(
        "scale",
        f"multiply the weight std by {number(factor)}: weights of variance {number(scale)} / fan_in, bias_std "
        f"{number(bias)}",
        options={
            "initializer": f"variance_scaling:scale={written(scale)}:distribution=untruncated_normal",
            "bias": bias,
        },
    )


def _critical(request: Mapping[str, Any], spec: str) -> Iterator[Remedy]:
    activation = str(_of(request, "activation"))
    try:
        found = critical_initializer(spec, activation).parameters
    except InputError:
        return
    weight, bias = float(found["weight_variance"]), math.sqrt(float(found["bias_variance"]))
    yield Remedy(
        "initializer",
        f"initialize weights with variance {number(weight)} / fan_in and biases with bias_std {number(bias, 2)}: "
        f"{spec}, the critical point of {activation.split(':')[0]} (Schoenholz et al. 2017)",
        options={"initializer": spec},
    )


def _network(request: Mapping[str, Any]) -> MLPSpec:
    return MLPSpec(
        request["depth"][0],
        width=request["width"][0],
        initializer=request["initializer"][0],
        activation=request["activation"][0],
        **{name: request[name] for name in _VARIANCES if name in request},
    )
