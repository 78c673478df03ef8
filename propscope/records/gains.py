"""By which factor the signal changes from site to site, and which sites are comparable."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from propscope.records.activations import find_activation
from propscope.records.graph import SiteGraph
from propscope.records.network import UNKNOWN, NetworkProfile, Parent, Site, signal_of
from propscope.records.summary import TensorSummary

_STRETCH = 4.0
# Operations that multiply what reaches them, and those that put it beside or on top of each other.
_PRODUCTS = frozenset(("mul", "mul_", "multiply"))
_SUMS = frozenset(("add", "add_", "sub", "sub_", "cat", "concat", "stack"))
# The functions of torch that normalize what enters them; the class of a module that does has "norm" in its name.
_NORMS = frozenset(("batch_norm", "group_norm", "instance_norm", "layer_norm", "normalize", "rms_norm"))

_Ways = list[tuple[int | None, tuple[int, ...], tuple[int, ...], bool]]
# The rms of sites by their position.
_Sizes = Sequence[float] | Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Gains:
    """The gains of a site along the graph, None where it has none.

    `forward`: rms over that of the signal site that feeds it, which is the last one where several do. `backward`: rms
    of the gradient over that of the signal sites that it feeds, as sqrt(sum of squares), since their gradients add up.
    `step`: forward rms over that of the sites that feed it, whatever their roles: see `input_rms`. `before`, `after`:
    the positions of the signal sites that `forward` and `backward` refer to.
    """

    forward: float | None = None
    backward: float | None = None
    step: float | None = None
    before: int | None = None
    after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SeedGains:
    """The gains of a site in several profiles of one network: as in `Gains`, but with a value for each profile.

    `before` and `after` are those of the first profile.
    """

    forward: tuple[float | None, ...]
    backward: tuple[float | None, ...]
    step: tuple[float | None, ...]
    before: int | None
    after: tuple[int, ...]


def site_gains(profile: NetworkProfile) -> tuple[Gains, ...]:
    """Return the gains of every site, in execution order; only signal sites have `forward` and `backward`."""
    return tuple(
        Gains(gain.forward[0], gain.backward[0], gain.step[0], gain.before, gain.after)
        for gain in gains_of_seeds((profile,))
    )


def gains_of_seeds(profiles: Sequence[NetworkProfile]) -> tuple[SeedGains, ...]:
    """Return the gains of every site over profiles of one network, in execution order; all have the same sites.

    What feeds what is found once for those that have one graph: see `share_graph`.
    """
    known: dict[tuple[SiteGraph, tuple[int, ...]], _Ways] = {}
    found: list[list[tuple[float | None, float | None, float | None]]] = []
    for profile in profiles:
        if (ways := known.get(key := (profile.graph, profile.signal_places))) is None:
            ways = known[key] = _ways(profile)
        ahead = [signal_of(site.forward) for site in profile.sites]
        back = [signal_of(site.backward) for site in profile.sites]
        found.append(
            [
                (
                    None if before is None else _ratio(ahead[index], ahead[before]),
                    _ratio(back[index], _joined(back, fed)) if fed else None,
                    _step(ahead, ahead[index], sources, multiplied),
                )
                for index, (before, fed, sources, multiplied) in enumerate(ways)
            ]
        )
    gains = []
    for values, (before, after, _, _) in zip(zip(*found, strict=True), next(iter(known.values())), strict=True):
        forward, backward, step = zip(*values, strict=True)
        gains.append(SeedGains(forward, backward, step, before, after))
    return tuple(gains)


def input_rms(profile: NetworkProfile, index: int) -> float | None:
    """Return the rms of what enters the site at a position, None where it is not known or the model's input.

    That of the site it was computed from. Of two that are multiplied, as a gate and what it gates, the product; of any
    others the root of the sum of squares, as of independent summands.
    """
    sources, multiplied = _sources(profile, index)
    return _entering({at: signal_of(profile.sites[at].forward) for at in sources}, sources, multiplied)


def is_chain(site: Site, other: Site) -> bool:
    """Return whether two signal sites belong to one stack of layers, so that their rms should be alike.

    They must enter the same nonlinearity, have numbers of positions within a factor of 4 of each other (pooling changes
    an element's rms without being at fault), and have names of one stack: an encoder and a decoder are two stacks.
    """
    a, b = extent(site), extent(other)
    alike = bool(a and b) and 1 / _STRETCH <= a / b <= _STRETCH
    same = site.role == other.role == "pre-activation" and site.activation.lower() == other.activation.lower()
    return alike and same and same_stack(site, other)


def same_stack(site: Site, other: Site) -> bool:
    """Return whether two sites are in one stack of layers, by their names: encoder.0.a and decoder.3.b are not."""
    return stack_of(site) == stack_of(other)


def stack_of(site: Site) -> str:
    """Return the part of a site's name before its first level that is a number, or before its last without one."""
    parts = site.name.split(".")
    number = next((level for level, part in enumerate(parts) if part.split("#")[0].isdecimal()), len(parts) - 1)
    return name_pattern(".".join(parts[:number]))


def name_pattern(name: str, *, parts: int | None = None) -> str:
    """Return a name, or its last `parts` levels, with * for its numbers: one pattern for one place in all layers."""
    return re.sub(r"(?<![#\[\d])\d+", "*", name if parts is None else ".".join(name.split(".")[-parts:]))


def block_pattern(name: str) -> str:
    """Return a name with * for the levels that are whole numbers, as blocks have; `norm1` and `norm2` stay apart."""
    return ".".join("*" if part.isdecimal() else part for part in name.split("."))


def extent(site: Site) -> int:
    """Return the number of positions of a sample, such as the pixels of an image."""
    return math.prod(site.shape[2:] if len(site.shape) > 3 else site.shape[1:-1])


def vector_length(site: Site) -> int:
    """Return the length of a sample's vector, whose direction `mean_cosine` and `effective_rank` compare.

    The features where they lie on the last axis, as of tokens; else all elements of a sample, as of an image.
    """
    together = site.features is None or site.shape[-1:] != (site.features,) or len(site.shape) > 4
    return math.prod(site.shape[1:]) if together else site.features or 1


def is_norm(site: Site) -> bool:
    """Return whether the site is the output of a norm."""
    # The output of a norm that enters a nonlinearity has the role of a pre-activation. A site is named by the last
    # module that returned it, such as a dropout that does nothing, and not by the function that computed it.
    last = {parent.operations[-1] for parent in site.parents or () if parent.operations}
    return site.role == "norm" or "norm" in site.kind.lower() or (bool(last) and last <= _NORMS)


def passes_norm(parent: Parent) -> bool:
    """Return whether a norm that a module ran as a function stands on the way from a parent."""
    return not _NORMS.isdisjoint(parent.operations)


def norms_hold(profile: NetworkProfile, first: int, last: int) -> bool:
    """Return whether every way from one site to another that crosses a weight matrix passes a norm; both by position.

    The second site counts. False where no way passes a norm, and where the graph is not known.
    """
    sites, names = profile.sites, profile.graph.names
    if not profile.graph.known or not profile.graph.feeds(first, last):
        return False
    # The sites behind a norm, and whether a way without norms to a site crosses a matrix.
    normed: set[str] = set()
    weighed = {names[first]: False}
    for site in sites[first + 1 : last + 1]:
        parents = site.parents or ()
        free = [
            parent.name
            for parent in parents
            if parent.name in weighed and not is_norm(site) and not passes_norm(parent)
        ]
        if any(parent.name in normed or (parent.name in weighed and parent.name not in free) for parent in parents):
            normed.add(site.name)
        if free:
            matrix = any(len(parameter.shape) > 1 for parameter in profile.parameters_of(site))
            weighed[site.name] = matrix or any(weighed[name] for name in free)
    return names[last] in normed and not weighed.get(names[last], False)


def has_own_size(site: Site) -> bool:
    """Return whether the size of a site's values does not follow from its inputs': a norm, a bounded function."""
    return is_norm(site) or site.kind.lower() == "softmax" or is_bounded(site.kind)


def is_bounded(activation: str) -> bool:
    """Return whether an activation, given by its name or its torch class, is known to be bounded on both sides."""
    entry = find_activation(activation)
    return entry is not None and entry.bounded


def carries_size(profile: NetworkProfile, first: int, last: int) -> bool:
    """Return whether a site's size follows from that of an earlier one: some way between them has no size of its own.

    Both are given by position. A bounded function right after the first site is on the way, since it passes on what is
    small. Where the graph is not known, the sites that ran between them are the way.
    """
    inputs, sites = profile.graph.inputs, profile.sites
    waiting, visited = [last], {first}
    while waiting:
        index = waiting.pop()
        if has_own_size(sites[index]) and not (first in inputs[index] and is_bounded(sites[index].kind)):
            continue
        if first in inputs[index]:
            return True
        waiting += [before for before in inputs[index] if before > first and before not in visited]
        visited.update(inputs[index])
    return False


def is_sound(summary: TensorSummary) -> bool:
    """Return whether all values of a summary are finite and some are not zero."""
    return bool(summary.count) and not summary.nonfinite_count and summary.rms > 0


def _multiplies(operations: tuple[str, ...]) -> bool:
    return bool(_PRODUCTS.intersection(operations)) and not _SUMS.intersection(operations)


def _ways(profile: NetworkProfile) -> _Ways:
    """Return for each site the signal site that feeds it, the signal sites that it feeds, and its sources."""
    before: list[int | None] = [None] * len(profile.sites)
    after: list[list[int]] = [[] for _ in profile.sites]
    for place, source in zip(profile.signal_places[1:], profile.signal_inputs, strict=True):
        before[place] = source
        if source is not None:
            after[source].append(place)
    return [
        (source, tuple(fed), *_sources(profile, index))
        for index, (source, fed) in enumerate(zip(before, after, strict=True))
    ]


def _sources(profile: NetworkProfile, index: int) -> tuple[tuple[int, ...], bool]:
    """Return the sites that a site was computed from, () where they are not known, and whether it multiplies them."""
    parents, own = profile.graph.inputs[index], profile.sites[index].parents or ()
    if any(parent.name == UNKNOWN for parent in own) or any(profile.sites[at].role == "input" for at in parents):
        return (), False
    return parents, all(_multiplies(parent.operations) for parent in own)


def _entering(sizes: _Sizes, parents: tuple[int, ...], multiplied: bool) -> float | None:
    if not parents or not all(0 < sizes[at] < math.inf for at in parents):
        return None
    return sizes[parents[0]] * sizes[parents[1]] if multiplied and len(parents) == 2 else _joined(sizes, parents)


def _step(sizes: _Sizes, here: float, parents: tuple[int, ...], multiplied: bool) -> float | None:
    before = _entering(sizes, parents, multiplied) if 0 < here < math.inf else None
    return None if before is None else _ratio(here, before)


def _joined(sizes: _Sizes, at: tuple[int, ...]) -> float:
    return sizes[at[0]] if len(at) == 1 else math.hypot(*(sizes[index] for index in at))


def _ratio(above: float, below: float) -> float | None:
    """Return the ratio of two sizes, Inf where only the second is zero; None where it is not known."""
    found = above / below if below else math.nan if above == 0 else above * math.inf
    return None if math.isnan(found) else found
