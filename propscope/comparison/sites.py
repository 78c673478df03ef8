"""Which site of one network is which of another: by name, and where names are no help by the place in the graph.

A name is no help where it stands for another kind, width or weight on the two sides, as the numbers of `nn.Sequential`
do behind a layer that was put in: then all sites are aligned in execution order, which is an order of the graph. Where
all common names fit, they are trusted, and only what stands between two sites that both have is aligned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from propscope.records.graph import UNKNOWN
from propscope.records.network import Floats, NetworkProfile, Site

# The score of a pair: for its kind and width, its weights, its name, the kinds that it was computed from.
_ALIKE, _OTHER_WIDTH, _OTHER_KIND = 1.0, 0.5, 0.25
_WEIGHTS, _NAME, _PLACE = 2.0, 0.5, 0.25
# Larger alignments take seconds; names alone count there.
_CELLS = 20_000_000

# The kind, the width, the name, the kinds of the parents, and the weights, None where none is known.
_Kind = tuple[str, tuple[object, ...], str, object, object]
# The moments of the weights that took part in each site, by name.
Weights = Mapping[str, tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class SitePair:
    """A site of the first network and the same one of the second; None where one of them lacks it."""

    before: Site | None
    after: Site | None

    @property
    def in_both(self) -> bool:
        """Whether both networks have it."""
        return self.before is not None and self.after is not None

    @property
    def names(self) -> tuple[str, str]:
        """Its name in the first and in the second network, "" where one lacks it."""
        return (self.before.name if self.before else "", self.after.name if self.after else "")

    @property
    def site(self) -> Site:
        """The site as the second network has it, else as the first one does."""
        return self.after or self.before  # type: ignore[return-value]

    @property
    def renamed(self) -> str:
        """The name in the first network, "(model)" where it is empty; "" where both have the same, or one lacks it."""
        if self.before is None or self.after is None or self.before.name == self.after.name:
            return ""
        return self.before.name or "(model)"


def all_sites(members: Iterable[NetworkProfile]) -> tuple[Site, ...]:
    """Return the sites of all seeds, inputs included, in the order of the first seed.

    Which sites there are may depend on the seed, as the experts of a mixture that run do.
    """
    found: dict[str, Site] = {}
    for member in members:
        place = list(found)
        at = 0
        for site in member.sites:
            if site.name in found:
                at = place.index(site.name) + 1
            else:
                place.insert(at, site.name)
                at += 1
                found[site.name] = site
        found = {name: found[name] for name in place}
    return tuple(found.values())


def weights_of(profile: NetworkProfile) -> Weights:
    """Return the moments of the weights of each site, without constant ones, which tell no two layers apart."""
    found = {}
    for site in profile.sites:
        drawn = [one for one in profile.parameters_of(site) if one.value.std > 0]
        if drawn:
            found[site.name] = tuple((one.shape, one.value.mean, one.value.std) for one in drawn)
    return found


def paired_sites(
    before: Sequence[Site], after: Sequence[Site], weights: tuple[Weights, Weights] = ({}, {})
) -> tuple[SitePair, ...]:
    """Return all sites of both networks in execution order, each with its counterpart where it has one."""
    old, new = ({site.name: at for at, site in enumerate(side)} for side in (before, after))
    common = {old[name]: new[name] for name in old if name in new}
    kinds = _kinds(before, after, weights)
    trusted = all(kinds[0][then][:2] == kinds[1][now][:2] for then, now in common.items())
    trusted = trusted and not _shifted(kinds, common)
    if trusted or len(before) * len(after) > _CELLS:
        found = common | _between(kinds, common)
    else:
        found = _aligned(kinds, range(len(before)), range(len(after)))
    return _in_order(before, after, found)


def _shifted(kinds: tuple[list[_Kind], list[_Kind]], common: dict[int, int]) -> bool:
    """Return whether a site has the weights of a site with another name, and the one of its own name has others."""
    places: dict[object, list[int]] = {}
    for at, (*_, weights) in enumerate(kinds[1]):
        places.setdefault(weights, []).append(at)
    return any(
        weights is not None and weights in places and then in common and common[then] not in places[weights]
        for then, (*_, weights) in enumerate(kinds[0])
    )


def _kinds(
    before: Sequence[Site], after: Sequence[Site], weights: tuple[Weights, Weights]
) -> tuple[list[_Kind], list[_Kind]]:
    # Of the shape, the features depend on the network alone, not on the batch or the length of a sequence.
    known = all(any(site.features is not None for site in side) for side in (before, after))
    found: list[list[_Kind]] = []
    for side, own in zip((before, after), weights, strict=True):
        of = {site.name: site.kind for site in side}
        found.append([
            (
                site.kind,
                (len(site.shape), site.features) if known else site.shape[1:],
                site.name,
                site.parents and tuple(sorted(of.get(parent.name, "") for parent in site.parents)),
                own.get(site.name),
            )
            for site in side
        ])  # fmt: skip
    return found[0], found[1]


def _between(kinds: tuple[list[_Kind], list[_Kind]], known: dict[int, int]) -> dict[int, int]:
    """Return pairs of sites that no name pairs, both of them between the same two that names do pair."""
    gaps: dict[int, tuple[list[int], list[int]]] = {}
    last = -1
    for at in range(len(kinds[0])):
        last = known.get(at, last)
        if at not in known:
            gaps.setdefault(last, ([], []))[0].append(at)
    last = -1
    taken = set(known.values())
    for at in range(len(kinds[1])):
        last = at if at in taken else last
        if at not in taken:
            gaps.setdefault(last, ([], []))[1].append(at)
    found: dict[int, int] = {}
    for old, new in gaps.values():
        if len(old) * len(new) <= _CELLS:
            found |= _aligned(kinds, old, new)
    return found


def _aligned(kinds: tuple[list[_Kind], list[_Kind]], old: Sequence[int], new: Sequence[int]) -> dict[int, int]:
    """Return the pairs, in order on both sides, with the largest sum of scores.

    This is the alignment of Needleman and Wunsch 1970, without a penalty for gaps.
    """
    if not old or not new:
        return {}
    scores = _scores([kinds[0][at] for at in old], [kinds[1][at] for at in new])
    best = np.zeros((len(old) + 1, len(new) + 1))
    for row, values in enumerate(scores, 1):
        taken = np.where(values > 0, best[row - 1, :-1] + values, 0.0)
        best[row, 1:] = np.maximum.accumulate(np.maximum(best[row - 1, 1:], taken))
    found: dict[int, int] = {}
    row, column = len(old), len(new)
    while row and column:
        # The last of several with the same score.
        if best[row, column] == best[row, column - 1]:
            column -= 1
        elif best[row, column] == best[row - 1, column]:
            row -= 1
        else:
            row, column = row - 1, column - 1
            found[old[row]] = new[column]
    return found


def _scores(old: Sequence[_Kind], new: Sequence[_Kind]) -> Floats:
    """Return the score of each pair, shape (len(old), len(new)); 0 for sites that are no pair."""

    def equal(*parts: int) -> NDArray[np.bool_]:
        known: dict[object, int] = {}
        codes = [
            np.array([known.setdefault(tuple(each[part] for part in parts), len(known)) for each in side])
            for side in (old, new)
        ]
        same: NDArray[np.bool_] = codes[0][:, None] == codes[1][None]
        return same

    alike, name = equal(0, 1), equal(2)
    otherwise = np.where(name, np.where(equal(0), _OTHER_WIDTH, _OTHER_KIND), 0.0)
    known = np.array([[each[4] is not None] for each in old])
    scores: Floats = np.where(alike, _ALIKE + _PLACE * equal(3) + _WEIGHTS * (equal(4) & known), otherwise)
    return np.where(scores > 0, scores + _NAME * name, 0.0)


def _in_order(before: Sequence[Site], after: Sequence[Site], found: dict[int, int]) -> tuple[SitePair, ...]:
    """Return pairs in the order of the second network; what only the first one has stands behind what it followed."""
    sources = {new: old for old, new in found.items()}
    behind: dict[int, list[Site]] = {}
    last = -1
    for at, site in enumerate(before):
        if at in found:
            last = found[at]
        else:
            behind.setdefault(last, []).append(site)
    pairs = [SitePair(site, None) for site in behind.get(-1, [])]
    for at, site in enumerate(after):
        pairs.append(SitePair(before[sources[at]] if at in sources else None, site))
        pairs += [SitePair(gone, None) for gone in behind.get(at, [])]
    return tuple(pairs)


def rewired(pairs: Sequence[SitePair]) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return the sites that other sites feed than before, by name: those before and those after, in today's names.

    Only where both networks have all of them: what a site that was put in feeds is no change of its own.
    """
    names = dict(pair.names for pair in pairs if pair.in_both)
    today = set(names.values())
    found = {}
    for pair in pairs:
        if pair.before is None or pair.after is None or pair.before.parents is None or pair.after.parents is None:
            continue
        then = [names.get(parent.name, UNKNOWN) for parent in pair.before.parents]
        now = [parent.name if parent.name in today else UNKNOWN for parent in pair.after.parents]
        if UNKNOWN not in then and UNKNOWN not in now and set(then) != set(now):
            found[pair.after.name] = tuple(sorted(set(then))), tuple(sorted(set(now)))
    return found
