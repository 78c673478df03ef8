"""Arranges the sites of a network as a tree of its modules, in the order in which they run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from propscope.checks import count, one_of
from propscope.records.finding import Diagnosis
from propscope.records.gains import Gains, site_gains
from propscope.records.histogram import LogHistogram
from propscope.records.network import NetworkProfile, Site
from propscope.records.numerals import counted
from propscope.report.findings import faults, site_marks

LINES_AT_MOST = 120
_UNKNOWN = Diagnosis()
_OF_SIZE = ("exploding", "vanishing", "non-finite")
_DOT = re.compile(r"\.(?![^\[]*\])")
_OUTPUT = re.compile(r"([^#\[]*)(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Range:
    """The smallest and the largest value of one figure; equal for a single site."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class TreeLine:
    """One line of the tree: a site, all sites of a collapsed module, or a module that has no site.

    `label` includes the branches drawn before the name. `figures` by column name, those that are known. `words`: the
    marks of what is wrong. `path`: the name of the site, or the dotted path of the module.
    """

    label: str
    kind: str = ""
    shape: tuple[int, ...] | None = None
    figures: Mapping[str, Range] = field(default_factory=dict)
    histogram: LogHistogram | None = None
    words: tuple[str, ...] = ()
    path: str = ""


@dataclass(slots=True)
class _Node:
    """A module or site while the tree is built: its `path`, the position of its `site`, and its `children` by name."""

    label: str
    path: str = ""
    site: int | None = None
    children: dict[str, _Node] = field(default_factory=dict)

    def sites(self) -> Iterator[int]:
        if self.site is not None:
            yield self.site
        for child in self.children.values():
            yield from child.sites()


FIGURES: dict[str, Callable[[Site, Gains], float | None]] = {
    "forward_rms": lambda site, gains: None if site.forward is None else site.forward.rms,
    "gain": lambda site, gains: gains.forward,
    "backward_rms": lambda site, gains: None if site.backward is None else site.backward.rms,
    "backward_gain": lambda site, gains: gains.backward,
    "flat": lambda site, gains: site.flat_fraction,
    "dead": lambda site, gains: site.dead_share,
}


def _away(gain: float | None) -> float:
    """Return |ln gain|; infinite where the signal is lost or overflows, 0 where the gain is not known."""
    if gain is None or math.isnan(gain):
        return 0.0
    return math.inf if gain <= 0 or math.isinf(gain) else abs(math.log(gain))


SORTS: dict[str, Callable[[Site, Gains], float]] = {
    "gain": lambda site, gains: _away(gains.forward),
    "backward": lambda site, gains: _away(gains.backward),
    "flat": lambda site, gains: site.flat_fraction or 0.0,
    "dead": lambda site, gains: FIGURES["dead"](site, gains) or 0.0,
    "nonfinite": lambda site, gains: float(sum(s.nonfinite_count for s in (site.forward, site.backward) if s)),
}


def tree_lines(
    profile: NetworkProfile,
    diagnosis: Diagnosis = _UNKNOWN,
    *,
    depth: int | None = None,
    title: str = "(model)",
) -> tuple[TreeLine, ...]:
    """Return the tree of modules, the model itself first; sites that show what is wrong carry its mark.

    `depth`: a module that many levels down becomes one line, with the smallest and largest figures of its sites. None:
    all levels; if these take over 120 lines, as many levels as fit, and the path to the worst finding stays open. A
    module whose only content is another module shares its line. Raises `InputError` for a depth below 1.
    """
    if depth is not None:
        count("depth", depth, also=", or None for all levels")
    lines = _Lines(profile, diagnosis)
    root = _tree(profile.sites, title)
    if depth is not None:
        return lines.of(root, depth, None)
    deepest = _levels(root)
    fitting = [level for level in range(1, deepest) if _count(root, level) <= LINES_AT_MOST]
    if _count(root, deepest) <= LINES_AT_MOST:
        return lines.of(root, deepest, None)
    return lines.of(root, max(fitting, default=1), lines.worst)


