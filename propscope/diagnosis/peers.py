"""Which sites are in the same place of other blocks, and what is usual among them."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TypeVar

from propscope.records.gains import is_norm, name_pattern
from propscope.records.network import NetworkProfile, Site

# The share that is dropped may differ from block to block, and the first one may have none.
_SKIPPING = ("droppath", "dropout", "stochasticdepth", "identity")

Item = TypeVar("Item", bound=Hashable)


def groups_in_one_place(
    profile: NetworkProfile,
    chosen: Mapping[Item, int],
    *,
    more_than: int,
    alike: Callable[[Item], Hashable],
) -> dict[Item, list[Item]]:
    """Return for each chosen item those in the same place of other blocks, itself included, where there are enough.

    `chosen` has the position of the site of each. Sites are in one place if what they are computed from and what is
    computed from them are of the same kinds, and if both or neither are within blocks: over two edges of the graph in a
    residual network, over one where too few are alike over two or where no blocks are. Names say it where the graph is
    not known. Only items for which `alike` returns the same are compared.
    """
    found: dict[Item, list[Item]] = {}
    for places in _places(profile):
        groups: dict[Hashable, list[Item]] = defaultdict(list)
        for item, index in chosen.items():
            groups[alike(item), places[index]].append(item)
        for group in groups.values():
            if len(group) > more_than:
                found = dict.fromkeys(group, group) | found
    return found


def _places(profile: NetworkProfile) -> Iterable[Sequence[Hashable]]:
    """Yield the place of each site, by what tells most of it first."""
    sites, graph = profile.sites, profile.graph
    if graph.known:
        depthwise = frozenset(p.name for p in profile.parameters if len(p.shape) > 2 and p.shape[1] == 1)
        labels = [_label(site, depthwise=not depthwise.isdisjoint(site.parameters)) for site in sites]
        # In a sequence of layers, where no blocks repeat, what is two steps away does not tell sorts of layers apart.
        inside = frozenset(chain.from_iterable(block.inside for block in graph.blocks))
        for radius in (2, 1) if graph.blocks else (1,):
            yield [(at in inside, place) for at, place in enumerate(graph.places(labels, radius=radius))]
    else:
        yield [name_pattern(site.name) for site in sites]
        yield [
            (name_pattern(site.name, parts=2), *(sites[before].kind for before in inputs))
            for site, inputs in zip(sites, graph.inputs, strict=True)
        ]


def _label(site: Site, *, depthwise: bool) -> str | None:
    """Return what a site is to those around it: an activation of another kind changes no place, a dropout is none."""
    if site.branch_share is not None:
        return "sum"
    if site.role == "activation":
        return "activation"
    if any(word in site.kind.lower().replace("_", "") for word in _SKIPPING):
        return None
    return "norm" if is_norm(site) else f"{maker_of(site)}{' of one channel each' * depthwise}"


def maker_of(site: Site) -> str:
    """Return the kind of a site; of what functions pass to a nonlinearity, the operation that made it."""
    if site.kind == "input" and site.parents:
        return site.parents[-1].operations[-1] if site.parents[-1].operations else site.kind
    return site.kind


def medians_of_others(values: Sequence[float]) -> list[float]:
    """Return for each of two or more values the median of all the others, as `median_without` does."""
    ascending = sorted(values)
    return [median_without(ascending, bisect_left(ascending, value)) for value in values]


def median_without(ascending: Sequence[float], left_out: int) -> float:
    """Return the median of two or more ascending values without the one at position `left_out`.

    Where the number of the others is even, every value between the two in the middle is a median of them; of these the
    one nearest to the value left out is returned. Two others that differ widely thus make nothing between them odd.
    """
    middle, odd = divmod(len(ascending) - 1, 2)
    below, above = (ascending[at + (at >= left_out)] for at in (middle - (not odd), middle))
    return min(max(ascending[left_out], below), above)
