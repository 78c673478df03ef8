"""What is wrong with units: they are all alike, saturated, or off."""

from __future__ import annotations

import math
from collections.abc import Iterator

from propscope.diagnosis import limits
from propscope.diagnosis.advice import new_start_or
from propscope.diagnosis.evidence import Evidence, succession
from propscope.diagnosis.missing_gradients import stopped_sites
from propscope.diagnosis.weights import bias_at
from propscope.records.activations import find_activation
from propscope.records.finding import Finding, Remedy, Severity
from propscope.records.gains import extent
from propscope.records.network import NetworkProfile, Parameter, Site
from propscope.records.numerals import percent


def symmetric_in_grid(evidence: Evidence) -> Iterator[Finding]:
    """Find layers whose units all equal one another; gradient descent keeps them equal (Rumelhart et al. 1986)."""
    if hidden := _symmetric(evidence):
        yield _equal(evidence, hidden, "broken")


def symmetric_in_model(evidence: Evidence) -> Iterator[Finding]:
    """Find the same in a model; a layer whose units are all zero is left to the rules for zeros.

    Equal units part in the first step where what follows tells them apart: the gradient of each is its own column of
    the next weights. So a layer is at fault only where no weight that follows has rows that differ.
    """
    hidden = [index for index in _symmetric(evidence) if not _is_zero(evidence.sites[index])]
    told_apart = _told_apart(evidence.members[0])
    if constant := [index for index in hidden if evidence.sites[index].name not in told_apart]:
        yield _equal(evidence, constant, "broken")


def _told_apart(profile: NetworkProfile) -> set[str]:
    """Return the sites whose values enter a weight next that has rows which differ from one another.

    That is the first matrix on some way; none where the graph is not known.
    """
    found: set[str] = set()
    for site in reversed(profile.sites):
        matrices = [parameter for parameter in profile.parameters_of(site) if len(parameter.shape) > 1]
        if any(map(_has_unlike_rows, matrices)) if matrices else site.name in found:
            found |= {parent.name for parent in site.parents or ()}
    return found


def _has_unlike_rows(parameter: Parameter) -> bool:
    symmetric = parameter.symmetric_units
    return symmetric is not None and symmetric < parameter.shape[0] and parameter.value.rms > 0


def _symmetric(evidence: Evidence) -> list[int]:
    """Return the positions of the layers, except the output, whose two or more units are all equal in some seed."""
    return [
        index
        for index, sites in evidence.columns()
        if any(map(_all_alike, sites)) and sites[0].role != "output" and (sites[0].units or 0) > 1
    ]


def _equal(evidence: Evidence, hidden: list[int], severity: Severity) -> Finding:
    first = evidence.sites[hidden[0]]
    shown = sum(_all_alike(member.sites[hidden[0]]) for member in evidence.members)
    zero = _is_zero(first)
    return Finding(
        kind="symmetric",
        severity=severity,
        sites=tuple(evidence.sites[index].name for index in hidden),
        message=f"all {first.units} units of {first.name} are {'zero' if zero else 'equal'} on all {first.samples} "
        "samples",
        cause="equal rows of a weight get equal gradients and stay equal, so the layer acts as a single unit",
        evidence={
            "layers": float(len(hidden)),
            "units": float(first.units or 0),
            "equal": float(first.symmetric_units or 0),
        },
        remedy=_drawn(evidence, first),
        confidence=succession(shown, len(evidence.members)),
        marks={evidence.sites[index].name: "zero" if zero else "symmetric" for index in hidden},
    )


def _is_zero(site: Site) -> bool:
    return site.forward is not None and site.forward.rms == 0


