"""Softmaxes that are one-hot from the start or have rows masked throughout, and a softmax that the model returns.

For logits that are independent and normal with a standard deviation of s >> 1 within a row, only rows whose two largest
logits are close are undecided. With p0 the density of their difference at 0, in units of s, the mean entropy of a row
is (pi^2 / 6) p0 / s, and the share of rows whose largest probability is below 0.93, where the slope p (1 - p) exceeds
0.07, is 2.6 p0 / s. Whatever the number of keys, the entropy is thus 0.63 nat times the share that still learns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from propscope.diagnosis import limits
from propscope.diagnosis.behind import behind_of
from propscope.diagnosis.evidence import Evidence
from propscope.records.finding import Finding, Remedy
from propscope.records.gains import name_pattern
from propscope.records.network import NetworkProfile, Parent, Site
from propscope.records.numerals import number, percent

_PRODUCTS = ("matmul", "bmm", "einsum")
# What leaves the axes of probabilities as they are.
_KEEPING = frozenset(("dropout", "Dropout", "to", "type_as", "contiguous"))
_RECURRENT = ("RNN", "LSTM", "GRU")


def one_hot_softmaxes(evidence: Evidence) -> Iterator[Finding]:
    """Find softmaxes in which more than half of the rows have decided before anything was learned.

    At an output a prior may decide, and trained attention may be sharp. Gumbel's softmax is drawn to be so.
    """
    if evidence.stage == "trained":
        return
    behind = evidence.once(behind_of)
    found = []
    for index, site in enumerate(evidence.sites):
        entropy, spread = evidence.mean(index, "attention_entropy"), evidence.mean(index, "logit_spread")
        if entropy < limits.ONE_HOT and spread > limits.SHARP and not behind.ends(index):
            found.append(_one_hot(evidence, site, entropy, spread))
    yield from _folded(found)


def masked_rows(evidence: Evidence) -> Iterator[Finding]:
    """Note softmaxes with rows that are masked throughout, yet finite; `nonfinite` finds those that are NaN.

    A finite mask makes such a row uniform over what it hides, and torch's own attention makes it zero. Both are
    harmless where nothing reads the row, as with a padded query.
    """
    found = []
    for index, site in enumerate(evidence.sites):
        share = masked_share(evidence, index)
        if share and not any(seen.nonfinite_count for m in evidence.members if (seen := m.sites[index].forward)):
            found.append(_masked(evidence, site, share))
    yield from _folded(found)


def _masked(evidence: Evidence, site: Site, share: float) -> Finding:
    return Finding(
        kind="stagnant",
        severity="note",
        direction="forward",
        sites=(site.name,),
        message=f"{site.name}: {said_of_rows(share)}",
        cause="all entries of such a row are masked: it is uniform over what the mask hides, or zero, whatever the "
        f"scores are; {MASKED_BY}",
        evidence={"masked_rows": share},
        remedy=Remedy("repair", UNMASK),
        confidence=evidence.shown_by_all,
        marks={site.name: "masked rows"},
    )


def _folded(findings: list[Finding]) -> Iterator[Finding]:
    """Yield the findings, those in the same place of several blocks as one."""
    alike: dict[str, list[Finding]] = {}
    for finding in findings:
        alike.setdefault(name_pattern(finding.sites[0]), []).append(finding)
    for first, *others in alike.values():
        marks = {name: mark for each in (first, *others) for name, mark in each.marks.items()}
        more = f", and {len(others)} more like it" if others else ""
        sites = (*first.sites, *(each.sites[0] for each in others))
        yield replace(first, sites=sites, message=first.message + more, marks=marks)


MASKED_BY = "a sample may be padding throughout, a padded query may be masked, or the mask may hide the diagonal"
UNMASK = "leave each row an entry, as the diagonal of a causal mask; leave padded queries out of the loss"


def masked_share(evidence: Evidence, index: int) -> float:
    """Return the share of the rows of a site's softmax that are masked throughout, 0 where that is not known."""
    share, spread = evidence.mean(index, "masked_rows"), evidence.mean(index, "logit_spread")
    return share if share > 0 and not spread > limits.UNMASKED else 0.0


def said_of_rows(share: float) -> str:
    """Return in words what share of a softmax's rows is masked throughout."""
    return f"{percent(share)} of the rows of its softmax are masked throughout"


def wrong_axes(evidence: Evidence) -> Iterator[Finding]:
    """Find softmaxes over the samples of a batch, and those of attention over another axis than that of the keys.

    The first axis counts as the samples only where every input, layer and output has it: a sequence whose steps come
    first, or a bag of instances, loses that axis before the output. Scores between the samples themselves, as in a
    graph, are no fault.
    """
    profile = (evidence.whole or evidence.members)[0]
    batch = _batch(profile)
    found = []
    for site in evidence.sites:
        axis, axes = site.softmax_axis, len(site.shape)
        if axis is None:
            continue
        scores = _is_of_scores(profile, site)
        if axis == 0 and batch and site.shape[0] % batch == 0 and not (scores and axes == 2):
            found.append(_wrong_axis(evidence, site, f"over the {batch} samples of the batch", scores))
        elif axis != axes - 1 and axes > 2 and scores and _weighs_directly(profile, site):
            found.append(_wrong_axis(evidence, site, "and not over the keys that the values are of", scores))
    yield from _folded(found)


