"""`PairSummary`: what the profiles of several seeds show together, for each pair of initializer and activation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from propscope.records.expectations import Deviation, end_to_end, mean_deviation, reason_without_theory
from propscope.records.interval import Interval, geometric_interval
from propscope.records.network import Direction, Label, NetworkProfile, Site
from propscope.records.profile_set import ProfileSet


@dataclass(frozen=True, slots=True)
class PairName:
    """A pair of which nothing is read: its labels without the seed, and the number of its seeds."""

    labels: dict[str, Label]
    seeds: int


@dataclass(frozen=True, slots=True)
class PairSummary:
    """What the profiles of one pair show together.

    `labels`: all except the seed. A gain is the factor per layer, a factor is over the whole depth; both are geometric
    means over seeds. `first_std`, `last_std`: standard deviation of the first and last activation, geometric means over
    seeds. `forward_deviation`, `backward_deviation`: from the rms that theory expects where the signal ends;
    `no_theory`: why theory has no prediction, or "". `flat_fraction`, `dead_fraction`: over all layers and seeds.
    `mean_cosine`: at the last layer, the arithmetic mean over seeds. `nonfinite_count`: the number of NaN and Inf
    elements at all sites and parameters, over all seeds.
    """

    labels: dict[str, Label]
    seeds: int
    layers: int
    forward_gain: Interval
    forward_factor: Interval
    backward_gain: Interval
    backward_factor: Interval
    first_std: float
    last_std: float
    forward_deviation: Deviation
    backward_deviation: Deviation
    no_theory: str
    flat_fraction: float | None
    dead_fraction: float | None
    mean_cosine: float | None
    nonfinite_count: int


def summarize_pairs(profiles: ProfileSet) -> tuple[PairSummary, ...]:
    """Return a summary of each group of profiles that differ only in the seed, in the order of the set."""
    return tuple(_summarize(dict(key), members) for key, members in profiles.groups("seed").items())


def _summarize(labels: dict[str, Label], members: ProfileSet) -> PairSummary:
    layers = max(len(profile.signal_sites) for profile in members)
    factors = {direction: _factor(members, direction) for direction in ("forward", "backward")}
    steps = max(layers - 1, 1)
    signal = [site for profile in members for site in profile.signal_sites]
    units = sum(site.units for site in signal if site.units and site.dead_units is not None)
    dead = sum(site.dead_units for site in signal if site.dead_units is not None)
    outputs = [profile.with_role("activation") or profile.signal_sites for profile in members]
    return PairSummary(
        labels=labels,
        seeds=len(members),
        layers=layers,
        forward_gain=factors["forward"] ** (1 / steps),
        forward_factor=factors["forward"],
        backward_gain=factors["backward"] ** (1 / steps),
        backward_factor=factors["backward"],
        first_std=_std(sites[0] for sites in outputs if sites),
        last_std=_std(sites[-1] for sites in outputs if sites),
        forward_deviation=mean_deviation(end_to_end(profile, "forward") for profile in members),
        backward_deviation=mean_deviation(end_to_end(profile, "backward") for profile in members),
        no_theory=next(filter(None, map(reason_without_theory, members)), ""),
        flat_fraction=_average(site.flat_fraction for site in signal),
        dead_fraction=dead / units if units else None,
        mean_cosine=_average(profile.signal_sites[-1].mean_cosine for profile in members if profile.signal_sites),
        nonfinite_count=sum(profile.nonfinite_count for profile in members),
    )


def _factor(members: Iterable[NetworkProfile], direction: Direction) -> Interval:
    return geometric_interval(profile.factor(direction) for profile in members)


def _std(sites: Iterable[Site]) -> float:
    return geometric_interval(site.forward.std if site.forward else math.nan for site in sites).center


def _average(values: Iterable[float | None]) -> float | None:
    numbers = [value for value in values if value is not None and not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else None