def sorted_lines(
    profile: NetworkProfile, diagnosis: Diagnosis = _UNKNOWN, *, sort: str, top: int | None = None
) -> tuple[TreeLine, ...]:
    """Return one line for each site, worst first by gain, backward, flat, dead or nonfinite, at most `top` lines.

    Gains are sorted by |ln gain|; sites that a finding in the same direction names come first. Sites where the figure
    is 0 or not known are left out. Raises `InputError` for another `sort`, and for a `top` below 1.
    """
    one_of("sort", sort, SORTS)
    if top is not None:
        count("top", top)
    gains = site_gains(profile)
    # A norm hides a layer's odd scale from the gains between signal sites, so what was found comes first.
    direction = {"gain": "forward", "backward": "backward"}.get(sort)
    sizes = tuple(f for f in faults(diagnosis) if f.kind in _OF_SIZE and f.direction == direction)
    found = site_marks(profile, Diagnosis(sizes))
    ranked = [(index in found, SORTS[sort](site, gains[index]), index) for index, site in enumerate(profile.sites)]
    ranked.sort(key=lambda entry: (-entry[0], -entry[1]))
    lines = _Lines(profile, diagnosis)
    positions = [index for bad, figure, index in ranked if bad or figure > 0]
    return tuple(lines.site(profile.sites[index].name or "(model)", index) for index in positions[:top])


class _Lines:
    def __init__(self, profile: NetworkProfile, diagnosis: Diagnosis) -> None:
        self._sites = profile.sites
        self._gains = site_gains(profile)
        self._words = site_marks(profile, diagnosis)
        shown = site_marks(profile, Diagnosis(faults(diagnosis)[:1]))
        self.worst = min(shown, default=None)

    def of(self, root: _Node, depth: int, keep: int | None) -> tuple[TreeLine, ...]:
        """Return the lines of a tree down to a depth, and deeper only on the path to the site at position `keep`."""
        lines = [self._own(root.label, root)]

        def add_children(node: _Node, lead: str, level: int) -> None:
            children = list(node.children.values())
            for number, child in enumerate(children):
                last = number == len(children) - 1
                label = f"{lead}{'└─' if last else '├─'}{child.label}"
                if child.children and level >= depth and keep not in set(child.sites()):
                    lines.append(self._together(label, child))
                else:
                    lines.append(self._own(label, child))
                    add_children(child, lead + ("  " if last else "│ "), level + 1)

        add_children(root, "", 1)
        return tuple(lines)

    def _own(self, label: str, node: _Node) -> TreeLine:
        return TreeLine(label, path=node.path) if node.site is None else self.site(label, node.site)

    def site(self, label: str, index: int) -> TreeLine:
        """Return the line of one site."""
        site = self._sites[index]
        histogram = None if site.forward is None else site.forward.histogram
        words = self._words.get(index, ())
        # A function's site is named after it.
        function = site.kind.islower() and site.kind != "input" and label.split("#")[0].endswith(site.kind)
        kind = "function" if function else site.kind
        return TreeLine(label, kind, site.shape, self._figures([index]), histogram, words, site.name)

    def _together(self, label: str, node: _Node) -> TreeLine:
        members = list(node.sites())
        words = dict.fromkeys(word for index in members for word in self._words.get(index, ()))
        kind = counted(len(members), "site")
        shape = self._sites[members[-1]].shape
        return TreeLine(label, kind, shape, self._figures(members), words=tuple(words), path=node.path)

    def _figures(self, members: list[int]) -> dict[str, Range]:
        figures = {}
        for name, read in FIGURES.items():
            values = [read(self._sites[index], self._gains[index]) for index in members]
            numbers = [value for value in values if value is not None and not math.isnan(value)]
            if numbers:
                figures[name] = Range(min(numbers), max(numbers))
        return figures


def _tree(sites: tuple[Site, ...], title: str) -> _Node:
    paths = [_DOT.split(site.name) if site.name else [] for site in sites]
    inner = {tuple(path[:size]) for path in paths for size in range(1, len(path))}
    root = _Node(title)
    for index, path in enumerate(paths):
        node = root
        for part in _below_module(path, inner):
            node = node.children.setdefault(part, _Node(part, f"{node.path}.{part}" if node.path else part))
        node.site = index
    for child in root.children.values():
        _join(child)
    return root


def _below_module(path: list[str], inner: set[tuple[str, ...]]) -> list[str]:
    """Return the path; where a module has sites inside, the suffix `#1` or `[0]` of its own site is a further level."""
    if not path:
        return path
    base, suffix = _OUTPUT.fullmatch(path[-1]).groups()  # type: ignore[union-attr]
    return [*path[:-1], base, suffix] if suffix and (*path[:-1], base) in inner else path


def _join(node: _Node) -> None:
    """Merge a module that holds one child and no site with that child."""
    while node.site is None and len(node.children) == 1:
        (child,) = node.children.values()
        node.label += child.label if child.label[:1] in "#[" else f".{child.label}"
        node.path, node.site, node.children = child.path, child.site, child.children
    for child in node.children.values():
        _join(child)


def _levels(node: _Node) -> int:
    return 1 + max((_levels(child) for child in node.children.values()), default=0)


def _count(node: _Node, depth: int) -> int:
    return 1 + (sum(_count(child, depth - 1) for child in node.children.values()) if depth else 0)
