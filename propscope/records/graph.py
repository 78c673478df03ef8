"""`SiteGraph`: what feeds what among the sites of one network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from propscope.errors import unknown_site

if TYPE_CHECKING:
    from propscope.records.network import Parent

# The name of a parent that neither the autograd graph nor the identity of tensors shows.
UNKNOWN = "?"
# Where every way back begins.
ROOT = -1


@dataclass(frozen=True, slots=True)
class Block:
    """What lies between a fork of the stream and the sum where its ways meet again; all by position.

    `fork`: the last site that every summand was computed from, None where that is an input which the profile does not
    list. `inside`: the sites on the ways from it to the sum, without both.
    """

    fork: int | None
    sum: int
    inside: tuple[int, ...]


class Node(NamedTuple):
    """What a graph has to know of a site: its name and parents, whether it is the model's input, and whether a sum."""

    name: str
    parents: tuple[Parent, ...] | None
    is_input: bool
    is_sum: bool


class SiteGraph:
    """The sites of one network as a graph; an edge leads from each parent to the site that was computed from it.

    Sites are given and returned by name, always in execution order, which is a topological order. Parents that are not
    known have no edge. Each method raises `UnknownSiteError` for a name that is no site's.
    """

    def __init__(self, sites: Sequence[Node]) -> None:
        self.names = tuple(site.name for site in sites)
        self._known = tuple(site.parents is not None for site in sites)
        self._index = {name: index for index, name in enumerate(self.names)}
        self._parents = [
            sorted({at for parent in site.parents or () if (at := self._index.get(parent.name, index)) < index})
            for index, site in enumerate(sites)
        ]
        self._sums = tuple(index for index, site in enumerate(sites) if site.is_sum)
        # Inputs that the sites do not list have the numbers behind those of the sites.
        others = [{at.name for at in site.parents or () if at.name not in self._index} for site in sites]
        self._unseen = [UNKNOWN in names for names in others]
        outside = {name: index for index, name in enumerate(sorted(set().union(*others) - {UNKNOWN}), len(sites))}
        self._sources = [
            [outside[name] for name in sorted(names - {UNKNOWN})] if self.known else [] for names in others
        ]
        self._ends = len(sites) + len(outside)
        self._inputs = frozenset((*outside.values(), *(at for at, site in enumerate(sites) if site.is_input)))
        self._latest: dict[frozenset[int], tuple[int | None, ...]] = {}
        # Those that gradients pass to: no masks, and no angles of positions.
        self._learning = [{parent.name for parent in site.parents or () if parent.gradient} for site in sites]

    @cached_property
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

    @cached_property
    def outputs(self) -> tuple[tuple[int, ...], ...]:
        """The positions of the sites that each site feeds directly: `inputs` the other way round."""
        return _turned(self.inputs)

    def latest_before(self, chosen: Collection[int]) -> tuple[int | None, ...]:
        """Return for each site the last of the chosen ones that a way back meets first; None where no way meets one.

        Sites are given and returned by position.
        """
        if (known := self._latest.get(key := frozenset(chosen))) is not None:
            return known
        found: list[int | None] = []
        for inputs in self.inputs:
            met = [index if index in chosen else found[index] for index in inputs]
            found.append(max((index for index in met if index is not None), default=None))
        return self._latest.setdefault(key, tuple(found))

    @cached_property
    def _ancestors(self) -> list[int]:
        """The ancestors of each site, as the bits of a number."""
        found: list[int] = []
        for inputs, sources in zip(self.inputs, self._sources, strict=True):
            bits = 0
            for index in inputs:
                bits |= found[index] | 1 << index
            for source in sources:
                bits |= 1 << source
            found.append(bits)
        return found

    def feeds(self, first: int, last: int) -> bool:
        """Return whether one site feeds another, directly or through others; both by position."""
        return bool(self._ancestors[last] >> first & 1)

    def lines(self, chosen: Iterable[int]) -> list[list[int]]:
        """Return the chosen sites in lines: every way from the first site of a line to its last passes all of them.

        A site of a branch that others go around stands in no line with sites outside of the branch. All by position.
        """
        lines: dict[int, list[int]] = {}
        met = ends = 0
        for index in chosen:
            # Those from which every way to what this site feeds passes the site.
            before = met & self._ancestors[index]
            before &= ~self._around(index) if before else 0
            last = next((end for end in bits(before & ends) if not self._left_before(index, end, before)), None)
            lines[index] = [] if last is None else lines.pop(last)
            lines[index].append(index)
            ends = (ends if last is None else ends ^ 1 << last) | 1 << index
            met |= 1 << index
        return sorted(lines.values())

    def bypassed(self, index: int) -> bool:
        """Return whether a way of sites leads around the site at a position, from what feeds it to what it feeds."""
        before, behind = self._ancestors[index], self._leading_behind[index] & -(2 << index)
        return any(
            self._fed[source] & behind and (self._ancestors_of(source) | 1 << source) & before
            for source in self._open[index]
        )

    def bypassed_through(self, chosen: Collection[int]) -> list[bool]:
        """Return for each site that is not chosen whether a way of chosen sites alone leads around it; by position.

        It begins at a chosen site, or an input, that feeds the site, and ends at one that the site feeds.
        """
        arriving: list[int] = []
        for index, (inputs, sources) in enumerate(zip(self.inputs, self._sources, strict=True)):
            bits = 0
            if index in chosen:
                for at in inputs:
                    bits |= arriving[at] | 1 << at if at in chosen else 0
                for source in sources:
                    bits |= 1 << source
            arriving.append(bits)
        behind = [0] * self._ends
        for index in range(len(self.names) - 1, -1, -1):
            for source in (*self.inputs[index], *self._sources[index]):
                behind[source] |= behind[index] | arriving[index]
        return [index not in chosen and bool(behind[index] & before) for index, before in enumerate(self._ancestors)]

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks of a residual network, in the order of their sums; a block may lie inside another one."""
        found = []
        everything = (1 << len(self.names)) - 1
        for index in self._sums:
            common = -1
            for parent in (*self.inputs[index], *self._sources[index]):
                common &= self._ancestors_of(parent) | 1 << parent
            if common <= 0 or self._unseen[index]:
                continue
            fork = max(common & everything, 0).bit_length() - 1
            start = self._descendants[fork if fork >= 0 else common.bit_length() - 1]
            if inside := start & self._ancestors[index]:
                found.append(Block(fork if fork >= 0 else None, index, tuple(bits(inside))[::-1]))
        return tuple(found)

    def dominator(self, index: int) -> int | None:
        """Return the last site that every way to the site at a position passes, None where there is none."""
        found = self._dominators[0][index]
        return found if 0 <= found < len(self.names) else None

    def places(self, labels: Sequence[str | None], *, radius: int) -> list[tuple[object, ...]]:
        """Return what surrounds each site: the labels of what feeds it and of what it feeds, over so many edges.

        A site without a label is passed over, as if what feeds it fed what it feeds.

        What lies beyond the stream of a residual network, where its blocks fork and are summed, does not count. So
        sites in the same place of like blocks have equal surroundings, in the first block and the last one too,
        whatever they are called.
        """
        stream = {at for block in self.blocks for at in (block.fork, block.sum)}
        shown = ["" if at in stream else label for at, label in enumerate(labels)]
        over = {at for at, label in enumerate(shown) if label is None}
        inputs = [[*at, *sources] for at, sources in zip(self.inputs, self._sources, strict=True)]
        outputs = [[*bits(fed)] for fed in self._fed[: len(self.names)]]
        _pass_over(inputs, over, range(len(inputs)))
        _pass_over(outputs, over, reversed(range(len(outputs))))
        return [*zip(*(_surroundings(edges, shown, radius) for edges in (inputs, outputs)), strict=True)]

    def _ancestors_of(self, source: int) -> int:
        return self._ancestors[source] if source < len(self.names) else 0

    @cached_property
    def _fed(self) -> list[int]:
        """The sites that each site and each input outside feeds directly, as the bits of a number."""
        found = [0] * self._ends
        for index, (inputs, sources) in enumerate(zip(self.inputs, self._sources, strict=True)):
            for source in (*inputs, *sources):
                found[source] |= 1 << index
        return found

    @cached_property
    def _descendants(self) -> list[int]:
        """The descendants of each site and of each input outside, as the bits of a number."""
        found = [0] * self._ends
        for index in range(len(self.names) - 1, -1, -1):
            for source in (*self.inputs[index], *self._sources[index]):
                found[source] |= found[index] | 1 << index
        return found

    @cached_property
    def _leading_behind(self) -> list[int]:
        """All that leads to a site which each site feeds, that site included, as the bits of a number."""
        found = [0] * self._ends
        for index in range(len(self.names) - 1, -1, -1):
            for source in (*self.inputs[index], *self._sources[index]):
                found[source] |= found[index] | self._ancestors[index] | 1 << index
        return found

    @cached_property
    def _open(self) -> list[list[int]]:
        """The sites and inputs before each site from which an edge leads to a site behind it."""
        ending = Counter(fed.bit_length() - 1 for fed in self._fed if fed)
        found: list[list[int]] = []
        open_: list[int] = [*range(len(self.names), self._ends)]
        for index in range(len(self.names)):
            if ending[index]:
                open_ = [source for source in open_ if self._fed[source] >> index + 1]
            found.append(open_)
            if self._fed[index] >> index + 1:
                open_ = [*open_, index]
        return found

    def _around(self, index: int) -> int:
        """Return, as bits, all from which a way leads around a site to one that it feeds."""
        bits, behind = 0, self._leading_behind[index] & -(2 << index)
        for source in self._open[index]:
            if self._fed[source] & behind:
                bits |= self._ancestors_of(source) | 1 << source
        return bits

    def _left_before(self, last: int, index: int, beside: int) -> bool:
        """Return whether a site lies in a branch that ends before `last`: a way leads around it from where it forks.

        It forks at one of the sites `beside`, or at the first site that every way to it passes.
        """
        fork = self._dominators[1][index]
        forks = beside & self._ancestors[index] | (0 if fork == ROOT else 1 << fork)
        end = (self._ancestors[last] | 1 << last) & -(2 << index)
        return any(
            self._fed[source] & end and (self._ancestors_of(source) | 1 << source) & forks
            for source in self._open[index]
        )

    @cached_property
    def _dominators(self) -> tuple[list[int], list[int]]:
        """The last and the first site or input that every way to each site passes; ROOT where there is none.

        Ways that begin with a constant, or that no gradient passes, do not count where there are others.
        """
        fed = [at in self._inputs for at in range(self._ends)]
        last, first = [ROOT] * self._ends, [ROOT] * self._ends
        depth = [1] * self._ends
        for index, (inputs, sources) in enumerate(zip(self.inputs, self._sources, strict=True)):
            before = [*inputs, *sources]
            if not before or self._unseen[index]:
                continue
            fed[index] |= any(fed[at] for at in before)
            before = [at for at in before if fed[at] == fed[index]]
            learning = [at for at in before if at in self._inputs or self.names[at] in self._learning[index]]
            before = learning or before
            last[index] = common = nearest_common(before, last, depth)
            if common != ROOT:
                depth[index] = depth[common] + 1
                first[index] = common if first[common] == ROOT else first[common]
        return last, first

    @cached_property
    def _children(self) -> tuple[tuple[int, ...], ...]:
        return _turned(self._parents)

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


def _turned(edges: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Return for each place those whose edges lead to it."""
    found: list[list[int]] = [[] for _ in edges]
    for index, ends in enumerate(edges):
        for end in ends:
            found[end].append(index)
    return tuple(map(tuple, found))


