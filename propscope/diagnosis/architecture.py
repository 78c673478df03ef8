"""Parts unlike their peers: an activation of another kind, a missing norm, a sum that adds one summand twice.

None of these has to change the size of the signal at the start, because an initializer may keep it. The same place in
the other blocks of the network shows what was intended.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from propscope.diagnosis import limits
from propscope.diagnosis.evidence import Evidence, module_of, succession
from propscope.records.finding import Finding, Kind, Remedy
from propscope.records.gains import extent, input_rms, is_norm, name_pattern, passes_norm
from propscope.records.network import NetworkProfile, Site
from propscope.records.numerals import number, percent

_PEERS = 2
_SUM = "sum"
_HANDING_ON = ("dropout", "droppath", "identity", "pool", "flatten")
_NEVER_NORMED = ("activation", "output", "embedding", "attention")
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
        confidence=evidence.shown_by_all,
        marks={site.name: f"not {usual}"},
    )


def missing_norms(evidence: Evidence) -> Iterator[Finding]:
    """Find sites without a norm where other blocks have one, or where other sites of their kind are followed by one.

    A last sum of a residual network that no norm follows gives only a note, unless its size is off by a factor of 10:
    pre-norm networks train without a last norm too.
    """
    member = evidence.members[0]
    norm_sizes = [size for at, site in enumerate(evidence.sites) if is_norm(site) and (size := _rms(evidence, at)) > 0]
    if not norm_sizes:
        return
    usual = statistics.median(norm_sizes)
    edges = [*_edges(member)]
    at = {edge.last for edge in _unlike_others(member, edges)}
    for index in sorted(at):
        yield _without_norm(evidence, index, usual)
    if (ending := _last_sum(member, edges)) is not None and ending.last not in at:
        finding, size = _without_norm(evidence, ending.last, usual), _rms(evidence, ending.first)
        fits = size > 0 and abs(math.log(size / usual)) < limits.DECADE
        # That the size is off may follow from weights before it.
        by_size = {**finding.evidence, "factor": size / usual or math.nan, "by_size": 1.0}
        yield replace(finding, severity="note") if fits else replace(finding, evidence=by_size)


@dataclass(frozen=True, slots=True)
class _Edge:
    """A way from one site to the next, by position, and whether it passes a norm; norms themselves are no sites here.

    `owner`: the position of the norm that stands last on the way, None where there is none or where it has no site.
    """

    first: int
    last: int
    normed: bool
    owner: int | None = None

    @property
    def ends(self) -> tuple[int, int]:
        return self.first, self.last


def _edges(profile: NetworkProfile) -> Iterator[_Edge]:
    """Yield the ways between sites other than norms; what hands on its input (dropout, pooling) is passed over."""
    sites = profile.sites
    names = {name: index for index, name in enumerate(profile.graph.names)}
    back: list[dict[int, tuple[bool, int | None]]] = []
    for index, (site, inputs) in enumerate(zip(sites, profile.graph.inputs, strict=True)):
        norms = {names[p.name] for p in site.parents or () if p.name in names and passes_norm(p)}
        found: dict[int, tuple[bool, int | None]] = {}
        for at in inputs:
            handed_on = is_norm(sites[at]) or _hands_on(sites[at])
            for first, (normed, owner) in (back[at] if handed_on else {at: (False, None)}).items():
                here = is_norm(site)
                found[first] = (normed or here or at in norms, index if here else owner)
        back.append(found)
        if not is_norm(site) and not _hands_on(site):
            yield from (_Edge(first, index, *what) for first, what in found.items())


def _hands_on(site: Site) -> bool:
    return not site.parameters and any(word in site.kind.lower() for word in _HANDING_ON)


def _unlike_others(profile: NetworkProfile, edges: list[_Edge]) -> Iterator[_Edge]:
    """Yield the ways without a norm where most ways in the same place pass one.

    A place is told by the names of both sites in numbered blocks, else by what surrounds them, else by their kinds.
    Where names do not tell it, a way behind all those with norms is no slip: a head often has no norm.
    """
    sites = profile.sites
    kinds = [_kind(site) for site in sites]
    patterns = [name_pattern(site.name) for site in sites]
    # A function has the name of what it was called on, which may be the norm.
    behind = [pattern if site.parameters else site.kind for site, pattern in zip(sites, patterns, strict=True)]
    blocks = ["*" in pattern.rpartition(".")[0] for pattern in patterns]
    inside = [edge for edge in edges if blocks[edge.last]]
    between = [
        edge
        for edge in edges
        if sites[edge.first].role not in _NEVER_NORMED and not kinds[edge.first] == kinds[edge.last] == _SUM
    ]
    branches: dict[int | None, set[int]] = defaultdict(set)
    for block in profile.graph.blocks if profile.graph.known else ():
        branches[block.fork].update(block.inside)
    places = profile.graph.places(kinds, radius=2) if profile.graph.known else None
    # For each way of telling places: the ways to compare, their places, and how many others must pass a norm.
    tellings: list[tuple[list[_Edge], Callable[[_Edge], object], int]] = [
        (inside, lambda edge: (patterns[edge.first], kinds[edge.first], behind[edge.last]), _PEERS),
        # A gate that is computed from pooled values has one position; what follows the last block is in none.
        (
            between,
            lambda edge: (
                kinds[edge.first],
                kinds[edge.last],
                extent(sites[edge.last]) > 1,
                edge.last in branches.get(edge.first, ()),
            ),
            _FOLLOWED - 1,
        ),
    ]
    if places is not None:
        tellings.insert(1, (between, lambda edge: (places[edge.first], places[edge.last]), _PEERS))
    for compared, place, least in tellings:
        groups: dict[object, list[_Edge]] = defaultdict(list)
        for edge in compared:
            groups[place(edge)].append(edge)
        for group in groups.values():
            have = [edge for edge in group if edge.normed]
            end = max((edge.last for edge in have), default=0)
            lack = [edge for edge in group if not edge.normed and (compared is inside or edge.last < end)]
            lack = [edge for edge in lack if not _is_stream(profile, edge)]
            if len(have) >= least * max(len(lack), 1):
                yield from lack
    yield from _first_of_block(profile, inside, patterns)


def _is_stream(profile: NetworkProfile, edge: _Edge) -> bool:
    """Return whether a way leads into a sum beside branches that start from the same site: the stream has no norm."""
    inputs = profile.graph.inputs[edge.last]
    if not profile.graph.known or len(inputs) < 2 or profile.sites[edge.last].parameters:
        return False
    return all(at == edge.first or profile.graph.feeds(edge.first, at) for at in inputs)


def _first_of_block(profile: NetworkProfile, edges: list[_Edge], patterns: list[str]) -> Iterator[_Edge]:
    """Yield the ways into layers of a block without the norm that stands before them inside of most other blocks.

    What enters the first block is of another kind. A norm at the end of each block before does not count: its absence
    before the first block is a choice.
    """
    sites = profile.sites
    groups: dict[tuple[str, str], dict[int, list[_Edge]]] = defaultdict(lambda: defaultdict(list))
    for edge in edges:
        if sites[edge.last].role not in _NEVER_NORMED and not _is_sum(sites[edge.last]):
            groups[sites[edge.last].kind, patterns[edge.last]][edge.last].append(edge)
    for group in groups.values():
        own = [ways for ways in group.values() if any(_enters_block(sites, way) for way in ways)]
        lack = [ways for ways in group.values() if not any(way.normed for way in ways)]
        if len(own) >= _PEERS * max(len(lack), 1):
            entering = min(len(ways) for ways in own)
            yield from (
                way for ways in lack for way in ways if len(ways) >= entering and not _same_block(sites, *way.ends)
            )


def _enters_block(sites: tuple[Site, ...], edge: _Edge) -> bool:
    """Return whether the norm on a way stands in the numbered block of the site behind it, and first there."""
    if edge.owner is None or _same_block(sites, *edge.ends):
        return False
    return _same_block(sites, edge.owner, edge.last)


def _same_block(sites: tuple[Site, ...], first: int, last: int) -> bool:
    """Return whether the numbers in the name of a site, its last level left out, are the first of those of another."""
    before, behind = (re.findall(r"(?<=\.)\d+(?=\.)", f".{sites[at].name}") for at in (first, last))
    return bool(before) and behind[: len(before)] == before


def _last_sum(profile: NetworkProfile, edges: list[_Edge]) -> _Edge | None:
    """Return the way out of the last sum of a residual stream that no norm follows, unlike most other sums."""
    sites = profile.sites
    ways: dict[int, list[_Edge]] = defaultdict(list)
    for edge in edges:
        if _is_sum(sites[edge.first]) and not _is_sum(sites[edge.last]):
            ways[edge.first].append(edge)
    if len(ways) < _FOLLOWED:
        return None
    *others, (_, out) = sorted(ways.items())
    have = sum(any(edge.normed for edge in fed) for _, fed in others)
    return None if any(edge.normed for edge in out) or have < len(others) - 1 else out[0]


def _is_sum(site: Site) -> bool:
    return site.branch_share is not None


def _kind(site: Site) -> str:
    return _SUM if _is_sum(site) else site.kind


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
        confidence=evidence.shown_by_all,
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
    found: dict[int, tuple[int, list[float]]] = {}
    for index, site in enumerate(evidence.sites):
        if "#" not in site.name or site.branch_share is None:
            continue
        inner = _inner_sum(evidence.members[0], index)
        if inner is None or runs[index] > _SUMMANDS:
            continue
        other = _other_summand(evidence.members[0], index, inner)
        values = [value for m in evidence.members if (value := _correlation(m.sites, index, inner, other)) is not None]
        if len(values) == len(evidence.members):
            found[index] = inner, values
    doubled = {index: both for index, both in found.items() if statistics.fmean(both[1]) > limits.AGAIN}
    places = Counter(name_pattern(evidence.sites[index].name) for index in doubled)
    for index, (inner, values) in doubled.items():
        site, before = evidence.sites[index], evidence.sites[inner]
        yield Finding(
            kind="exploding",
            # What several blocks do is meant (XCiT, El-Nouby et al. 2021, adds the stream twice in its last blocks).
            severity="strained" if places[name_pattern(site.name)] == 1 else "note",
            direction="forward",
            sites=(site.name,),
            message=f"{site.name} adds a value that its summand {before.name} already contains: the two correlate by "
            f"{statistics.fmean(values):.2f}",
            cause="the stream or the branch is added twice, so that each such block adds more than one branch",
            evidence={"correlation": statistics.fmean(values), "limit": limits.AGAIN, "seeds": float(len(values))},
            remedy=Remedy("residual", f"add stream and branch once each in {module_of(site.name).rpartition('.')[0]}"),
            confidence=succession(sum(value > limits.AGAIN for value in values), len(values)),
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


def _other_summand(profile: NetworkProfile, index: int, inner: int) -> int | None:
    """Return the site that a sum adds to an inner one as it is, None where that is no site."""
    names = {name: at for at, name in enumerate(profile.graph.names)}
    added = [names.get(p.name) for p in profile.sites[index].parents or () if p.operations in (("add",), ("add_",))]
    others = [at for at in added if at != inner]
    return others[0] if inner in added and len(others) == 1 else None


def _runs_of_sums(profile: NetworkProfile) -> dict[int, int]:
    """Return for each sum how many sums of its module feed each other: many are the steps of a recurrence."""
    inner = {at: _inner_sum(profile, at) for at, site in enumerate(profile.sites) if site.branch_share is not None}
    heads: dict[int, int] = {}
    for at, below in inner.items():
        heads[at] = at if below is None else heads[below]
    lengths = Counter(heads.values())
    return {at: lengths[head] for at, head in heads.items()}


def _correlation(sites: tuple[Site, ...], index: int, inner: int, other: int | None) -> float | None:
    """Return E[ab] / (rms(a) rms(b)) of a sum a + b whose summand b is the site at position `inner`.

    The inner sum is the branch, or the stream: the size of the other summand tells which.
    """
    total, added, share = sites[index].forward, sites[inner].forward, sites[index].branch_share
    # Beside a summand of less than a rounding of the other, nothing can be told.
    if total is None or added is None or share is None or not 0 < 1 - share < 1 or not added.rms > 0:
        return None
    if other is not None and (beside := sites[other].forward) is not None:
        own = added.rms**2 / (added.rms**2 + beside.rms**2)
        share = min(share, 1 - share, key=lambda each: abs(each - own))
    excess = (total.rms / added.rms) ** 2 * share - 1
    found = excess / (2 * math.sqrt(share * (1 - share)))
    # Above 1, that site is no summand.
    return found if abs(found) <= _ONE else None
