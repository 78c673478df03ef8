"""What the rules look at: the profiles of one network's seeds, and the chains of sites that its signal passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import compress, pairwise
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from propscope.diagnosis.stage import guessed_stage
from propscope.records.finding import Stage
from propscope.records.gains import carries_size, is_bounded, is_norm, name_pattern, norms_hold, stack_of
from propscope.records.interval import arithmetic_interval
from propscope.records.network import DIRECTIONS, Direction, Floats, NetworkProfile, Parameter, Site, share_graph
from propscope.records.stored_spec import read_spec
from propscope.records.summary import TensorSummary

Bools = NDArray[np.bool_]
Positions = tuple[tuple[int, ...], ...]
# A network of the grid, whose sites know the number of their layer, or an existing model.
Subject = Literal["grid", "model"]

Made = TypeVar("Made")

# Stands for ln 0: the ln of the smallest positive float64 is -745.
LN_ZERO = -750.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """The profiles of one network, one per seed, all with the same sites: `members`, never empty, without the inputs.

    `whole`: the same profiles with the sites of the model's inputs. `chains`: the sequences of two or more sites over
    which the size of a signal can be compared. `left_out`: the profiles that are not judged because their sites differ
    from those of the first one. `stage`: whether the weights are as drawn or trained.
    """

    members: tuple[NetworkProfile, ...]
    chains: tuple[Chain, ...]
    left_out: tuple[NetworkProfile, ...] = ()
    whole: tuple[NetworkProfile, ...] = ()
    stage: Stage = "unknown"
    _made: dict[Callable[[Evidence], Any], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, profiles: Iterable[NetworkProfile], *, stage: Stage | None = None) -> Evidence:
        """Return the evidence of the profiles of one network; profiles with other sites than the first are left out.

        Without a `stage` it is guessed.
        """
        whole = tuple(profiles)
        given = tuple(profile.without_inputs for profile in whole)
        names = [site.name for site in given[0].sites]
        alike = [[site.name for site in profile.sites] == names for profile in given]
        members = tuple(compress(given, alike))
        left_out = tuple(profile for profile, same in zip(given, alike, strict=True) if not same)
        share_graph(members)
        comparable = [positions for positions in _comparable(members[0]) if len(positions) > 1]
        chains = tuple(_chains(members, comparable))
        return cls(members, chains, left_out, tuple(compress(whole, alike)), stage or guessed_stage(members))

    def once(self, make: Callable[[Evidence], Made]) -> Made:
        """Return what a function makes of the evidence: it is called once, however many rules ask."""
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]  # type: ignore[no-any-return]

    @property
    def alone(self) -> tuple[Evidence, ...]:
        """Each member by itself, without chains; made once."""
        return self.once(_alone)

    @property
    def shown_by_all(self) -> float:
        """The confidence in what every member shows: see `succession`."""
        return succession(len(self.members), len(self.members))

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites of the first member."""
        return self.members[0].sites

    def columns(self) -> Iterator[tuple[int, tuple[Site, ...]]]:
        """Yield the position of each site with the site in every member."""
        yield from enumerate(zip(*(member.sites for member in self.members), strict=True))

    def mean(self, index: int, name: str) -> float:
        """Return the mean over seeds of a statistic of a site; NaN where no member has it."""
        values = [value for member in self.members if (value := getattr(member.sites[index], name)) is not None]
        return sum(values) / len(values) if values else math.nan

    @property
    def classes(self) -> int | None:
        """Between how many classes the loss chooses, None where that is not known: propscope's own networks say so."""
        return self.once(_classes)

    @property
    def subject(self) -> Subject:
        """Which rules apply: "grid" for a stack of numbered layers, "model" for any other network."""
        return subject_of(self.members[0])


def _classes(evidence: Evidence) -> int | None:
    spec = read_spec(evidence.members[0].provenance)
    network = spec.get("network")
    outputs = network.get("output_size") if isinstance(network, Mapping) else None
    return outputs if spec.get("loss") == "cross-entropy" and isinstance(outputs, int) else None


def _alone(evidence: Evidence) -> tuple[Evidence, ...]:
    pairs = zip(evidence.members, evidence.whole or evidence.members, strict=True)
    return tuple(Evidence((member,), (), whole=(whole,), stage=evidence.stage) for member, whole in pairs)


