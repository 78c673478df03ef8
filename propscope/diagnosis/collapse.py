"""Angular collapse: a layer no longer tells inputs apart, however healthy its size."""

from __future__ import annotations

import math
from collections.abc import Iterator

from propscope.diagnosis import limits
from propscope.diagnosis.advice import is_of_grid, new_start, of_model
from propscope.diagnosis.confidence import succession
from propscope.diagnosis.evidence import Evidence
from propscope.records.finding import Finding, Remedy
from propscope.records.network import Site


def collapse(evidence: Evidence) -> Iterator[Finding]:
    """Find from which site on the samples' vectors all point one way, or along one line.

    By the share of a pre-activation's second moment that differs between samples, 1 - mean cosine, and by the share
    outside of its first direction, as the effective rank tells. Strained below e^-6, broken where three layers are
    below eps (1.2e-7). What entered the network alike already is no fault of it: sites count from the first that is
    not collapsed.
    """
    at = [index for index, site in enumerate(evidence.sites) if _is_judged(site)]
    shares = {index: share for index in at if not math.isnan(share := _share(evidence, index))}
    apart = next((index for index, share in shares.items() if share >= limits.COLLAPSING), None)
    if apart is None:
        return
    found = [index for index, share in shares.items() if index > apart and share < limits.COLLAPSING]
    last = max(shares)
    if last not in found:
        # Where the samples come apart again, as behind a norm, what comes after can tell them apart.
        return
    start = next(i for i in found if all(shares[j] < limits.COLLAPSING for j in shares if j >= i))
    found = [index for index in found if index >= start]
    worst = min(found, key=lambda index: shares[index])
    lost = [index for index in found if shares[index] < limits.COLLAPSED]
    broken = len(lost) >= limits.COLLAPSED_LAYERS
    limit = limits.COLLAPSED if broken else limits.COLLAPSING
    cosine = evidence.mean(worst, "mean_cosine")
    aligned = 1 - abs(cosine) < limits.COLLAPSING
    what = "cosine between samples 1" if aligned else "effective rank 1: all samples lie on one line"
    shown = sum(_share_of(member.sites[worst]) < limit for member in evidence.members)
    first, end = evidence.sites[start], evidence.sites[worst]
    yield Finding(
        kind="collapse",
        severity="broken" if broken else "strained",
        direction="forward",
        sites=tuple(evidence.sites[index].name for index in found),
        message=f"from {first.name} on inputs are no longer told apart: {what} to {_to(shares[worst])} at {end.name}",
        cause=_cause(evidence, aligned),
        evidence={
            "share_apart": shares[worst],
            "limit": limit,
            "layers_collapsed": float(len(lost)),
            "mean_cosine": cosine,
            "effective_rank": evidence.mean(worst, "effective_rank"),
        },
        remedy=_remedy(evidence, first),
        confidence=succession(shown, len(evidence.members)),
        marks={evidence.sites[index].name: "alike" for index in found},
    )


def _is_judged(site: Site) -> bool:
    return site.samples >= limits.SAMPLES and site.role == "pre-activation"


def _share(evidence: Evidence, index: int) -> float:
    """Return the mean over seeds of the share that tells samples apart; NaN where no seed shows it."""
    known = [share for m in evidence.members if not math.isnan(share := _share_of(m.sites[index]))]
    return sum(known) / len(known) if known else math.nan


def _share_of(site: Site) -> float:
    if site.mean_cosine is None:
        return math.nan
    # On a line with samples on both sides of its origin cosines are 1 and -1: the rank sees it.
    rank = math.inf if site.effective_rank is None else site.effective_rank
    return min(1 - site.mean_cosine, limits.share_of_rank(rank))


def _to(share: float) -> str:
    return "the last digit" if share < limits.COLLAPSED else f"{share:.0e}"


def _cause(evidence: Evidence, aligned: bool) -> str:
    if aligned:
        return (
            "what all samples have in common (biases, the mean of the activation) passes every layer, their "
            "differences fade (the ordered phase): the last layer gives one answer to all"
        )
    return "the weights have a mean that is not zero: every unit of a layer sums the same thing"


def _remedy(evidence: Evidence, site: Site) -> Remedy:
    first = evidence.members[0]
    if not is_of_grid(first):
        return of_model(site.activation)
    return new_start(first, "mean zero, and a slope that keeps differences")