def saturated(evidence: Evidence) -> Iterator[Finding]:
    """Find layers whose bounded activation is flat on more than half of its inputs, and not by their bias."""
    stopped = evidence.once(stopped_sites)
    found = [
        index
        for index, site in enumerate(evidence.sites)
        if _bounded(evidence, index) and _flat(evidence, index) > limits.SATURATED and site.name not in stopped
        # A bias that saturates a layer is found as such, and is meant at a gate and at an output.
        if (bias := bias_at(evidence.members[0], site)) is None or bias.share < 0.5
    ]
    if found:
        worst = max(found, key=lambda index: _flat(evidence, index))
        site, share = evidence.sites[worst], _flat(evidence, worst)
        yield Finding(
            kind="saturated",
            severity="strained",
            direction="backward",
            sites=tuple(evidence.sites[index].name for index in found),
            message=f"{percent(share)} of the inputs of {site.activation} at {site.name} lie where it is flat (slope "
            "below 7% of the largest)",
            cause=f"the inputs are too large: their rms is {_rms(site):.2g}",
            evidence={"flat_fraction": share, "limit": limits.SATURATED, "layers": float(len(found))},
            remedy=_smaller(evidence, site),
            confidence=_share_of_seeds(evidence, worst, limits.SATURATED),
            marks={evidence.sites[index].name: "saturated" for index in found},
        )


def inactive_in_grid(evidence: Evidence) -> Iterator[Finding]:
    """Find layers that pass less than a tenth of their inputs, or most of whose units are off; broken if all are."""
    dead = _mostly_dead(evidence)
    yield from _inactive(evidence, _mostly_flat(evidence), dead, "broken" if 1.0 in dead.values() else "strained")


def inactive_in_model(evidence: Evidence) -> Iterator[Finding]:
    """Find the same in a model: never broken, since signals may pass beside a layer, and not for a flat softplus.

    A layer that is off altogether and passes no gradient is found where the gradient is lost. Values that are exactly
    zero, all of them, are not negative: zero weights make them, as at the end of a branch, and are judged themselves.
    """
    # The relative slope of softplus stays near 1 where it gives a small positive number, such as a step size.
    left = {i for i, site in enumerate(evidence.sites) if site.activation.lower() == "softplus" or _is_zero(site)}
    flat = [index for index in _mostly_flat(evidence) if index not in left]
    dead = {index: share for index, share in _mostly_dead(evidence).items() if index not in left}
    yield from _inactive(evidence, flat, dead, "strained")


def _mostly_flat(evidence: Evidence) -> list[int]:
    return [
        index
        for index, site in enumerate(evidence.sites)
        if not _bounded(evidence, index) and _flat(evidence, index) > _flat_limit(evidence, site, index)
    ]


def _flat_limit(evidence: Evidence, site: Site, index: int) -> float:
    """Return the largest share of flat inputs in a sound layer: as of dead units where its samples are alike.

    Then a unit is off on all of them or on none, and the share is as uncertain as its units are few.
    """
    cosine = evidence.mean(index, "mean_cosine")
    if not site.units or cosine < 0.5:
        return limits.INACTIVE
    return max(limits.INACTIVE, _dead_limit((site,)))


def _mostly_dead(evidence: Evidence) -> dict[int, float]:
    """Return the share of dead units by position, for the layers where it is above the limit.

    Where it is above that of no layer, but above that of all layers together, those with more than half.
    """
    judged = {index: sites for index, sites in evidence.columns() if not _bounded(evidence, index) and _dead(sites) > 0}
    alone = {index: share for index, sites in judged.items() if (share := _dead(sites)) > _dead_limit(sites)}
    together = tuple(site for sites in judged.values() for site in sites)
    if alone or _dead(together) <= max(_dead_limit(together), limits.DEAD_OVERALL):
        return alone
    return {index: share for index, sites in judged.items() if (share := _dead(sites)) > limits.DEAD}


