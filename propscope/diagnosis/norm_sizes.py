"""Norms whose values do not have the size that a norm gives: by their gains, or since they normalize single values.

A norm divides by the standard deviation (or the rms) of what it normalizes, so that its values have the rms of its
gains: about 1, however its weights are stored (Gemma's are the gain minus 1). A single value, less its own mean, is 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from propscope.diagnosis import limits
from propscope.diagnosis.behind import behind_of
from propscope.diagnosis.evidence import Evidence, module_of, parameters_by_module
from propscope.records.finding import Finding, Remedy
from propscope.records.gains import input_rms
from propscope.records.network import Parameter, Site
from propscope.records.numerals import number

# Local and global response norms do not divide by the size of what they normalize.
_NORMS = re.compile(r"(layer|batch|group|instance|rms|sync)_?norm")
# What is stored is the gain, or the gain minus 1, if it explains ln of the values' rms within this difference.
_AGREES = 0.5

_SINGLE = {
    "group": "there are as many groups as channels, and one position",
    "layer": "there is one feature",
    "batch": "each channel has one value",
    "instance": "each channel has one position",
    "sync": "each channel has one value",
}
_OTHERWISE = {
    "group": "use fewer groups than channels",
    "layer": "normalize over more than one feature, or leave the norm out",
    "batch": "use a larger batch, or layer norm",
    "instance": "leave the norm out where there is one position",
    "sync": "use a larger batch, or layer norm",
}


@dataclass(frozen=True, slots=True)
class _Norm:
    """A norm at position `index`: the mean over seeds of ln of its values' rms, its gains, the rms of its bias."""

    index: int
    site: Site
    log: float
    gain: Parameter | None
    shift: float


def odd_norms(evidence: Evidence) -> Iterator[Finding]:
    """Find norms whose gains bring their values above e^3 or below e^-3, and norms of single values, which give zeros.

    Small gains at the end of a residual branch are meant (Goyal et al. 2017, section 5.1), and those of a trained
    network are its own.
    """
    behind = evidence.once(behind_of)
    large, small = [], []
    for norm in _norms(evidence):
        if _is_of_single_values(evidence, norm):
            yield _zeros(evidence, norm)
        elif evidence.stage != "trained" and abs(norm.log) > limits.STRAINED and _explains(norm):
            if norm.log > 0:
                large.append(norm)
            elif not behind.is_branch_end(norm.index):
                small.append(norm)
    yield from (_gains(evidence, group) for group in (small, large) if group)


def _norms(evidence: Evidence) -> Iterator[_Norm]:
    by_module = evidence.once(parameters_by_module)
    for index, sites in evidence.columns():
        seen = [each.forward for each in sites if each.forward is not None and not each.forward.nonfinite_count]
        taking_part = evidence.members[0].parameters_of(sites[0])
        owned = taking_part if sites[0].parameters else by_module.get(module_of(sites[0].name), ())
        # What is called a norm and has matrices of its own is a block.
        if not _NORMS.search(sites[0].kind.lower()) or len(seen) < len(sites) or any(map(_is_matrix, owned)):
            continue
        log = sum(math.log(each.rms) if each.rms else -math.inf for each in seen) / len(seen)
        gains = [parameter for parameter in owned if not _is_bias(parameter)]
        shift = math.hypot(*(parameter.value.rms for parameter in owned if _is_bias(parameter)))
        yield _Norm(index, sites[0], log, gains[0] if len(gains) == 1 else None, shift)


def _is_matrix(parameter: Parameter) -> bool:
    return max(parameter.shape, default=1) < math.prod(parameter.shape)


def _is_bias(parameter: Parameter) -> bool:
    return "bias" in parameter.name.rpartition(".")[2]


def _is_of_single_values(evidence: Evidence, norm: _Norm) -> bool:
    """Return whether each mean may be of one value, and the values are far smaller than gains and input would give."""
    gain = 1.0 if norm.gain is None else norm.gain.value.rms
    if _fewest(norm.site) > 1 or gain == 0 or norm.shift > 0:
        return False
    entering = [size for member in evidence.members if (size := input_rms(member, norm.index)) is not None]
    # Else what enters the norm may be too small for it: it adds an epsilon to the variance.
    large = bool(entering) and min(entering) > math.exp(-limits.STRAINED)
    return large and norm.log - math.log(gain) < -limits.STRAINED


def _fewest(site: Site) -> int:
    """Return the fewest values that a norm of this kind takes a mean over at this shape."""
    features, positions = site.features or 1, math.prod(site.shape[1:]) // (site.features or 1)
    word = _word(site)
    if word == "layer":
        return features
    if word in ("group", "instance"):
        return positions
    return 2 if word == "rms" else positions * site.shape[0]


def _word(site: Site) -> str:
    found = _NORMS.search(site.kind.lower())
    return found[1] if found else ""


def _zeros(evidence: Evidence, norm: _Norm) -> Finding:
    site, word = norm.site, _word(norm.site)
    return Finding(
        kind="vanishing",
        severity="strained" if evidence.members[0].graph.bypassed(norm.index) else "broken",
        direction="forward",
        sites=(site.name,),
        message=f"{site.name} ({site.kind}) normalizes single values, which makes all of them zero",
        cause=f"a value less its own mean is zero: {_SINGLE[word]}",
        evidence={"ratio": 0.0, "rms": math.exp(norm.log)},
        remedy=Remedy("norm", f"{_OTHERWISE[word]} ({module_of(site.name)})"),
        confidence=evidence.shown_by_all,
        marks={site.name: "single values"},
    )


def _explains(norm: _Norm) -> bool:
    """Return whether the gains give the values their size, stored as they are or less 1."""
    if norm.gain is None:
        return False
    value = norm.gain.value
    return any(abs(norm.log - math.log(gain)) < _AGREES for gain in (value.rms, abs(1 + value.mean)) if gain > 0)


def _gains(evidence: Evidence, norms: list[_Norm]) -> Finding:
    mean = math.exp(sum(norm.log for norm in norms) / len(norms))
    names = list(dict.fromkeys(module_of(norm.site.name) for norm in norms))
    size, much = ("large", mean) if mean > 1 else ("small", 1 / mean)
    more = f" to {names[-1]}" if len(names) > 1 else ""
    shown = f"{len(names)} norms, {names[0]}{more}," if more else names[0]
    # A gain that is stored less 1 has no factor.
    factors = {
        module_of(norm.site.name): math.exp(-norm.log)
        for norm in norms
        if norm.gain is not None and abs(norm.log - math.log(norm.gain.value.rms or 1.0)) < _AGREES
    }
    return Finding(
        kind="exploding" if mean > 1 else "vanishing",
        severity="strained",
        direction="forward",
        sites=tuple(norm.site.name for norm in norms),
        message=f"the gains of {shown} bring normalized values to rms {number(mean, 2)}, where 1 is usual",
        cause=f"the gains are {number(much, 2)} times too {size}",
        evidence={"ratio": mean, "limit": math.exp(math.copysign(limits.STRAINED, math.log(mean)))},
        remedy=Remedy(
            "scale",
            f"start with gains of 1: multiply those of {names[0]}{more} by {number(1 / mean)}",
            factors=factors,
        ),
        confidence=evidence.shown_by_all,
        marks={norm.site.name: f"gain x{number(math.exp(norm.log), 2)}" for norm in norms},
    )