def subject_of(profile: NetworkProfile) -> Subject:
    """Return "grid" for a profile whose sites know the number of their layer, else "model"."""
    return "grid" if any(site.layer is not None for site in profile.sites) else "model"


def succession(shown: int, seeds: int) -> float:
    """Return the probability that the next seed shows it too: (k + 1) / (n + 2), Laplace's rule of succession."""
    return (shown + 1) / (seeds + 2)


def _comparable(profile: NetworkProfile) -> Iterator[Positions]:
    """Yield the positions of the sites of each chain; the time steps of a recurrent layer count as one place."""
    if subject_of(profile) == "grid":
        signal = set(map(id, profile.signal_sites))
        yield tuple((index,) for index, site in enumerate(profile.sites) if id(site) in signal)
        return
    weighing = {parameter.name.rpartition(".")[0] for parameter in profile.parameters}
    recurrent = {stack_of(site) for site in profile.sites if "#" in site.name and module_of(site.name) in weighing}
    stacks: dict[tuple[str, str, str], list[int]] = {}
    stream = _sums_of_stream(profile)
    for index, site in enumerate(profile.sites):
        if (kind := _kind_of(site)) is None or (kind == "residual" and index not in stream):
            continue
        # The gates of a recurrent layer run side by side, and its calls are steps in time: each place is a chain.
        pattern, stack = "", stack_of(site)
        if stack in recurrent:
            pattern = name_pattern(module_of(site.name))
        elif profile.graph.known:
            stack = ""
        elif kind == "residual":
            pattern = name_pattern(site.name)
        stacks.setdefault((kind, pattern, stack), []).append(index)
    for (kind, pattern, _), indices in stacks.items():
        calls: dict[str, list[int]] = {}
        for index in indices:
            calls.setdefault(module_of(profile.sites[index].name), []).append(index)
        if pattern and kind != "residual" and len(calls) > 1:
            yield tuple(map(tuple, calls.values()))
        else:
            yield from (tuple((index,) for index in line) for line in profile.graph.lines(indices))


def _sums_of_stream(profile: NetworkProfile) -> frozenset[int]:
    """Return the sums that close a block: not those of embeddings, or of a value with itself as rotated."""
    sites, graph = profile.sites, profile.graph
    if not graph.known:
        return frozenset(range(len(sites)))
    sums = (block.sum for block in graph.blocks)
    return frozenset(at for at in sums if any(sites[before].role != "embedding" for before in graph.inputs[at]))


