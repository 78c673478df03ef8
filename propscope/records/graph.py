"""`SiteGraph`: what feeds what among the sites of one network."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from propscope.errors import unknown_site

if TYPE_CHECKING:
    from propscope.records.network import Site


class SiteGraph:
    """The sites of one network as a graph; an edge leads from each parent to the site that was computed from it.

    Sites are given and returned by name, always in execution order, which is a topological order. Parents that are not
    known have no edge. Each method raises `UnknownSiteError` for a name that is no site's.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self.names = tuple(site.name for site in sites)
        self._known = tuple(site.parents is not None for site in sites)
        self._index = {name: index for index, name in enumerate(self.names)}
        self._parents = [
            sorted({at for parent in site.parents or () if (at := self._index.get(parent.name, index)) < index})
            for index, site in enumerate(sites)
        ]

    @property
    def known(self) -> bool:
        """Whether the parents of every site were recorded; files before schema 3 hold none."""
        return all(self._known)

    @cached_property
    def inputs(self) -> tuple[tuple[int, ...], ...]:
        """The positions of the sites that each site was computed from.

        The site that ran just before, where the graph is not known: in a layered network that is the same.
        """
        if not self.known:
            return tuple((index - 1,) if index else () for index in range(len(self.names)))
        return tuple(map(tuple, self._parents))

    def latest_before(self, chosen: Collection[int]) -> tuple[int | None, ...]:
        """Return for each site the last of the chosen ones that a way back meets first; None where no way meets one.

        Sites are given and returned by position.
        """
        found: list[int | None] = []
        for inputs in self.inputs:
            met = [index if index in chosen else found[index] for index in inputs]
            found.append(max((index for index in met if index is not None), default=None))
        return tuple(found)

    @cached_property
    def _ancestors(self) -> list[int]:
        """The ancestors of each site, as the bits of a number."""
        found: list[int] = []
        for inputs in self.inputs:
            bits = 0
            for index in inputs:
                bits |= found[index] | 1 << index
            found.append(bits)
        return found

    def feeds(self, first: int, last: int) -> bool:
        """Return whether one site feeds another, directly or through others; both by position."""
        return bool(self._ancestors[last] >> first & 1)

    @cached_property
    def _children(self) -> list[list[int]]:
        children: list[list[int]] = [[] for _ in self.names]
        for index, parents in enumerate(self._parents):
            for parent in parents:
                children[parent].append(index)
        return children

    def parents_of(self, name: str) -> tuple[str, ...]:
        """Return the sites that a site was computed from."""
        return self._named(self._parents[self._at(name)])

    def children_of(self, name: str) -> tuple[str, ...]:
        """Return the sites that were computed from a site."""
        return self._named(self._children[self._at(name)])

    def ancestors(self, name: str) -> tuple[str, ...]:
        """Return every site that feeds a site, directly or through others, without itself."""
        return self._named(sorted(_reached(self._parents, self._at(name))))

    def descendants(self, name: str) -> tuple[str, ...]:
        """Return every site that a site feeds, directly or through others, without itself."""
        return self._named(sorted(_reached(self._children, self._at(name))))

    def on_the_way(self, first: str, last: str) -> tuple[str, ...]:
        """Return the sites on all ways from one site to another, both included; () where the first feeds not the last.

        The way from a site to itself is the site.
        """
        start, end = self._at(first), self._at(last)
        between = _reached(self._children, start) | {start}
        return self._named(sorted(between & (_reached(self._parents, end) | {end})))

    def _at(self, name: str) -> int:
        if (index := self._index.get(name)) is None:
            raise unknown_site(name, list(self.names))
        return index

    def _named(self, indices: Iterable[int]) -> tuple[str, ...]:
        return tuple(self.names[index] for index in indices)


def _reached(edges: Sequence[Sequence[int]], start: int) -> set[int]:
    found: set[int] = set()
    waiting = list(edges[start])
    while waiting:
        if (index := waiting.pop()) not in found:
            found.add(index)
            waiting += edges[index]
    return found
