"""Layers whose bias is larger than what they make of their input.

The mean square of W x + b is that of W x and that of b together. What b adds is the same for all samples: where it is
most of the mean square, the layer hardly tells samples apart, or saturates what follows, whatever its weights are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from propscope.diagnosis import limits
from propscope.diagnosis.behind import Behind, behind_of
from propscope.diagnosis.evidence import Evidence, module_of
from propscope.diagnosis.missing_gradients import stopped_sites
from propscope.diagnosis.weights import Bias, bias_at, scale_at
from propscope.records.activations import find_activation
from propscope.records.finding import Finding, Kind, Remedy
from propscope.records.gains import is_bounded
from propscope.records.numerals import number, percent


def large_biases(evidence: Evidence) -> Iterator[Finding]:
    """Find biases of rms 2 or more that are five times as large as the rest of their layer's values.

    Or that are larger than it, and so large that a bounded activation behind the next layer is flat.

    The bias of an output is its prior guess (Lin et al. 2017, section 4.1), that of a gate opens or closes it, and that
    of a trained network was learned. A norm behind the layer may take it away. Where it stops every gradient, it is
    found as that.
    """
    if evidence.stage == "trained":
        return
    behind = evidence.once(behind_of)
    stopped = evidence.once(stopped_sites)
    for index, site in enumerate(evidence.sites):
        bias = bias_at(evidence.members[0], site)
        if bias is None or bias.rms < limits.BIAS:
            continue
        # Half is enough where it saturates the next layer.
        saturated = _saturated_by(evidence, behind, index) if bias.share > 0.5 else ""
        if 1 - bias.share > limits.COMMON and not saturated:
            continue
        # Softplus makes a small positive number of a negative bias, such as a step size.
        opens = behind.is_gate(index) and bias.rms < limits.SHUT
        if behind.is_output(index) or opens or behind.is_exponent(index) or site.activation.lower() == "softplus":
            continue
        if site.name not in stopped and not behind.is_absorbed(index):
            yield _finding(evidence, index, bias, saturated)


def _saturated_by(evidence: Evidence, behind: Behind, index: int) -> str:
    """Return the layer after this one that saturates although its own weights are not large, "" where none does."""
    profile = evidence.members[0]
    fed = (profile.sites[at] for at in behind.fed(index))
    flat = (site for site in fed if is_bounded(site.activation) and (site.flat_fraction or 0.0) > limits.SATURATED)
    return next((site.name for site in flat if 0 < (scale_at(profile, site) or 0.0) < math.e), "")


def _finding(evidence: Evidence, index: int, bias: Bias, saturated: str) -> Finding:
    site = evidence.sites[index]
    entry, flat = find_activation(site.activation), site.flat_fraction or 0.0
    kind: Kind = "collapse"
    effect = "what its input adds is lost beside that, so that samples hardly differ"
    if entry is not None and entry.bounded and flat > limits.SATURATED:
        kind, effect = "saturated", f"{percent(flat)} of the inputs of {site.activation} lie where it is flat"
    elif saturated:
        kind, effect = "saturated", f"it saturates {saturated}"
    elif flat > limits.INACTIVE:
        kind, effect = "inactive", f"{percent(flat)} of the inputs of {site.activation} lie where it is off"
    ratio = math.sqrt(bias.share / (1 - bias.share)) if bias.share < 1 else math.inf
    return Finding(
        kind=kind,
        severity="strained",
        direction="forward",
        sites=(site.name,),
        message=f"{site.name}: its bias has rms {number(bias.rms, 2)}, "
        f"{percent(bias.share)} of the mean square of its values",
        cause=f"the bias is too large: {effect}",
        evidence={
            "bias_rms": bias.rms,
            "share": bias.share,
            "flat_fraction": flat,
            "limit": 1 - limits.COMMON,
        },
        remedy=Remedy("repair", f"set the bias of {module_of(site.name)} to zero", factors={bias.parameter: 0.0}),
        confidence=evidence.shown_by_all,
        marks={site.name: f"bias x{number(ratio, 2)}"},
    )