def _batch(profile: NetworkProfile) -> int | None:
    """Return the number of samples where that is the first axis of all inputs, layers and outputs, else None."""
    sizes = {site.shape[:1] for site in profile.inputs if site.shape}
    size = sizes.pop()[0] if len(sizes) == 1 else 0
    if size < 2 or not profile.graph.known:
        return None
    for site, fed in zip(profile.sites, profile.graph.outputs, strict=True):
        # The last states of a recurrent layer have the samples as their second axis.
        state = site.kind in _RECURRENT and "[1]" in site.name
        axis = 1 if state else 0
        judged = state or ("[" not in site.name and (site.units or not fed))
        if judged and (len(site.shape) <= axis or site.shape[axis] % size):
            return None
    return size


def _is_of_scores(profile: NetworkProfile, site: Site) -> bool:
    """Return whether the entries of a softmax are products of two values."""
    return any(name in _PRODUCTS for parent in site.parents or () for name in parent.operations)


def _weighs_directly(profile: NetworkProfile, site: Site) -> bool:
    """Return whether probabilities weigh values by a product that sums over their last axis, with nothing before it.

    A layer that follows then has the axis of the queries in the same place.
    """
    for name in profile.graph.children_of(site.name):
        after = profile[name]
        for parent in after.parents or ():
            if parent.name != site.name:
                continue
            moves = [one for one in parent.operations if one not in _KEEPING]
            if moves[:1] and moves[0] in _PRODUCTS[:2] and site.shape[-2:-1] == after.shape[-2:-1] and after.units:
                return True
    return False


def _wrong_axis(evidence: Evidence, site: Site, over: str, scores: bool) -> Finding:
    change = "over the axis of the keys: dim=-1" if scores else "within each sample, over what is chosen from: dim=-1"
    return Finding(
        kind="saturated",
        severity="strained",
        direction="forward",
        sites=(site.name,),
        message=f"{site.name}: its softmax sums to 1 over axis {site.softmax_axis} of {tuple(site.shape)}, {over}",
        cause="its dim is another axis than that of what is chosen from, so that "
        + ("the weights of a query do not sum to 1" if scores else "what a sample gives depends on the others"),
        evidence={"axis": float(site.softmax_axis or 0)},
        remedy=Remedy("repair", f"take the softmax of {site.name} {change}"),
        confidence=evidence.shown_by_all,
        marks={site.name: "wrong axis"},
    )


def returned_softmax(evidence: Evidence) -> Iterator[Finding]:
    """Note a softmax that the model returns: cross entropy applies one itself."""
    behind = evidence.once(behind_of)
    for index, site in enumerate(evidence.sites):
        if site.kind.lower() == "softmax" and behind.ends(index):
            yield Finding(
                kind="saturated",
                severity="note",
                sites=(site.name,),
                message=f"the model returns probabilities, the softmax {site.name}",
                cause="torch's cross_entropy applies a softmax itself, which gives nearly even probabilities for "
                "numbers from 0 to 1",
                remedy=Remedy("repair", "return the logits if the loss is cross_entropy, or use nll_loss of their log"),
            )


def _one_hot(evidence: Evidence, site: Site, entropy: float, spread: float) -> Finding:
    keys = site.shape[-1] if site.kind.lower() == "softmax" and site.shape else 0
    of = f" of ln {keys} = {number(math.log(keys))}" if keys > 1 and entropy <= math.log(keys) else ""
    scaled = site.kind.lower() != "softmax"
    width = None if scaled else _head_width(evidence.members[0], site)
    usual = f", of which sqrt({width}) = {math.sqrt(width):.3g} is the usual factor" if width else ""
    what = "queries" if scaled else "scores"
    return Finding(
        kind="saturated",
        severity="strained",
        direction="backward",
        sites=(site.name,),
        message=f"{site.name}: the softmax is one-hot: the mean entropy of its rows is {number(entropy, 2)} nat{of}, "
        f"the standard deviation of the logits in a row {number(spread, 2)}",
        cause=f"the scores are {number(spread, 2)} times too large; a row that has decided passes no gradient to them",
        evidence={"attention_entropy": entropy, "logit_spread": spread, "limit": limits.ONE_HOT},
        remedy=Remedy("repair", f"divide the {what} by {number(spread, 2)}{usual}"),
        confidence=evidence.shown_by_all,
        marks={site.name: "one-hot"},
    )


def _scoring(profile: NetworkProfile, site: Site) -> list[Site]:
    """Return the layers with weights whose products the scores are, or which give the scores themselves."""
    names = [parent.name for parent in site.parents or ()]
    return [each for each in profile.sites if each.name in names and each.units and each.parameters]


def _head_width(profile: NetworkProfile, site: Site) -> int | None:
    """Return over how many features the scores are summed, None where that cannot be told."""
    scoring = [each for each in _scoring(profile, site) if _is_product(site, each)]
    if not scoring or not scoring[0].features or len(site.shape) < 3:
        return None
    width = scoring[0].features // (3 if _is_split(site, scoring[0]) else 1)
    heads = math.prod(site.shape[:-2]) / scoring[0].shape[0]
    return width // int(heads) if heads >= 1 and heads.is_integer() and width % heads == 0 else None


def _is_product(site: Site, source: Site) -> bool:
    """Return whether the scores are products of this layer's values that nothing has divided since."""
    for parent in _edges(site, source):
        at = max((at for at, name in enumerate(parent.operations) if name in _PRODUCTS), default=None)
        if at is not None and not {"div", "mul", "truediv"} & {*parent.operations[at:]}:
            return True
    return False


def _is_split(site: Site, source: Site) -> bool:
    return any({"chunk", "split", "unbind", "getitem"} & {*parent.operations} for parent in _edges(site, source))


def _edges(site: Site, source: Site) -> list[Parent]:
    return [parent for parent in site.parents or () if parent.name == source.name]
