"""What is wrong with the model's input, judged by what the first layers make of it.

For weights that are independent of it an input x gives z = W x + b with E[z^2] = s^2 E[x^2] + E[b^2], where
s = rms(W) sqrt(fan_in) (Poole et al. 2016, eq. 3). What z owes to the input and what to the weights is thus known, and
the one that is farther from 1 is at fault. A norm behind the first layer gives the signal its size back, so that the
size of the input does not matter there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from propscope.diagnosis import limits
from propscope.diagnosis.behind import Behind
from propscope.diagnosis.evidence import Evidence, module_of, succession
from propscope.diagnosis.weights import scale_at
from propscope.records.activations import find_activation
from propscope.records.finding import Finding, Remedy
from propscope.records.gains import is_norm, vector_length
from propscope.records.network import NetworkProfile, Site
from propscope.records.numerals import number, percent
from propscope.records.summary import TensorSummary

# An input is what the first layer sees if E[z^2] tells the same size within this factor.
_AGREES = 5.0


def odd_inputs(evidence: Evidence) -> Iterator[Finding]:
    """Find inputs that are not finite, or from which the first layers saturate, explode or cannot tell samples apart.

    An input is too large from a rms of e^3 (2 where a bounded activation saturates from it), too small below 0.02 (of
    what is not zero), off-centre where its mean is ten times its standard deviation, unequal where the rms of a feature
    is 100 times the median. Where a norm takes that away, it is a note. Whole numbers have no scale.
    """
    profile = evidence.whole[0] if evidence.whole else evidence.members[0]
    behind = Behind(profile)
    for index, site in enumerate(profile.sites):
        if site.role != "input" or not site.dtype.startswith(("float", "bfloat")) or site.forward is None:
            continue
        if not site.forward.count:
            continue
        if site.forward.nan_count or site.forward.posinf_count:
            yield _nonfinite(site)
        elif (found := _odd(profile, behind, index)) is not None:
            yield found


def _nonfinite(site: Site) -> Finding:
    assert site.forward is not None
    what = "NaN" if site.forward.nan_count else "Inf"
    count = site.forward.nan_count or site.forward.posinf_count
    return Finding(
        kind="non-finite",
        severity="broken",
        direction="forward",
        sites=(site.name,),
        message=f"the input {site.name} has {count:,} {what} in {site.forward.count:,} values",
        cause="the data holds them; no layer made them",
        evidence={"nan_count": float(site.forward.nan_count), "inf_count": float(site.forward.posinf_count)},
        remedy=Remedy("repair", f"remove or replace the {what} in {site.name} before the model sees it"),
        marks={site.name: what},
    )


def _odd(profile: NetworkProfile, behind: Behind, index: int) -> Finding | None:
    site, summary = profile.sites[index], profile.sites[index].forward
    assert summary is not None
    if not (faults := _faults(profile, site)):
        return None
    first = _first_layers(profile, behind, index)
    effects = [effect for at in first if (effect := _effect(profile, behind, site, at, faults)) is not None]
    hit = [effect for effect in effects if not effect.absorbed]
    if not effects:
        return None
    seen = dict.fromkeys(effect.text for effect in hit or effects if effect.text)
    return Finding(
        kind="input",
        severity="strained" if hit else "note",
        direction="forward",
        sites=(site.name, *(profile.sites[effect.index].name for effect in hit or effects)),
        message=f"{site.name}: {' and '.join(fault.text for fault in faults)}" + "".join(f"; {text}" for text in seen),
        cause="; ".join(fault.cause for fault in faults) if hit else "the norm behind the first layer takes that away",
        evidence={
            "rms": summary.rms,
            "mean": summary.mean,
            "std": summary.std,
            "feature_spread": math.nan if site.feature_spread is None else site.feature_spread,
        },
        remedy=_standardize(site, {fault.what for fault in faults}),
        confidence=succession(1, 1),
        marks={site.name: faults[0].what},
    )


@dataclass(frozen=True, slots=True)
class _Fault:
    """What is unusual about an input: the word for it, the numbers, and what follows from it.

    `mild`: it does harm only where the first activation saturates from it.
    """

    what: str
    text: str
    cause: str
    mild: bool = False


def _faults(profile: NetworkProfile, site: Site) -> list[_Fault]:
    summary = site.forward
    assert summary is not None
    if summary.std == 0:
        return [] if site.samples < 2 or _others_vary(profile, site) else [_constant(summary)]
    found = []
    if (spread := _spread(site)) > limits.UNEQUAL:
        text = f"its largest feature is {number(spread)} times the median"
        found.append(_Fault("unequal", text, "the largest feature drowns the others"))
    # Where each feature has a mean of its own, only the cosine between samples tells.
    apart = min((summary.std / summary.rms) ** 2, _apart(site))
    if apart < limits.OFF_CENTRE:
        text = f"samples differ in {number(100 * apart, 2)}% of its mean square (mean {number(summary.mean)})"
        found.append(_Fault("off-centre", text, "what all samples have in common is learned before their differences"))
    size = math.log(_size(summary))
    rms = f"its rms is {number(summary.rms)} (mean {number(summary.mean)}, std {number(summary.std)})"
    if size > math.log(2):
        mild = size <= limits.STRAINED
        found.append(_Fault("too large", rms, "the first layer passes this size on", mild))
    elif size < math.log(limits.TINY):
        found.append(_Fault("too small", rms, "what the first layer makes of it is lost beside the biases"))
    return [fault for fault in found if not fault.mild] or found


def _constant(summary: TensorSummary) -> _Fault:
    text = f"all its values are {number(summary.mean)}"
    return _Fault("constant", text, "samples that are all the same show nothing to learn, and hide what layers do")


def _others_vary(profile: NetworkProfile, site: Site) -> bool:
    others = [each.forward for each in profile.inputs if each is not site]
    return any(summary is not None and summary.std > 0 for summary in others)


def _size(summary: TensorSummary) -> float:
    """Return the rms of the elements that are not zero: one-hot and sparse inputs are small in the mean only."""
    return summary.rms / math.sqrt(1 - summary.zero_fraction)


def _spread(site: Site) -> float:
    """Return the spread of the features, less what their zeros explain: a rare feature of ones has a small rms."""
    if site.feature_spread is None or site.forward is None:
        return 1.0
    return site.feature_spread * math.sqrt(1 - site.forward.zero_fraction)


def _apart(site: Site) -> float:
    """Return the share of the mean square in which samples differ, 1 where it is not known."""
    if site.mean_cosine is None or site.samples < limits.SAMPLES or vector_length(site) < limits.FEATURES:
        return 1.0
    return 1 - site.mean_cosine


@dataclass(frozen=True, slots=True)
class _Effect:
    """What the input does at the site at `index`; `absorbed`: a norm takes it away."""

    index: int
    text: str
    absorbed: bool


def _effect(
    profile: NetworkProfile, behind: Behind, site: Site, index: int, faults: Sequence[_Fault]
) -> _Effect | None:
    """Return what a first layer makes of an input with these faults; None where it shows none of them."""
    first, summary = profile.sites[index], site.forward
    assert summary is not None
    if first.forward is None or faults[0].what == "constant":
        return _Effect(index, "", absorbed=False)
    if (gates := _flat_gates(profile, first)) is not None:
        text = f"{percent(gates)} of the values of {first.name}'s gates lie where these are flat"
        return _Effect(index, text, absorbed=False) if gates > limits.SATURATED else None
    scale, bias = scale_at(profile, first), _bias(profile, first)
    if first.units is not None and scale is not None:
        expected = math.hypot(scale * summary.rms, bias)
        small = all(fault.what == "too small" for fault in faults)
        if first.forward.rms < expected / _AGREES or (small and first.forward.rms > expected * _AGREES):
            # The model scales its input itself.
            return None
        if scale * summary.rms < bias and all(fault.what == "too large" for fault in faults):
            return None
    elif not is_norm(first) and first.forward.rms < math.exp(limits.STRAINED):
        return None
    if _saturates(first):
        if scale is not None and math.log(summary.rms) < abs(math.log(scale)):
            return None
        share = percent(first.flat_fraction)
        text = f"{share} of the inputs of {first.activation} at {first.name} lie where it is flat"
        return _Effect(index, text, absorbed=False)
    if all(fault.mild for fault in faults):
        return None
    absorbed = behind.is_sound_norm(index) if is_norm(first) else behind.is_absorbed(index)
    return _Effect(index, f"{first.name} has rms {number(first.forward.rms)}", absorbed)


def _flat_gates(profile: NetworkProfile, site: Site) -> float | None:
    """Return the share of a recurrent module's gate values in its first layer that are flat, None for other modules."""
    courses = [each for each in profile.time_courses if each.module == module_of(site.name)]
    shares = [share for course in courses if course.layer == 1 for gate in course.gates for share in gate.flat]
    return sum(shares) / len(shares) if shares else None