@dataclass(frozen=True, slots=True)
class Stretch:
    """The part of a chain over which a signal changes most: positions `start` and `end` in the profile, both included.

    `change`: ln of the factor from start to end, in the order in which the signal passes them, one value per seed.
    `steps`: the number of layers between them.
    """

    start: int
    end: int
    steps: int
    change: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds of ln of the factor."""
        return sum(self.change) / len(self.change)


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """Sites that a signal passes one after the other and whose sizes are comparable, by position: `indices`.

    The first time step of a recurrent layer stands for all of them, with the rms over all steps.

    `forward`, `backward`: ln of the size of the signal, shape (seeds, sites). The size is the rms forward, at most 1
    where a bounded function follows, and the norm of one sample's gradient backward, because a layer that is twice as
    wide halves the mean square of the gradient (theory conserves E|delta|^2). -750 for a signal of zero, NaN where it
    was not seen or is not finite.

    `forward_held`, `backward_held`: whether the second of two sites does not have its size from the first, one value
    fewer than `indices`: a norm or a bounded function gives values a size of their own, a norm undoes what the weights
    beside it do to a gradient, and divides it by the size of what entered.
    """

    indices: tuple[int, ...]
    forward: Floats
    backward: Floats
    forward_held: tuple[bool, ...]
    backward_held: tuple[bool, ...]

    def between(self, start: int, end: int, direction: Direction) -> Floats:
        """Return ln of the factor from one position in the profile to another, shape (seeds,)."""
        logs, at = getattr(self, direction), self.indices.index
        found: Floats = logs[:, at(end)] - logs[:, at(start)]
        return found

    def zeros(self, direction: Direction) -> tuple[int, ...]:
        """Return the positions in the profile where the signal is zero in some seed, in execution order."""
        logs = getattr(self, direction)
        return tuple(index for index, zero in zip(self.indices, (logs == LN_ZERO).any(axis=0), strict=True) if zero)

    def worst(
        self,
        direction: Direction,
        *,
        rising: bool,
        everywhere: bool = False,
        among: Set[int] | None = None,
    ) -> Stretch | None:
        """Return the stretch over which the mean ln rises (falls) most; None where fewer than two sites are seen.

        Unless `everywhere`, what changes between two sites where the size is held does not count; a zero does.
        `among`: the positions of the only sites to look at.
        """
        logs, indices = getattr(self, direction), list(self.indices)
        left_out = [among is not None and index not in among for index in indices]
        seen = np.flatnonzero(~(np.isnan(logs).any(axis=0) | left_out)).tolist()
        if len(seen) < 2:
            return None
        logs, indices = logs[:, seen], [indices[column] for column in seen]
        if not everywhere:
            steps, held = np.diff(logs, axis=1), getattr(self, f"{direction}_held")
            crossed = np.array([any(held[start:end]) for start, end in pairwise(seen)])
            steps[crossed & (np.abs(steps) < -LN_ZERO / 2)] = 0
            logs = np.cumsum(np.concatenate([logs[:, :1], steps], axis=1), axis=1)
        if direction == "backward":
            logs, indices = logs[:, ::-1], indices[::-1]
        start, end = steepest_fall(logs.mean(axis=0) * (-1 if rising else 1))
        change = tuple((logs[:, end] - logs[:, start]).tolist())
        return Stretch(indices[start], indices[end], end - start, change)


def _chains(members: tuple[NetworkProfile, ...], comparable: Iterable[Positions]) -> Iterator[Chain]:
    """Yield the chain of the sites at each of these sequences of positions."""
    model = subject_of(members[0]) == "model"
    bypassed = {direction: _bypassed(members, direction) for direction in DIRECTIONS if model}
    for positions in comparable:
        indices = tuple(calls[0] for calls in positions)
        logs = {
            direction: np.array([[_over_time(member, calls, direction) for calls in positions] for member in members])
            for direction in DIRECTIONS
        }
        for direction, around in bypassed.items():
            logs[direction][around[:, indices] & (logs[direction] == LN_ZERO)] = math.nan
        # What enters a bounded function passes on at most 1.
        bounded = [is_bounded(members[0].sites[index].activation) for index in indices]
        yield Chain(
            indices,
            np.where(bounded & (logs["forward"] > 0), 0.0, logs["forward"]),
            logs["backward"],
            forward_held=tuple(not carries_size(members[0], *pair) for pair in pairwise(indices)),
            backward_held=tuple(
                norms_hold(members[0], *pair) or _is_grown_by_norm(members, *pair) for pair in pairwise(indices)
            ),
        )


def _is_grown_by_norm(members: tuple[NetworkProfile, ...], first: int, last: int) -> bool:
    """Return whether most of what the gradient grows by from one site back to another comes from a norm between them.

    A norm divides the gradient by the size of what entered it. The signal may go by it too, and still all of the
    gradient come through it: as of a class token of 0.02, which is the only one that is read.
    """
    profile = members[0]
    between = range(first + 1, last) if profile.graph.known else ()
    fed = [at for at in between if is_norm(profile.sites[at]) and first in profile.graph.inputs[at]]
    # To see that no norm stands there takes less time than to measure every seed.
    if not fed or not (grown := _growth(members, last, first)) > 1:
        return False
    return any(_growth(members, at, first) > grown / 2 and profile.graph.feeds(at, last) for at in fed)


def _growth(members: tuple[NetworkProfile, ...], behind: int, before: int) -> float:
    """Return the mean over seeds of ln of the gradient at one site over that at a later one."""
    sizes = [[_log_size(member.sites[at], "backward") for at in (before, behind)] for member in members]
    return sum(at_first - at_last for at_first, at_last in sizes) / len(sizes)


def steepest_fall(curve: Floats) -> tuple[int, int]:
    """Return the positions (i, j), i < j, between which a curve of two or more values falls most.

    Steps at either end that fall by less than a quarter of the mean step are cut off, so that a fall within one layer
    names only that layer.
    """
    best, start, end, top = -math.inf, 0, 1, 0
    for at in range(1, len(curve)):
        if curve[at - 1] >= curve[top]:
            top = at - 1
        if (fall := float(curve[top] - curve[at])) > best:
            best, start, end = fall, top, at
    little = best / (end - start) / 4
    while end - start > 1 and curve[start] - curve[start + 1] < little:
        start += 1
    while end - start > 1 and curve[end - 1] - curve[end] < little:
        end -= 1
    return start, end


def parameters_by_module(evidence: Evidence) -> Mapping[str, Sequence[Parameter]]:
    """Return the parameters of the first member by the names of the modules that own them."""
    found: dict[str, list[Parameter]] = {}
    for parameter in evidence.members[0].parameters:
        found.setdefault(parameter.name.rpartition(".")[0], []).append(parameter)
    return found


def sites_by_name(evidence: Evidence) -> Mapping[str, Site]:
    """Return the sites of the first member by their names."""
    return {site.name: site for site in evidence.sites}


def module_of(name: str) -> str:
    """Return the name of a site's module: the site's name without the call and the key in its output."""
    return name.partition("[")[0].partition("#")[0]


def _kind_of(site: Site) -> str | None:
    """Return what the sites of one chain have in common; None for a site that belongs to no chain."""
    if site.role == "pre-activation":
        return f"pre-activation {site.activation.lower()}"
    if site.role == "residual":
        return "residual"
    return None


def _over_time(profile: NetworkProfile, calls: tuple[int, ...], direction: Direction) -> float:
    """Return ln of the rms over the time steps of a layer; steps that were not seen are left out."""
    logs = [size for index in calls if not math.isnan(size := _log_size(profile.sites[index], direction))]
    if len(logs) < 2:
        return logs[0] if logs else math.nan
    return 0.5 * (float(np.logaddexp.reduce([2 * size for size in logs])) - math.log(len(logs)))


def _log_size(site: Site, direction: Direction) -> float:
    summary: TensorSummary | None = getattr(site, direction)
    if summary is None or not summary.count or summary.nonfinite_count:
        return math.nan
    if (rms := summary.rms) == 0:
        return LN_ZERO
    units = math.prod(site.shape[1:]) if direction == "backward" else 1
    return math.log(rms) + 0.5 * math.log(units or 1)


def _bypassed(members: tuple[NetworkProfile, ...], direction: Direction) -> Bools:
    """Return where zeros are gone around by a signal that is not zero, shape (seeds, sites)."""
    return np.array([_around_zeros(member, direction) for member in members])


def _around_zeros(profile: NetworkProfile, direction: Direction) -> Sequence[bool] | Bools:
    """Return for each site that is zero whether a way of other sites leads around it.

    Where the graph is not known, whether the signal is seen farther on.
    """
    sizes = [getattr(site, direction) for site in profile.sites]
    if profile.graph.known:
        # A gradient that is not seen, as before frozen layers, is not lost there.
        others = (index for index, summary in enumerate(sizes) if summary is None or summary.rms != 0)
        return profile.graph.bypassed_through(frozenset(others))
    alive = np.array([summary is not None and summary.rms > 0 for summary in sizes])
    alive = alive if direction == "backward" else alive[::-1]
    beyond = np.concatenate([[False], np.logical_or.accumulate(alive)[:-1]])
    return beyond if direction == "backward" else beyond[::-1]


def change_interval(evidence: Evidence, stretch: Stretch) -> tuple[float, float]:
    """Return the 95% interval of the mean over seeds of ln of the factor over a stretch.

    With a single seed the interval comes from the theory of a He-initialized ReLU network: over L layers of n units
    ln of the factor has a standard deviation of sqrt(5 L / n) / 2 (Hanin, Nica 2020: ln of the mean square has the
    variance 5 L / n, and ln rms is half of it).
    """
    if len(stretch.change) > 1:
        interval = arithmetic_interval(stretch.change)
        return interval.low, interval.high
    low, high = sorted((stretch.start, stretch.end))
    units = [site.units for site in evidence.sites[low : high + 1] if site.units]
    half = 1.96 * 0.5 * math.sqrt(5 * stretch.steps / min(units)) if units else 0.0
    return stretch.mean - half, stretch.mean + half