def _reached(edges: Sequence[Sequence[int]], start: int) -> set[int]:
    found: set[int] = set()
    waiting = list(edges[start])
    while waiting:
        if (index := waiting.pop()) not in found:
            found.add(index)
            waiting += edges[index]
    return found


def nearest_common(places: Sequence[int], last: Sequence[int], depth: Sequence[int]) -> int:
    """Return the last place that every way to each of these places passes; `ROOT` where there is none.

    `last`: that of each earlier place alone, and `depth`, how many such places are before it (Cooper, Harvey, Kennedy
    2001, A simple, fast dominance algorithm).
    """
    if not places:
        return ROOT
    common, *others = places
    for other in others:
        while common != other and ROOT not in (common, other):
            if depth[common] < depth[other]:
                other = last[other]
            else:
                common = last[common]
        if common != other:
            return ROOT
    return common


def bits(number: int) -> Iterator[int]:
    """Yield the positions of the bits of a number that are set, the highest first."""
    while number:
        yield (highest := number.bit_length() - 1)
        number ^= 1 << highest


def _pass_over(edges: list[list[int]], over: Set[int], order: Iterable[int]) -> None:
    """Lead each edge past the sites that are passed over; `order` begins with what no edge leads away from."""
    for index in order:
        if not over.isdisjoint(edges[index]):
            edges[index] = [end for at in edges[index] for end in (edges[at] if at in over else (at,))]


def _surroundings(edges: Sequence[Sequence[int]], labels: Sequence[str | None], radius: int) -> list[int]:
    """Return a number for each site, equal where the labels of all that `edges` lead to are, over so many edges.

    Nothing is seen beyond sites whose label is "".
    """
    numbers: dict[object, int] = {"": 0}
    own = [numbers.setdefault(label, len(numbers)) for label in labels]
    found = own
    for _ in range(radius):
        beside = [number if label else 0 for number, label in zip(found, labels, strict=True)]
        keys = [
            (own[index], *sorted(beside[at] if at < len(beside) else ROOT for at in leads))
            for index, leads in enumerate(edges)
        ]
        found = [numbers.setdefault(key, len(numbers)) for key in keys]
    return found