def _saturates(site: Site) -> bool:
    entry = find_activation(site.activation)
    bounded = entry is not None and entry.bounded
    return bounded and site.flat_fraction is not None and site.flat_fraction > limits.SATURATED


def _bias(profile: NetworkProfile, site: Site) -> float:
    return math.hypot(*(p.value.rms for p in profile.parameters_of(site) if "bias" in p.name.rpartition(".")[2]))


def _first_layers(profile: NetworkProfile, behind: Behind, index: int) -> list[int]:
    """Return the positions of the layers with weights, or norms, that an input enters.

    Past reshaping and pooling, and past sums of the input with itself, as over the neighbours in a graph.
    """
    sites = profile.sites
    whole = {at for at, site in enumerate(sites) if site.role == "input" and "float" not in site.dtype}
    entered, waiting = {index}, [*behind.fed(index)]
    # Of a layer that returns several tensors, or runs several times, the first one.
    of_module: dict[str, int] = {}
    while waiting:
        at = heappop(waiting)
        if at in entered:
            continue
        if sites[at].parameters or is_norm(sites[at]):
            of_module.setdefault(module_of(sites[at].name), at)
        elif sites[at].role in ("other", "residual") and entered.issuperset({*profile.graph.inputs[at]} - whole):
            entered.add(at)
            for fed in behind.fed(at):
                heappush(waiting, fed)
    return [*of_module.values()]


def _standardize(site: Site, faults: Collection[str]) -> Remedy:
    summary, name = site.forward, site.name
    assert summary is not None
    if "constant" in faults:
        return Remedy("measure", "profile a batch of samples that differ")
    # Each feature has a mean of its own where the samples are alike although the tensor's values differ.
    each = "unequal" in faults or ("off-centre" in faults and (summary.std / summary.rms) ** 2 >= limits.OFF_CENTRE)
    if each:
        text = f"standardize the input: subtract from each feature of {name} its mean, and divide it by its std"
        return Remedy("standardize", text, inputs={name: None})
    mean = 0.0 if abs(summary.mean) < summary.std / 4 else summary.mean
    centring = f"subtract the mean {number(mean)} of {name}, and divide" if mean else f"divide {name}"
    text = f"standardize the input: {centring} by its std {number(summary.std)}"
    return Remedy("standardize", text, inputs={name: (mean, summary.std)})
