"""Angular collapse: the outputs of a layer no longer distinguish its inputs, whatever their size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from propscope.diagnosis import limits
from propscope.diagnosis.advice import for_model, new_start_or
from propscope.diagnosis.behind import behind_of
from propscope.diagnosis.evidence import Evidence, succession
from propscope.records.finding import Finding, Remedy, Severity
from propscope.records.gains import vector_length
from propscope.records.network import NetworkProfile, Site

# What adds up values of several samples or positions, such as the neighbours in a graph or the tokens of a sentence.
_MIXING = frozenset((
    "matmul", "mm", "bmm", "einsum", "baddbmm", "addmm", "tensordot", "index_add", "scatter_add", "scatter_reduce",
    "segment_reduce", "mean", "avg_pool1d", "avg_pool2d", "scaled_dot_product_attention",
    "multi_head_attention_forward",
))  # fmt: skip
_MOST = 0.5
_AVERAGES = (
    "values are averaged over neighbours, in a graph or a sequence, again and again: each average leaves less of how "
    "they differ, whatever the weights (Li et al. 2018, oversmoothing; Dong et al. 2021, rank collapse)"
)
_KEEP_APART = (
    "put a residual sum around each average, or use fewer of them; smaller biases or other weights do not help"
)


def collapse(evidence: Evidence) -> Iterator[Finding]:
    """Find the site from which on the vectors of all samples point in one direction, or lie on one line.

    The measure is the share of a pre-activation's second moment that differs between samples: 1 - mean cosine, or the
    share outside of the first direction, from the effective rank, if that is smaller. A note below e^-6, strained where
    three layers are below 7e-5 or two below eps (1.2e-7), broken where three are below eps. Samples that are alike in
    the input are not the network's fault: only sites after the first one that is not collapsed count. Outputs do not,
    since they may start from a common guess, such as a prior bias, nor do vectors of fewer than 8 elements, which are
    alike by chance.
    """
    behind = evidence.once(behind_of)
    at = [index for index, site in enumerate(evidence.sites) if _is_judged(site) and not behind.is_output(index)]
    shares = {index: share for index in at if not math.isnan(share := _share(evidence, index))}
    apart = max((index for index, share in shares.items() if share >= limits.COLLAPSING), default=None)
    # Where the samples differ again later, as after a norm, the layers that follow can distinguish them.
    found = [index for index in shares if apart is not None and index > apart]
    if not found:
        return
    worst = min(found, key=lambda index: shares[index])
    lost = [index for index in found if shares[index] < limits.COLLAPSED]
    load = _load([shares[index] for index in found])
    # Two classes need one direction, which Adam finds in what rounding leaves: see `limits.VANISHED_OF_TWO`.
    of_adam = 0.0 if evidence.classes == 2 else load
    broken = len(lost) >= limits.COLLAPSED_LAYERS and of_adam > 0
    severity: Severity = "broken" if broken else "strained" if of_adam >= limits.SLOWED else "note"
    slowed = limits.COLLAPSED**limits.SLOWED
    limit = {"broken": limits.COLLAPSED, "strained": slowed, "note": limits.COLLAPSING}[severity]
    cosine = evidence.mean(worst, "mean_cosine")
    aligned = 1 - abs(cosine) < limits.COLLAPSING
    shown = sum(_share_of(member.sites[worst]) < limit for member in evidence.members)
    first, end = evidence.sites[found[0]], evidence.sites[worst]
    averaged = _averaged(evidence, worst)
    averages = averaged > _MOST
    otherwise, why = for_model(first.activation), "mean zero, and a slope that keeps differences"
    yield Finding(
        kind="collapse",
        severity=severity,
        direction="forward",
        sites=tuple(evidence.sites[index].name for index in found),
        message=f"from {first.name} on, the values hardly differ between inputs: at {end.name} "
        f"{_state(shares[worst], aligned)}",
        cause=_AVERAGES if averages else _cause(aligned),
        evidence={
            "share_apart": shares[worst],
            "limit": limit,
            "layers_collapsed": float(len(lost)),
            "adam_load": of_adam,
            "sgd_load": load,
            "mean_cosine": cosine,
            "effective_rank": evidence.mean(worst, "effective_rank"),
            "averaged": averaged,
        },
        remedy=Remedy("residual", _KEEP_APART) if averages else new_start_or(otherwise, evidence, why),
        confidence=succession(shown, len(evidence.members)),
        marks={evidence.sites[index].name: "alike" for index in found},
    )


def _load(shares: Sequence[float]) -> float:
    """Return ln of the third smallest share over ln eps, as an optimizer repairs two layers that are worse."""
    share = sorted([*shares, *[limits.COLLAPSING] * limits.COLLAPSED_LAYERS])[limits.COLLAPSED_LAYERS - 1]
    lost = sum(share < limits.COLLAPSED for share in shares) / limits.COLLAPSED_LAYERS
    return max(lost, math.log(max(share, limits.COLLAPSED)) / math.log(limits.COLLAPSED))


def _is_judged(site: Site) -> bool:
    wide = vector_length(site) >= limits.FEATURES
    return site.samples >= limits.SAMPLES and site.role == "pre-activation" and wide


def _averaged(evidence: Evidence, last: int) -> float:
    """Return the part that averages over samples or positions have in how alike samples became on the way to a site.

    In ln of the share that distinguishes samples, which a layer, its bias and its nonlinearity shrink as well.
    """
    profile, shares = evidence.members[0], {}
    alike = {True: 0.0, False: 0.0}
    for index, site in enumerate(evidence.sites[: last + 1]):
        shares[index] = math.nan if vector_length(site) < limits.FEATURES else _share(evidence, index)
        if index != last and not profile.graph.feeds(index, last):
            continue
        before = [shares[at] for at in profile.graph.inputs[index] if shares[at] > limits.COLLAPSED]
        if before and shares[index] > limits.COLLAPSED:
            alike[_mixes(profile, site)] += math.log(max(before) / shares[index])
    return max(alike[True], 0.0) / (max(alike[True], 0.0) + max(alike[False], 0.0) or 1.0)


def _mixes(profile: NetworkProfile, site: Site) -> bool:
    """Return whether samples or positions are added up between a site and those before it, not only features."""
    own = any(len(parameter.shape) > 1 for parameter in profile.parameters_of(site))
    return any(
        # The last one is the product with the layer's own weights.
        _MIXING.intersection(parent.operations[:-1] if own and site.role != "attention" else parent.operations)
        for parent in site.parents or ()
    )


def _share(evidence: Evidence, index: int) -> float:
    """Return the mean over seeds of the share that distinguishes samples; NaN where no seed shows it."""
    known = [share for m in evidence.members if not math.isnan(share := _share_of(m.sites[index]))]
    return sum(known) / len(known) if known else math.nan


def _share_of(site: Site) -> float:
    if site.mean_cosine is None:
        return math.nan
    # Samples on both sides of the origin of a line have cosines of 1 and -1, so only the rank shows the line.
    rank = math.inf if site.effective_rank is None else site.effective_rank
    return min(1 - site.mean_cosine, limits.share_of_rank(rank))


def _state(share: float, aligned: bool) -> str:
    size = "less than 1.2e-07" if share < limits.COLLAPSED else f"{share:.0e}"
    if aligned:
        return f"the cosine between samples differs from 1 by {size}"
    return f"all samples lie on one line except for {size} of their mean square (effective rank 1)"


def _cause(aligned: bool) -> str:
    if aligned:
        return (
            "what all samples have in common (biases, the mean of the activation) passes every layer, while their "
            "differences shrink (the ordered phase): the last layer gives nearly the same output for all"
        )
    return "the weights have a mean that is not zero, so every unit of a layer computes nearly the same sum"
