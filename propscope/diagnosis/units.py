"""What is wrong with single units: they are all alike, flat, or off."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from propscope.diagnosis import limits
from propscope.diagnosis.advice import is_of_grid, new_start
from propscope.diagnosis.confidence import succession
from propscope.diagnosis.evidence import Evidence
from propscope.records.finding import Finding, Remedy
from propscope.records.gains import extent
from propscope.records.network import Site
from propscope.records.numerals import percent


def symmetric(evidence: Evidence) -> Iterator[Finding]:
    """Find layers each of whose units equals another: gradient descent keeps them equal (Rumelhart et al. 1986)."""
    shown = [_count(sites, _all_alike) for _, sites in evidence.columns()]
    # A readout of one unit, or a layer that is a number wide, has nothing to tell apart; nor does a network's output.
    hidden = [
        i for i, site in enumerate(evidence.sites) if shown[i] and site.role != "output" and (site.units or 0) > 1
    ]
    if evidence.layered:
        groups = [hidden]
    else:
        # A branch that starts at zero says nothing of the layers that are constant, and the other way round.
        groups = [[i for i in hidden if _is_zero(evidence.sites[i]) == zero] for zero in (False, True)]
    for group in groups:
        if group:
            yield _equal(evidence, group, shown[group[0]])


def _equal(evidence: Evidence, hidden: list[int], shown: int) -> Finding:
    first = evidence.sites[hidden[0]]
    zero = _is_zero(first)
    what = "are zero" if zero else "equal one another"
    return Finding(
        kind="symmetric",
        # Outside of a chain a branch that starts at zero is an old and good idea (Zhang et al. 2019, Fixup): others go
        # around it. Where none does, or its peers are not zero, that is found by the weights and by the signal.
        severity="broken" if evidence.layered or not zero else "note",
        sites=tuple(evidence.sites[index].name for index in hidden),
        message=f"all {first.units} units of {first.name} {what} on all {first.samples} samples",
        cause="rows of the weight that are equal get equal gradients and stay equal: the layer is one unit wide",
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
    """Find layers whose bounded activation is flat on more than half of its input."""
    found = [i for i, site in enumerate(evidence.sites) if _bounded(site) and _flat(evidence, i) > limits.SATURATED]
    if found:
        worst = max(found, key=lambda index: _flat(evidence, index))
        site, share = evidence.sites[worst], _flat(evidence, worst)
        yield Finding(
            kind="saturated",
            severity="strained",
            direction="backward",
            sites=tuple(evidence.sites[index].name for index in found),
            message=f"{percent(share)} of the input of {site.activation} at {site.name} lie where it is flat",
            cause=f"its input is too large: rms {_rms(site):.2g} where the slope has fallen to 7% of its largest",
            evidence={"flat_fraction": share, "limit": limits.SATURATED, "layers": float(len(found))},
            remedy=_smaller(evidence, site),
            confidence=_share_of_seeds(evidence, worst, limits.SATURATED),
            marks={evidence.sites[index].name: "saturated" for index in found},
        )


def inactive(evidence: Evidence) -> Iterator[Finding]:
    """Find layers of a rectifier that pass less than a tenth of their input, or most of whose units are off."""
    flat = [
        i
        for i, site in enumerate(evidence.sites)
        # A softplus that makes a small positive number, as a step size, changes it by as much as its input changes.
        if not _bounded(site)
        and (evidence.layered or site.activation.lower() != "softplus")
        and _flat(evidence, i) > limits.INACTIVE
    ]
    dead = {i: share for i, sites in evidence.columns() if (share := _dead(sites)) > _dead_limit(sites)}
    found = sorted({*flat, *dead})
    if not found:
        return
    site, index = evidence.sites[found[0]], found[0]
    all_off = [i for i in found if dead.get(i, 0.0) == 1.0 and evidence.layered]
    if index in dead:
        message = f"{percent(dead[index])} of the units of {site.name} are off on all {site.samples} samples"
    else:
        message = f"{percent(_flat(evidence, index))} of the input of {site.activation} at {site.name} are off"
    yield Finding(
        kind="inactive",
        severity="broken" if all_off else "strained",
        sites=tuple(evidence.sites[i].name for i in found),
        message=message,
        cause="the input of these units is negative throughout (a bias, a large step, a mean that is not zero)",
        evidence={
            "dead_share": dead.get(index, math.nan),
            "flat_fraction": _flat(evidence, index),
            "limit": _dead_limit((site,)) if index in dead else limits.INACTIVE,
            "layers": float(len(found)),
        },
        remedy=_less_negative(evidence, site),
        confidence=succession(_count(tuple(m.sites[index] for m in evidence.members), _is_off), len(evidence.members)),
        marks={evidence.sites[i].name: "dead" if i in dead else "inactive" for i in found},
    )


def _all_alike(site: Site) -> bool:
    return bool(site.units and site.symmetric_units == site.units)


def _is_off(site: Site) -> bool:
    return _dead((site,)) > _dead_limit((site,)) or (site.flat_fraction or 0.0) > limits.INACTIVE


def _dead(sites: tuple[Site, ...]) -> float:
    """Return the share of units dead in all members together; 0 where it rests on too few samples to tell."""
    units = sum(site.units or 0 for site in sites if site.dead_units is not None)
    if not units or any(site.samples * extent(site) < limits.SAMPLES for site in sites):
        return 0.0
    return sum(site.dead_units or 0 for site in sites) / units


def _dead_limit(sites: tuple[Site, ...]) -> float:
    """Return the share of dead units that a sound layer stays below: half, and three standard deviations of a coin."""
    return limits.DEAD + 1.5 / math.sqrt(sum(site.units or 0 for site in sites) or 1)


def _flat(evidence: Evidence, index: int) -> float:
    share = evidence.mean(index, "flat_fraction")
    return 0.0 if math.isnan(share) else share


def _bounded(site: Site) -> bool:
    return site.activation.lower() in limits.BOUNDED


def _rms(site: Site) -> float:
    return site.forward.rms if site.forward is not None else math.nan


def _count(sites: tuple[Site, ...], holds: Callable[[Site], bool]) -> int:
    return sum(map(holds, sites))


def _share_of_seeds(evidence: Evidence, index: int, limit: float) -> float:
    shown = sum((member.sites[index].flat_fraction or 0.0) > limit for member in evidence.members)
    return succession(shown, len(evidence.members))


def _drawn(evidence: Evidence, site: Site) -> Remedy:
    first = evidence.members[0]
    if is_of_grid(first):
        return new_start(first, "random weights tell units apart")
    return Remedy("repair", f"draw the weights of {site.name} at random: zeros and constants leave one unit")


def _smaller(evidence: Evidence, site: Site) -> Remedy:
    first = evidence.members[0]
    if is_of_grid(first):
        return new_start(first, "weights of this size keep its input where it has a slope")
    factor = 1 / _rms(site) if _rms(site) > 0 else 1.0
    return Remedy(
        "scale",
        f"multiply the weight std of {site.name} by {factor:.2g}, which brings its output to rms 1",
        factors={site.name.split("#")[0]: factor},
    )


def _less_negative(evidence: Evidence, site: Site) -> Remedy:
    first = evidence.members[0]
    if is_of_grid(first):
        return new_start(first, "weights of mean zero, biases of zero")
    text = f"set the bias of {site.name} to zero and draw its weights with mean zero (inactive units)"
    return Remedy("repair", text)
