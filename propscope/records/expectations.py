"""Compares what was measured with what theory expects, by arithmetic on the records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from propscope.records.interval import geometric_interval
from propscope.records.network import CoverageNote, Direction, Floats, Label, NetworkProfile, Site, signal_of

# 95% of a normal distribution lies within this many standard deviations of its mean.
BAND = 1.96


@dataclass(frozen=True, slots=True)
class Deviation:
    """How an rms compares with the expected rms: their `ratio`, and how unusual it is among networks of this width.

    `sd` = (ln(ratio) - log_drift) / log_std: the distance in standard deviations over seeds of a single network of this
    width. The ratio is 1 where both are 0 or both are Inf. NaN where either is not known.
    """

    ratio: float = math.nan
    sd: float = math.nan


@dataclass(frozen=True, slots=True)
class SecondMomentRatio:
    """E[h^2] / E[z^2] of one nonlinearity, `measured` and `expected` (0.5 for ReLU); NaN where it is not known."""

    measured: float = math.nan
    expected: float = math.nan


def deviation(site: Site, direction: Direction) -> Deviation:
    """Return how the rms of a site compares with the expected rms; the ratio is Inf where an element is not finite."""
    if site.expected is None:
        return Deviation()
    expected = getattr(site.expected, f"{direction}_rms")
    log_std = getattr(site.expected, f"{direction}_log_std")
    drift = known_drift(getattr(site.expected, f"{direction}_log_drift"))
    measured = signal_of(getattr(site, direction))
    if math.isnan(measured) or math.isnan(expected):
        return Deviation()
    if measured == expected and (not drift or not 0 < expected < math.inf):
        return Deviation(1.0, math.nan if math.isnan(log_std) else 0.0)
    with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):
        ratio = float(np.float64(measured) / expected)
        # The quotient of numbers near the ends of float64 leaves its range, but the difference of logarithms does not.
        return Deviation(ratio, float((np.log(measured) - np.log(expected) - drift) / np.float64(log_std)))


def mean_deviation(deviations: Iterable[Deviation]) -> Deviation:
    """Return the deviation of several networks together: the geometric mean of the ratios and the mean of `sd`.

    NaN is left out. `sd` stays in units of one network's scatter, so the mean of n networks that follow theory lies
    within 1.96 / sqrt(n) of 0 in 95% of cases.
    """
    members = list(deviations)
    known_sds = np.array([member.sd for member in members if not math.isnan(member.sd)], dtype=np.float64)
    with np.errstate(invalid="ignore"):
        sd = float(known_sds.mean()) if known_sds.size else math.nan
    return Deviation(geometric_interval(member.ratio for member in members).center, sd)


def end_to_end(profile: NetworkProfile, direction: Direction) -> Deviation:
    """Return the deviation at the end of the signal: at the last signal site forward, at the first one backward."""
    sites = profile.signal_sites
    return deviation(sites[-1 if direction == "forward" else 0], direction) if sites else Deviation()


def expected_factor(profile: NetworkProfile, direction: Direction) -> float:
    """Return the factor that theory expects over the whole depth, as in `NetworkProfile.factor`; NaN where unknown."""
    sites = profile.signal_sites
    if not sites:
        return math.nan
    start, end = (sites[0], sites[-1]) if direction == "forward" else (sites[-1], sites[0])
    first, last = (np.float64(getattr(site.expected, f"{direction}_rms", math.nan)) for site in (start, end))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return float(last / first)


def known_drift(log_drift: float) -> float:
    """Return a drift of the logarithm, 0 where it is not known (NaN)."""
    return 0.0 if math.isnan(log_drift) else log_drift


def seed_band(center: ArrayLike, log_std: ArrayLike, log_drift: ArrayLike = 0.0) -> tuple[Floats, Floats]:
    """Return the limits between which 95% of networks lie: `center` times exp(log_drift -+ 1.96 log_std).

    All arrays have one shape. A drift of NaN counts as 0.
    """
    drift = np.nan_to_num(np.asarray(log_drift, dtype=np.float64))
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = (np.asarray(center * np.exp(drift + side * np.asarray(log_std))) for side in (-BAND, BAND))
    return low, high


def second_moment_ratios(profile: NetworkProfile) -> Mapping[int, SecondMomentRatio]:
    """Return E[h^2] / E[z^2] of each activation h that directly follows its pre-activation z, both of one shape.

    The key is the position of h in `sites`. The ratio is NaN when z is zero and when either is not finite.
    """
    ratios = {}
    for index, (before, after) in enumerate(zip(profile.sites, profile.sites[1:], strict=False), start=1):
        if before.role != "pre-activation" or after.role != "activation" or before.shape != after.shape:
            continue
        expected = (
            getattr(after.expected, "forward_rms", math.nan),
            getattr(before.expected, "forward_rms", math.nan),
        )
        ratios[index] = SecondMomentRatio(
            _square_ratio(signal_of(after.forward), signal_of(before.forward)), _square_ratio(*expected)
        )
    return ratios


def _square_ratio(above: float, below: float) -> float:
    valid = math.isfinite(above) and math.isfinite(below) and below > 0
    # The ratio is squared, since the squares of small numbers underflow.
    return (above / below) ** 2 if valid else math.nan


def theory_note(reason: str) -> CoverageNote:
    """Return the coverage note of a profile for which no prediction is possible, with the reason."""
    return CoverageNote("", "theory", reason)


def reason_without_theory(profile: NetworkProfile) -> str:
    """Return why theory has no prediction for a network; "" where it has one, or where none was asked for."""
    return next((note.reason for note in profile.coverage if note.what == "theory"), "")


def without_theory(networks: Iterable[tuple[Mapping[str, Label], str]]) -> tuple[str, ...]:
    """Return one sentence for each reason why theory has no prediction, with the networks that it applies to.

    `networks`: the labels of each, and the reason, "" where there is none. Networks are named by the initializer or by
    the activation where one is enough, else by both, and "model" where they have neither.
    """
    groups: dict[str, dict[tuple[Label, Label], None]] = {}
    everything: set[tuple[Label, Label]] = set()
    for labels, reason in networks:
        pair = labels.get("initializer", ""), labels.get("activation", "")
        everything.add(pair)
        if reason:
            groups.setdefault(reason, {})[pair] = None
    return tuple(
        f"no theory for {', '.join(_names(list(pairs), everything))}: {reason}" for reason, pairs in groups.items()
    )


def _names(pairs: list[tuple[Label, Label]], everything: set[tuple[Label, Label]]) -> list[str]:
    for part in (0, 1):
        values = dict.fromkeys(pair[part] for pair in pairs)
        if "" not in values and {pair for pair in everything if pair[part] in values} == set(pairs):
            return [str(value) for value in values]
    return [" with ".join(str(label) for label in pair if label != "") or "model" for pair in pairs]
