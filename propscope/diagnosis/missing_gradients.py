"""Parameters that cannot learn, and profiles that cannot tell."""

from __future__ import annotations

import math
from collections.abc import Iterator

from propscope.diagnosis import limits
from propscope.diagnosis.confidence import succession
from propscope.diagnosis.evidence import Evidence, limits_of
from propscope.records.finding import Finding, Remedy
from propscope.records.network import DIRECTIONS, NetworkProfile, Parameter
from propscope.records.numerals import number

_FROZEN = "frozen"


def stagnant(evidence: Evidence) -> Iterator[Finding]:
    """Find parameters that no gradient reaches: frozen ones (a note), unused ones, and those that get zeros."""
    if not any(site.backward is not None and site.backward.count for m in evidence.members for site in m.sites):
        return
    first = evidence.members[0]
    reasons = {note.name: note.reason for note in first.coverage if note.what == "parameter"}
    still = [p.name for p in first.parameters if _is_still(p)]
    still = [name for name in still if all(name in _still_of(member) for member in evidence.members)]
    frozen = [name for name in still if reasons.get(name, "").startswith(_FROZEN)]
    others = [name for name in still if name not in frozen]
    learning = len(first.parameters) - len(still)
    for names, is_frozen in ((others, False), (frozen, True)):
        if names:
            yield _unmoved(evidence, names, frozen=is_frozen, learning=learning)


def _unmoved(evidence: Evidence, names: list[str], *, frozen: bool, learning: int) -> Finding:
    modules = tuple(dict.fromkeys(name.rpartition(".")[0] for name in names))
    first = evidence.members[0]
    matrices = [p.name for p in first.parameters if len(p.shape) > 1]
    broken = not frozen and bool(matrices) and all(name in names for name in matrices)
    many = f"{len(names)} parameters, from {names[0]} on, get" if len(names) > 1 else f"{names[0]} gets"
    return Finding(
        kind="stagnant",
        severity="broken" if broken else "note" if frozen else "strained",
        direction="backward",
        sites=modules,
        message=f"{many} no gradient{': frozen' if frozen else ''}",
        cause=(
            "requires_grad is False, perhaps on purpose: these keep their first values"
            if frozen
            else "the loss does not depend on them: unused, cut off by detach, or behind a zero"
        ),
        evidence={"parameters": float(len(names)), "learning": float(learning)},
        remedy=(
            Remedy("unfreeze", f"set requires_grad of {modules[0]} where it should learn")
            if frozen
            else Remedy("repair", f"use {modules[0] or names[0]} in the forward pass, or remove it")
        ),
        confidence=succession(len(evidence.members), len(evidence.members)),
        marks=dict.fromkeys(modules, "frozen" if frozen else "no gradient"),
    )


def _is_still(parameter: Parameter) -> bool:
    gradient = parameter.gradient
    return gradient is None or (gradient.count > 0 and gradient.rms == 0)


def _still_of(profile: NetworkProfile) -> frozenset[str]:
    return frozenset(parameter.name for parameter in profile.parameters if _is_still(parameter))


def insufficient(evidence: Evidence) -> Iterator[Finding]:
    """Say what the profiles cannot tell: no gradient, one layer, few samples, too few seeds near a limit."""
    first, sites = evidence.members[0], evidence.sites
    if not sites:
        yield _unknown("no site was recorded", "nothing ran, or a filter left nothing", "profile a forward pass")
        return
    if all(site.backward is None for site in sites):
        yield _unknown(
            "no gradient was seen: the forward pass alone is judged",
            "no backward pass ran, or the output needs no gradient",
            "profile with a loss",
        )
    if len(sites) < 2 or (evidence.layered and len(first.signal_sites) < 2):
        yield _unknown("one layer was seen: no gain can be measured", "a gain is between layers", "profile more layers")
    samples = max((site.samples for site in sites), default=0)
    if 0 < samples < limits.SAMPLES:
        yield _unknown(
            f"{samples} samples were seen: dead units and collapse are not judged below {limits.SAMPLES}",
            "a unit that is off on a few samples may be on for others",
            f"profile a batch of {limits.SAMPLES} or more",
            samples=float(samples),
        )
    yield from _near_a_limit(evidence)


def _near_a_limit(evidence: Evidence) -> Iterator[Finding]:
    for chain in evidence.chains:
        for direction in DIRECTIONS:
            for rising, last in ((True, limits.EXPLODED), (False, limits.VANISHED)):
                stretch = chain.worst(direction, rising=rising)
                if stretch is None or not 1 < abs(stretch.mean) < 2 * last:
                    continue
                low, high = sorted(map(abs, limits_of(evidence, stretch)))
                between = next((x for x in (limits.STRAINED, last) if low < x < high), None)
                if between is None:
                    continue
                seeds = len(stretch.change)
                yield _unknown(
                    f"{seeds} seed{'s' * (seeds != 1)} cannot tell on which side of the limit "
                    f"{number(math.exp(math.copysign(between, stretch.mean)), 2)} the {direction} factor lies: it is "
                    f"{number(math.exp(stretch.mean), 2)} here",
                    "networks of this width wander from seed to seed",
                    "profile more seeds (--seeds 5)",
                    seeds=float(seeds),
                )
                return


def _unknown(message: str, cause: str, remedy: str, **evidence: float) -> Finding:
    return Finding(
        kind="insufficient evidence",
        severity="note",
        sites=(),
        message=message,
        cause=cause,
        evidence=evidence,
        remedy=Remedy("measure", remedy),
    )
