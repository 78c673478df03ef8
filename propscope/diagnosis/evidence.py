"""What the rules look at: the profiles of one network's seeds, and the stretches that its signal passes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from propscope.records.gains import name_pattern, same_stack
from propscope.records.interval import arithmetic_interval
from propscope.records.network import DIRECTIONS, Direction, Floats, NetworkProfile, Site
from propscope.records.summary import TensorSummary

Bools = NDArray[np.bool_]
Places = tuple[tuple[int, ...], ...]

# ln of less than the least positive float64: what stands for a signal of exactly zero.
ZERO = -750.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """The profiles of one network, one a seed, all with the sites of the first: `members`, never empty.

    `chains`: the stretches of sites over which a signal's size can be compared, each of two or more.
    """

    members: tuple[NetworkProfile, ...]
    chains: tuple[Chain, ...]

    @classmethod
    def of(cls, profiles: Iterable[NetworkProfile]) -> Evidence:
        """Return the evidence of profiles of one network; those whose sites are not the first one's are left out."""
        members = tuple(profiles)
        names = [site.name for site in members[0].sites]
        members = tuple(member for member in members if [site.name for site in member.sites] == names)
        chains = (Chain.of(members, places) for places in _comparable(members[0]))
        return cls(members, tuple(chain for chain in chains if len(chain.indices) > 1))

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites of the first member."""
        return self.members[0].sites

    def columns(self) -> Iterator[tuple[int, tuple[Site, ...]]]:
        """Yield each site's position with the site in every member."""
        yield from enumerate(zip(*(member.sites for member in self.members), strict=True))

    def mean(self, index: int, name: str) -> float:
        """Return the mean over seeds of a figure of a site; NaN where no member has it."""
        values = [value for member in self.members if (value := getattr(member.sites[index], name)) is not None]
        return sum(values) / len(values) if values else math.nan

    @property
    def layered(self) -> bool:
        """Whether the network is a stack of numbered layers, as those of the grid are."""
        return is_layered(self.members[0])


def is_layered(profile: NetworkProfile) -> bool:
    """Return whether a network is a stack of numbered layers."""
    return any(site.layer is not None for site in profile.sites)


def _comparable(profile: NetworkProfile) -> Iterator[Places]:
    """Yield the positions of sites of one kind, stack by stack: those of a layer's steps in time together."""
    if is_layered(profile):
        signal = set(map(id, profile.signal_sites))
        yield tuple((index,) for index, site in enumerate(profile.sites) if id(site) in signal)
        return
    weighing = {parameter.name.rpartition(".")[0] for parameter in profile.parameters}
    recurrent = [site for site in profile.sites if "#" in site.name and module_of(site.name) in weighing]
    stacks: list[tuple[tuple[str, str], list[int]]] = []
    for index, site in enumerate(profile.sites):
        if (kind := _kind_of(site)) is None:
            continue
        # The gates of a recurrent layer run side by side, and its calls are steps in time: each place is a chain.
        timed = any(same_stack(site, other) for other in recurrent)
        key = (
            kind,
            name_pattern(module_of(site.name)) if timed else name_pattern(site.name) if kind == "residual" else "",
        )
        for other, indices in stacks:
            if other == key and same_stack(profile.sites[indices[0]], site):
                indices.append(index)
                break
        else:
            stacks.append((key, [index]))
    for (kind, place), indices in stacks:
        calls: dict[str, list[int]] = {}
        for index in indices:
            calls.setdefault(module_of(profile.sites[index].name), []).append(index)
        if place and kind != "residual" and len(calls) > 1:
            yield tuple(map(tuple, calls.values()))
        else:
            yield tuple((index,) for index in indices)


