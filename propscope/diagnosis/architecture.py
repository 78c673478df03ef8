"""Parts unlike their peers: an activation of another kind, a missing norm, a sum that adds one summand twice.

None of these has to change the size of the signal at the start, because an initializer may keep it. The same place in
the other blocks of the network shows what was intended.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from propscope.diagnosis import limits
from propscope.diagnosis.evidence import Evidence, module_of, succession
from propscope.records.finding import Finding, Kind, Remedy
from propscope.records.gains import input_rms, is_norm, name_pattern
from propscope.records.network import Direction, NetworkProfile, Site
from propscope.records.numerals import number, percent

_PEERS = 2
# One of five without a norm is as often a choice as a slip (a first or last layer, embeddings); one of six is a slip.
_FOLLOWED = 6
# Embeddings of word, position and type, or stream, attention and MLP: three summands are usual.
_SUMMANDS = 3
# A correlation of 1, with a margin for rounding and sampling.
_ONE = 1.01


def odd_kinds(evidence: Evidence) -> Iterator[Finding]:
    """Find activations of another kind than in the same place of other blocks, which hide how samples differ."""
    groups: dict[str, dict[str, int]] = defaultdict(dict)
    for index, site in enumerate(evidence.sites):
        name = module_of(site.name)
        if site.role == "activation":
            groups[name_pattern(site.name)].setdefault(name, index)
    for pattern, group in groups.items():
        kinds = Counter(evidence.sites[index].kind.lower() for index in group.values())
        usual, common = kinds.most_common(1)[0]
        if common < _PEERS or 2 * common <= len(group):
            continue
        if pattern.endswith("*"):
            # A sequence of layers may well end in an activation of another kind.
            group.popitem()
        peers = [index for index in group.values() if evidence.sites[index].kind.lower() == usual]
        share = statistics.median(_varying(evidence, index) for index in peers)
        for index in sorted({*group.values()} - {*peers}):
            own = _varying(evidence, index)
            # This layer loses half of what distinguishes samples, and its peers do not.
            if own < share * limits.HIDDEN:
                yield _unlike(evidence, index, evidence.sites[peers[0]].kind, own, share)


def _varying(evidence: Evidence, index: int) -> float:
    """Return var / E[x^2] of a site's values, the geometric mean over seeds; NaN where it is unknown."""
    seen = [s for m in evidence.members if (s := m.sites[index].forward) is not None and s.rms > 0 and s.std > 0]
    return math.exp(statistics.fmean(2 * math.log(s.std / s.rms) for s in seen)) if seen else math.nan


def _unlike(evidence: Evidence, index: int, usual: str, own: float, share: float) -> Finding:
    site = evidence.sites[index]
    return Finding(
        kind="collapse",
        severity="strained",
        direction="forward",
        sites=(site.name,),
        message=f"{site.name} is {site.kind}, and the others in the same place are {usual}: {percent(own)} of its "
        f"mean square varies, {percent(share)} of theirs",
        cause="its output is nearly the same for all samples, and its small slope shrinks the gradient",
        evidence={"share_varying": own, "usual": share, "limit": share * limits.HIDDEN},
        remedy=Remedy("activation", f"use {usual} for {module_of(site.name)} too"),
        confidence=succession(len(evidence.members), len(evidence.members)),
        marks={site.name: f"not {usual}"},
    )


def missing_norms(evidence: Evidence) -> Iterator[Finding]:
    """Find sites without a norm where other blocks have one, or where other sites of their kind are followed by one."""
    if at := {*_not_in_block(evidence.sites), *_not_behind(evidence.members[0])}:
        norm_sizes = [_rms(evidence, index) for index, site in enumerate(evidence.sites) if is_norm(site)]
        usual = statistics.median(size for size in norm_sizes if size > 0)
        for index in sorted(at):
            yield _without_norm(evidence, index, usual)


def _not_in_block(sites: tuple[Site, ...]) -> Iterator[int]:
    """Yield each site that has no norm before it, where most blocks of its family have one."""
    blocks: dict[str, dict[str, int]] = defaultdict(dict)
    for index, site in enumerate(sites):
        parts = site.name.split(".")
        level = next((number for number, part in enumerate(parts) if part.isdecimal()), len(parts))
        if level < len(parts) - 1:
            blocks[".".join(parts[: level + 1])][".".join(parts[level + 1 :])] = index
    families: dict[str, list[str]] = defaultdict(list)
    for block in blocks:
        families[name_pattern(block)].append(block)
    for family in families.values():
        norms = {
            p: 0 for b in family for p, i in blocks[b].items() if is_norm(sites[i]) and not p.split(".")[-1].isdecimal()
        }
        for norm in norms:
            have = {block: 0 for block in family if norm in blocks[block]}
            # A majority, so at least two of three.
            if 2 * len(have) <= len(family):
                continue
            for block in family:
                if block not in have and (at := _behind(blocks, have, blocks[block], norm)) is not None:
                    yield at


def _behind(blocks: dict[str, dict[str, int]], have: Iterable[str], lacking: dict[str, int], norm: str) -> int | None:
    """Return the site that would follow the missing norm; None where the layer before that norm is missing too."""
    for block in have:
        order = list(blocks[block])
        at = order.index(norm)
        if at and order[at - 1] not in lacking:
            return None
        if at + 1 < len(order) and order[at + 1] in lacking:
            return lacking[order[at + 1]]
    return None


