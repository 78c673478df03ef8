"""What the profiles cannot tell, and whether enough was seen to call the network healthy."""

from __future__ import annotations

import math
from collections.abc import Iterator

from propscope.diagnosis import limits
from propscope.diagnosis.evidence import Evidence, change_interval
from propscope.records.finding import Finding, Remedy
from propscope.records.network import DIRECTIONS, NetworkProfile
from propscope.records.numerals import counted, number

# How the coverage's reasons end.
_UNRECORDED = "not recorded"


def unmeasured(evidence: Evidence) -> str:
    """Return why too little was seen to call the network healthy, "" where enough was."""
    sites = evidence.sites
    if not sites:
        return f"no site was recorded: {_why_no_site(evidence.members[0])}"
    if not any(site.forward is not None and site.forward.count for site in sites):
        return "no value was seen: the batch is empty; give one with at least one sample"
    if [site.name for site in sites] == [""] and sum(len(p.shape) > 1 for p in evidence.members[0].parameters) > 1:
        return "only the output of the model was seen, and nothing inside: profile it as it was before it was exported"
    if not any(site.backward is not None and site.backward.count for site in sites):
        reasons = [note.reason for note in evidence.members[0].coverage if note.what == "output"]
        why = f" ({reasons[0]})" if reasons else ""
        return f"no gradient was seen{why}: the forward pass alone does not show whether it learns; run a backward pass"
    return ""


def _why_no_site(profile: NetworkProfile) -> str:
    reasons = [note.reason for note in profile.coverage if note.what in ("module", "model", "output")]
    return reasons[0] if reasons else "nothing ran, or the filters left out everything"


def unrecorded(profile: NetworkProfile) -> dict[str, str]:
    """Return the reasons of parameters whose gradient was not recorded though there may be one, by name."""
    notes = (note for note in profile.coverage if note.what == "parameter")
    return {note.name: note.reason for note in notes if note.reason.endswith(_UNRECORDED)}


def insufficient_in_grid(evidence: Evidence) -> Iterator[Finding]:
    """Find what the profiles of a network of the grid cannot tell; see `insufficient_in_model`."""
    yield from _insufficient(evidence, len(evidence.members[0].signal_sites))


def insufficient_in_model(evidence: Evidence) -> Iterator[Finding]:
    """Find what the profiles cannot tell: no gradient, one layer, few samples, other sites, few seeds near a limit."""
    yield from _insufficient(evidence, len(evidence.sites))


def _insufficient(evidence: Evidence, layers: int) -> Iterator[Finding]:
    sites = evidence.sites
    if evidence.left_out:
        yield _left_out(evidence)
    if not sites:
        yield _unknown(
            "no site was recorded", "nothing ran, or the filters left out everything", "profile a forward pass"
        )
        return
    if all(site.backward is None for site in sites):
        yield _unknown(
            "no gradient was seen: only the forward pass is judged",
            "no backward pass ran, or the output needs no gradient",
            "profile with a loss",
        )
    if hidden := unrecorded(evidence.members[0]):
        (name, reason), *others = hidden.items()
        more = f", and those of {len(others)} more," if others else ""
        yield _unknown(
            f"the gradient of {name}{more} is not judged",
            reason,
            "look at .grad after the step; the gradients at the sites are judged",
        )
    if layers < 2:
        yield _unknown("one layer was seen: no gain can be measured", "a gain compares layers", "profile more layers")
    samples = max((site.samples for site in sites), default=0)
    if 0 < samples < limits.SAMPLES:
        yield _unknown(
            f"{counted(samples, 'sample')} {'was' if samples == 1 else 'were'} seen: dead units and collapse are only "
            f"judged from {limits.SAMPLES} on",
            "a unit that is off on a few samples may be on for others",
            f"profile a batch of {limits.SAMPLES} or more",
            samples=float(samples),
        )
    yield from _near_a_limit(evidence)


def _near_a_limit(evidence: Evidence) -> Iterator[Finding]:
    # The limits are for what is yet to be learned, and seeds differ in what was drawn.
    if evidence.stage == "trained":
        return
    for chain in evidence.chains:
        for direction in DIRECTIONS:
            for rising, last in ((True, limits.EXPLODED), (False, limits.VANISHED)):
                stretch = chain.worst(direction, rising=rising)
                if stretch is None or not 1 < abs(stretch.mean) < 2 * last:
                    continue
                low, high = sorted(map(abs, change_interval(evidence, stretch)))
                between = next((x for x in (limits.SLOWED * last, last) if low < x < high), None)
                if between is None:
                    continue
                seeds = len(stretch.change)
                limit = math.copysign(between, stretch.mean)
                yield _unknown(
                    f"{direction} factor {number(math.exp(stretch.mean), 2)}; with "
                    f"{'one seed' if seeds == 1 else f'{seeds} seeds'} it could be "
                    f"{'above' if limit > stretch.mean else 'below'} the limit of {number(math.exp(limit), 2)}",
                    "networks of this width differ from seed to seed",
                    "profile more seeds (--seeds 5)",
                    seeds=float(seeds),
                )
                return


def _left_out(evidence: Evidence) -> Finding:
    names = {site.name for site in evidence.sites}
    others = [site.name for profile in evidence.left_out for site in profile.sites]
    kept = {site.name for profile in evidence.left_out for site in profile.sites}
    unlike = next((name for name in others if name not in names), None)
    lacking = next((site.name for site in evidence.sites if site.name not in kept), None)
    why = (
        f"they have {unlike}, which the first seed does not have"
        if unlike is not None
        else f"they lack {lacking}, which the first seed has"
        if lacking is not None
        else "their sites ran in another order"
    )
    count, seeds = len(evidence.left_out), len(evidence.left_out) + len(evidence.members)
    return _unknown(
        f"{count} of {seeds} seeds {'was' if count == 1 else 'were'} not judged, because the sites differ from those "
        f"of the first seed: {why}",
        "seeds are judged together, site by site",
        "diagnose the other seeds by themselves",
        left_out=float(count),
        seeds=float(seeds),
    )


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