@dataclass(frozen=True, slots=True)
class Stretch:
    """The part of a chain over which a signal changes most: positions `start` and `end` in the profile, both included.

    `change`: ln of the factor from start to end in the direction's own order, for each seed. `steps`: layers between.
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

    Of a layer that takes steps in time the first stands for all, with the rms over them.

    `forward`, `backward`: ln of the signal's size, shape (seeds, sites): of the rms forward, of the norm of a sample
    backward, since a layer that is twice as wide halves the gradient's mean square (theory keeps E|delta|^2). -750 for
    a signal of zero, NaN where it was not seen or not finite.
    """

    indices: tuple[int, ...]
    forward: Floats
    backward: Floats

    @classmethod
    def of(cls, members: tuple[NetworkProfile, ...], places: Places) -> Chain:
        """Return the chain of these sites in every member."""
        indices = tuple(calls[0] for calls in places)
        forward, backward = (
            np.array([[_over_time(member, calls, direction) for calls in places] for member in members])
            for direction in DIRECTIONS
        )
        if not is_layered(members[0]):
            for logs, direction in ((forward, DIRECTIONS[0]), (backward, DIRECTIONS[1])):
                logs[_passed_by(members, indices, direction) & (logs == ZERO)] = math.nan
        return cls(indices, forward, backward)

    def between(self, start: int, end: int, direction: Direction) -> Floats:
        """Return ln of the factor from one position in the profile to another, shape (seeds,)."""
        logs, at = getattr(self, direction), self.indices.index
        found: Floats = logs[:, at(end)] - logs[:, at(start)]
        return found

    def worst(self, direction: Direction, *, rising: bool) -> Stretch | None:
        """Return the stretch over which the mean of ln rises (falls) most; None where fewer than two sites are seen."""
        logs, indices = getattr(self, direction), list(self.indices)
        if direction == "backward":
            logs, indices = logs[:, ::-1], indices[::-1]
        seen = np.flatnonzero(~np.isnan(logs).any(axis=0)).tolist()
        logs, indices = logs[:, seen], [indices[place] for place in seen]
        if len(indices) < 2:
            return None
        start, end = steepest_fall(logs.mean(axis=0) * (-1 if rising else 1))
        change = tuple((logs[:, end] - logs[:, start]).tolist())
        return Stretch(indices[start], indices[end], end - start, change)


def steepest_fall(curve: Floats) -> tuple[int, int]:
    """Return the positions (i, j), i < j, of a curve of two or more values between which it falls most.

    At both ends what falls by less than a quarter of the mean step is left out: where one layer does it all, that one.
    """
    best, start, end, top = -math.inf, 0, 1, 0
    for place in range(1, len(curve)):
        if curve[place - 1] >= curve[top]:
            top = place - 1
        if (fall := float(curve[top] - curve[place])) > best:
            best, start, end = fall, top, place
    little = best / (end - start) / 4
    while end - start > 1 and curve[start] - curve[start + 1] < little:
        start += 1
    while end - start > 1 and curve[end - 1] - curve[end] < little:
        end -= 1
    return start, end


def module_of(name: str) -> str:
    """Return the name of a site's module: without the call, and the key in its output."""
    return name.partition("[")[0].partition("#")[0]


def _kind_of(site: Site) -> str | None:
    """Return what a site must share with others to be in one chain with them, None where it is in none."""
    if site.role == "pre-activation":
        return f"pre-activation {site.activation.lower()}"
    if site.role == "residual":
        return "residual"
    return None


def _over_time(profile: NetworkProfile, calls: tuple[int, ...], direction: Direction) -> float:
    """Return ln of the rms over the steps of a layer, of those that were seen."""
    logs = [size for index in calls if not math.isnan(size := _log_size(profile.sites[index], direction))]
    if len(logs) < 2:
        return logs[0] if logs else math.nan
    return 0.5 * (float(np.logaddexp.reduce([2 * size for size in logs])) - math.log(len(logs)))


def _log_size(site: Site, direction: Direction) -> float:
    summary: TensorSummary | None = getattr(site, direction)
    if summary is None or not summary.count or summary.nonfinite_count:
        return math.nan
    if summary.rms == 0:
        return ZERO
    units = math.prod(site.shape[1:]) if direction == "backward" else 1
    return math.log(summary.rms) + 0.5 * math.log(units or 1)


def _passed_by(members: tuple[NetworkProfile, ...], indices: tuple[int, ...], direction: Direction) -> Bools:
    """Return where a signal that is not zero is seen farther on, shape (seeds, sites): it goes around what is zero."""
    around = []
    for member in members:
        sizes = [getattr(site, direction) for site in member.sites]
        alive = np.array([summary is not None and summary.rms > 0 for summary in sizes])
        alive = alive if direction == "backward" else alive[::-1]
        beyond = np.concatenate([[False], np.logical_or.accumulate(alive)[:-1]])
        around.append((beyond if direction == "backward" else beyond[::-1])[list(indices)])
    return np.array(around)


def limits_of(evidence: Evidence, stretch: Stretch) -> tuple[float, float]:
    """Return the 95% interval of the mean over seeds of ln of the factor over a stretch.

    Of a single seed by what finite width makes of a He ReLU network: L layers of n units wander by a standard deviation
    of sqrt(5 L / n) / 2 (Hanin, Nica 2020; ln q has variance 5 L / n, and ln rms is half of it).
    """
    if len(stretch.change) > 1:
        interval = arithmetic_interval(stretch.change)
        return interval.low, interval.high
    low, high = sorted((stretch.start, stretch.end))
    units = [site.units for site in evidence.sites[low : high + 1] if site.units]
    half = 1.96 * 0.5 * math.sqrt(5 * stretch.steps / min(units)) if units else 0.0
    return stretch.mean - half, stretch.mean + half