def _not_behind(profile: NetworkProfile) -> Iterator[int]:
    """Yield the site after the only site of its kind without a norm after it, where five or more others have one."""
    sites, fed = profile.sites, _fed(profile)
    followers: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, site in enumerate(sites):
        kind = "sum" if site.branch_share is not None else site.kind
        follower = fed[index]
        if follower is None or is_norm(site) or site.role in ("activation", "output", "embedding", "attention"):
            continue
        if kind == "sum" and sites[follower].branch_share is not None:
            continue
        followers[kind].append((index, follower))
    for kind, pairs in followers.items():
        without = [pair for pair in pairs if not is_norm(sites[pair[1]])]
        # The last layer has no norm on purpose. The last sum should have one: a pre-norm network ends with a norm.
        if len(pairs) >= _FOLLOWED and len(without) == 1 and (kind == "sum" or without[0] != pairs[-1]):
            yield without[0][1]


def _fed(profile: NetworkProfile) -> list[int | None]:
    """Return the first site that each one feeds, a norm before others; dropouts in between are passed over."""
    first: list[int | None] = [None] * len(profile.sites)
    for index in range(len(profile.sites) - 1, -1, -1):
        beyond = first[index] if "dropout" in profile.sites[index].kind.lower() else index
        for at in profile.graph.inputs[index]:
            known = first[at]
            if beyond is not None and (
                known is None or is_norm(profile.sites[beyond]) or not is_norm(profile.sites[known])
            ):
                first[at] = beyond
    return first


def _without_norm(evidence: Evidence, index: int, usual: float) -> Finding:
    site = evidence.sites[index]
    entering = [size for member in evidence.members if (size := input_rms(member, index))]
    size = statistics.geometric_mean(entering) if entering else 0.0
    kind: Kind = "vanishing" if size < usual else "exploding"
    return Finding(
        kind=kind,
        severity="strained",
        direction="forward",
        sites=(site.name,),
        message=f"{site.name} has no norm before it, unlike others in the same place: the rms of its input is "
        f"{number(size, 2)}, after a norm it is {number(usual, 2)}",
        cause="nothing keeps the size of the signal there: it follows the input, at the start and after every step",
        evidence={"rms": size, "usual": usual},
        remedy=Remedy("norm", f"put a norm before {module_of(site.name)}"),
        confidence=succession(len(evidence.members), len(evidence.members)),
        marks={site.name: "no norm"},
    )


def _rms(evidence: Evidence, index: int) -> float:
    seen = [s.rms for m in evidence.members if (s := m.sites[index].forward) is not None and s.rms > 0]
    return math.exp(statistics.fmean(map(math.log, seen))) if seen else 0.0


def doubled_sums(evidence: Evidence) -> Iterator[Finding]:
    """Find sums of a sum that add a value which the inner sum contains already.

    The mean squares of independent summands add up, so the mean square of a sum gives the correlation of its summands.
    It is sqrt(p) where one summand already makes up a share p of the mean square of the other. Three different
    summands, such as the stream, attention and an MLP side by side, do not correlate.
    """
    runs = _runs_of_sums(evidence.members[0])
    for index, site in enumerate(evidence.sites):
        if "#" not in site.name or site.branch_share is None:
            continue
        inner = _inner_sum(evidence.members[0], index)
        if inner is None or runs[index] > _SUMMANDS:
            continue
        before = evidence.sites[inner]
        found = [
            value for member in evidence.members if (value := _correlation(member.sites, index, inner)) is not None
        ]
        if len(found) < len(evidence.members) or (mean := statistics.fmean(found)) <= limits.AGAIN:
            continue
        direction: Direction = "forward"
        yield Finding(
            kind="exploding",
            severity="strained",
            direction=direction,
            sites=(site.name,),
            message=f"{site.name} adds a value that its summand {before.name} already contains: the two correlate by "
            f"{mean:.2f}",
            cause="the stream or the branch is added twice, so that each such block adds more than one branch",
            evidence={"correlation": mean, "limit": limits.AGAIN, "seeds": float(len(found))},
            remedy=Remedy("residual", f"add stream and branch once each in {module_of(site.name).rpartition('.')[0]}"),
            confidence=succession(sum(value > limits.AGAIN for value in found), len(found)),
            marks={site.name: "added twice"},
        )


def _inner_sum(profile: NetworkProfile, index: int) -> int | None:
    """Return the sum of the same module that a sum was computed from last, None where there is none."""
    sites = profile.sites
    return next(
        (
            at
            for at in reversed(profile.graph.inputs[index])
            if sites[at].branch_share is not None and module_of(sites[at].name) == module_of(sites[index].name)
        ),
        None,
    )


def _runs_of_sums(profile: NetworkProfile) -> dict[int, int]:
    """Return for each sum how many sums of its module feed each other: many are the steps of a recurrence."""
    inner = {at: _inner_sum(profile, at) for at, site in enumerate(profile.sites) if site.branch_share is not None}
    heads: dict[int, int] = {}
    for at, below in inner.items():
        heads[at] = at if below is None else heads[below]
    lengths = Counter(heads.values())
    return {at: lengths[head] for at, head in heads.items()}


def _correlation(sites: tuple[Site, ...], index: int, branch: int) -> float | None:
    """Return E[ab] / (rms(a) rms(b)) of a sum a + b whose branch b is the site at position `branch`."""
    total, added, share = sites[index].forward, sites[branch].forward, sites[index].branch_share
    if total is None or added is None or share is None or not 0 < share < 1 or not added.rms > 0:
        return None
    excess = (total.rms / added.rms) ** 2 * share - 1
    found = excess / (2 * math.sqrt(share * (1 - share)))
    # Above 1, that site is not the branch.
    return found if abs(found) <= _ONE else None