def _inactive(evidence: Evidence, flat: list[int], dead: dict[int, float], severity: Severity) -> Iterator[Finding]:
    stopped = evidence.once(stopped_sites)
    found = [index for index in sorted({*flat, *dead}) if evidence.sites[index].name not in stopped]
    if not found:
        return
    site, index = evidence.sites[found[0]], found[0]
    if index in dead:
        message = f"{percent(dead[index])} of the units of {site.name} are off on all {site.samples} samples"
    else:
        share = percent(_flat(evidence, index))
        message = f"{share} of the inputs of {site.activation} at {site.name} lie where it is off"
    yield Finding(
        kind="inactive",
        severity=severity,
        sites=tuple(evidence.sites[i].name for i in found),
        message=message,
        cause="the inputs of these units are negative on every sample, because of a bias, a large step, or weights "
        "with a mean that is not zero",
        evidence={
            "dead_share": dead.get(index, math.nan),
            "flat_fraction": _flat(evidence, index),
            "limit": _dead_limit((site,)) if index in dead else limits.INACTIVE,
            "layers": float(len(found)),
        },
        remedy=_less_negative(evidence, site),
        confidence=succession(sum(_is_off(member.sites[index]) for member in evidence.members), len(evidence.members)),
        marks={evidence.sites[i].name: "dead" if i in dead else "inactive" for i in found},
    )


def _all_alike(site: Site) -> bool:
    return bool(site.units and site.symmetric_units == site.units)


def _is_off(site: Site) -> bool:
    return _dead((site,)) > _dead_limit((site,)) or (site.flat_fraction or 0.0) > limits.INACTIVE


def _dead(sites: tuple[Site, ...]) -> float:
    """Return the share of dead units over all members together; 0 where there are too few samples to tell."""
    units = sum(site.units or 0 for site in sites if site.dead_units is not None)
    if not units or any(site.samples * extent(site) < limits.SAMPLES for site in sites):
        return 0.0
    return sum(site.dead_units or 0 for site in sites) / units


def _dead_limit(sites: tuple[Site, ...]) -> float:
    """Return the largest share of dead units in a sound layer: 1/2 + 3 sd, with sd = 1 / (2 sqrt(units))."""
    return limits.DEAD + 1.5 / math.sqrt(sum(site.units or 0 for site in sites) or 1)


def _flat(evidence: Evidence, index: int) -> float:
    share = evidence.mean(index, "flat_fraction")
    return 0.0 if math.isnan(share) else share


def _bounded(evidence: Evidence, index: int) -> bool:
    """Return whether a bounded function follows; one that is flat only where it gives zero acts as a rectifier.

    So does hardtanh(0, 20), as long as few values reach its upper end.
    """
    site, member = evidence.sites[index], evidence.members[0]
    if (entry := find_activation(site.activation)) is None or not entry.bounded:
        return False
    given = (member[name] for name in member.graph.children_of(site.name))
    return not any(
        out.kind.lower() == site.activation.lower()
        and out.forward is not None
        and out.forward.min == 0
        and out.forward.zero_fraction > 0.9 * _flat(evidence, index)
        for out in given
    )


def _rms(site: Site) -> float:
    return site.forward.rms if site.forward is not None else math.nan


def _share_of_seeds(evidence: Evidence, index: int, limit: float) -> float:
    shown = sum((member.sites[index].flat_fraction or 0.0) > limit for member in evidence.members)
    return succession(shown, len(evidence.members))


def _drawn(evidence: Evidence, site: Site) -> Remedy:
    text = f"draw the weights of {site.name} at random: with zeros or constants its units stay equal"
    return new_start_or(Remedy("repair", text), evidence, "random weights make units differ")


def _smaller(evidence: Evidence, site: Site) -> Remedy:
    factor = 1 / _rms(site) if _rms(site) > 0 else 1.0
    scale = Remedy(
        "scale",
        f"multiply the weight std of {site.name} by {factor:.2g}, which brings its output to rms 1",
        factors={site.name.split("#")[0]: factor},
    )
    return new_start_or(scale, evidence, "weights of this size keep the inputs where the activation has a slope")


def _less_negative(evidence: Evidence, site: Site) -> Remedy:
    text = f"set the bias of {site.name} to zero and draw its weights with mean zero"
    return new_start_or(Remedy("repair", text), evidence, "weights of mean zero, biases of zero")
