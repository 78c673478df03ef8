"""`compare`: which sites' signal has moved since a baseline, beyond what other seeds would make of the same network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from propscope.diagnosis.difference import half_width
from propscope.diagnosis.pairing import Match, matched
from propscope.errors import InputError
from propscope.records.network import DIRECTIONS, Direction, Floats, Label, NetworkProfile, Site
from propscope.records.numerals import number
from propscope.records.profile_set import ProfileSet

# Differences below 1% come from thread counts, kernels and versions; no training would notice one.
TOLERANCE = 0.01
# The share of checks of an unchanged network that may find anything moved, over all comparisons of a check together.
FALSE_ALARMS = 0.05

Quantity = Literal["rms", "gain", "state", "structure"]
_STATES = ((math.inf, "NaN or Inf"), (-math.inf, "all zero"))


@dataclass(frozen=True, slots=True)
class Move:
    """One thing that is no longer as in the baseline, at one site.

    `quantity`: rms; gain, the rms over that at the site before (backward: after); state, NaN, Inf, zeros or no signal
    where there was one, or the reverse; structure, the site itself. `before`, `after`: geometric means over seeds of
    baseline and now, `ratio` = after / before with its simultaneous interval `low` to `high`; NaN where there is none.
    """

    site: str
    direction: Direction | None
    quantity: Quantity
    message: str
    before: float = math.nan
    after: float = math.nan
    ratio: float = math.nan
    low: float = math.nan
    high: float = math.nan
    labels: Mapping[str, Label] | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` found: `moves` in the order in which the signal passes, network by network, gains first.

    `comparisons`: intervals formed, all together held to one rate of false alarms. `method`: how the seeds were held
    against each other, in words. `visible`: the factor of change that half of the comparisons would have shown; NaN
    without any. `notes`: what was not compared, or was measured otherwise.
    """

    moves: tuple[Move, ...]
    networks: int
    comparisons: int
    method: str
    visible: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Series:
    """The logarithms of one quantity at one site, a value a seed, before and after; paired ones go seed by seed."""

    match: Match
    site: str
    direction: Direction
    quantity: Literal["rms", "gain"]
    before: Floats
    after: Floats


def compare(profiles: ProfileSet, baseline: ProfileSet, *, tolerance: float = TOLERANCE) -> Comparison:
    """Return where the signal has moved: sites are matched by name, networks by their labels other than the seed.

    Each site's rms, and its rms over that of the site before (backward: after), is compared on logarithms, by Welch's
    interval of the difference of two means; over the same seeds also by Student's of the differences, since what has
    not changed draws the same networks again. Moved is what lies beyond its interval, and by more than the share
    `tolerance`. The intervals are Bonferroni's, simultaneous over all of a call, so that of unchanged networks at most
    5% of calls find anything. One seed, the same on both sides, has no interval: what differs by more than `tolerance`
    has moved.

    A site that one side alone has, or that is of another kind or width, has moved; so has one where NaN, Inf or zeros
    appear in any seed or go in all, and one whose signal is no longer seen. Raises `InputError` where nothing can be
    compared: no network or site in common, or a single seed that the other side has not.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise InputError(f"tolerance is {tolerance}; valid is a share of at least 0, such as {TOLERANCE}")
    matches, notes = matched(profiles, baseline)
    moves: dict[int, list[Move]] = {place: [] for place in range(len(matches))}
    series: list[list[_Series]] = []
    for place, match in enumerate(matches):
        moves[place] += [*_structure(match), *_states(match)]
        series.append(list(_series(match)))
    count = sum(map(len, series))
    halves: list[float] = []
    for place, entries in enumerate(series):
        found = []
        for entry in entries:
            move, half = _judged(entry, FALSE_ALARMS / count, math.log1p(tolerance))
            halves.append(half)
            found += [move] if move else []
        moves[place] += sorted(found, key=lambda move: move.quantity == "rms")
    together = tuple(move for place in moves for move in moves[place])
    methods = dict.fromkeys(match.method for match in matches)
    visible = math.exp(min(float(np.median(halves)), 700.0)) if halves else math.nan
    return Comparison(together, len(matches), count, "; ".join(methods), visible, notes)


def _structure(match: Match) -> Iterator[Move]:
    """Yield the sites that one side alone has, in every seed, and those that are something else now."""
    before, after = _all_sites(match.before), _all_sites(match.after)
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        message = ""
        if old is None or new is None:
            side = match.before if new is None else match.after
            if all(any(site.name == name for site in member.sites) for member in side):
                message = "gone: the baseline has it" if new is None else "new: the baseline has it not"
        elif old.kind != new.kind:
            message = f"was {old.kind}, is {new.kind}"
        elif old.units is not None and new.units is not None and old.units != new.units:
            message = f"had {old.units} units, has {new.units}"
        if message:
            yield Move(name, None, "structure", message, labels=match.labels)


def _states(match: Match) -> Iterator[Move]:
    """Yield the sites where NaN, Inf or zeros have come up or gone, or where nothing is seen any more."""
    for direction in DIRECTIONS:
        names, before, after = _logs(match, direction)
        lost = [
            n for n, old, new in zip(names, before.T, after.T, strict=True) if _none(new) and not np.isnan(old).any()
        ]
        if lost and not np.isnan(before).all() and np.isnan(after).all():
            message = f"no longer seen at any of {len(lost)} sites"
            yield Move(lost[0], direction, "state", message, labels=match.labels)
            continue
        for place, name in enumerate(names):
            old, new = before[:, place], after[:, place]
            if name in lost:
                yield Move(name, direction, "state", "no longer seen", labels=match.labels)
            for value, what in _STATES:
                was, now = int((old == value).sum()), int((new == value).sum())
                if now and not was:
                    message = f"{what} in {now} of {len(new)} seeds, in none of the baseline"
                    yield Move(name, direction, "state", message, labels=match.labels)
                elif was == len(old) and not now:
                    message = f"no longer {what.lower() if value < 0 else what}, as in every seed of the baseline"
                    yield Move(name, direction, "state", message, labels=match.labels)


def _none(values: Floats) -> bool:
    return bool(np.isnan(values).all())


def _series(match: Match) -> Iterator[_Series]:
    """Yield what can be compared of a network, forward in the order of execution, backward against it."""
    for direction in DIRECTIONS:
        names, before, after = _logs(match, direction)
        before, after = (np.where(np.isfinite(side), side, np.nan) for side in (before, after))
        if direction == "backward":
            names, before, after = names[::-1], before[:, ::-1], after[:, ::-1]
        for place, name in enumerate(names):
            for quantity in ("rms", "gain"):
                if quantity == "gain" and not place:
                    continue
                sides = [side[:, place] - (side[:, place - 1] if quantity == "gain" else 0) for side in (before, after)]
                kept = _kept(sides[0], sides[1], paired=match.paired)
                if kept is not None:
                    yield _Series(match, name, direction, quantity, *kept)


def _kept(before: Floats, after: Floats, *, paired: bool) -> tuple[Floats, Floats] | None:
    """Return the seeds in which a figure is known, None where too few are left to compare."""
    if paired:
        both = ~np.isnan(before) & ~np.isnan(after)
        enough = both.sum() >= min(2, len(both))
        return (before[both], after[both]) if enough else None
    before, after = before[~np.isnan(before)], after[~np.isnan(after)]
    return (before, after) if min(len(before), len(after)) > 1 else None


def _judged(series: _Series, alpha: float, tolerance: float) -> tuple[Move | None, float]:
    """Return the move, if it is one, and the least |ln ratio| that would have been."""
    before, after = series.before, series.after
    change = float(after.mean() - before.mean())
    half = half_width(before, after, alpha, paired=series.match.paired)
    threshold = tolerance if math.isnan(half) else max(half, tolerance)
    if abs(change) <= threshold:
        return None, threshold
    old, new, ratio, low, high = (
        _exp(log) for log in (float(before.mean()), float(after.mean()), change, change - half, change + half)
    )
    within = "" if math.isnan(half) or number(low) == number(high) else f" [{number(low)}, {number(high)}]"
    message = f"x{number(ratio)}{within}, from {number(old)} to {number(new)}"
    move = Move(
        series.site, series.direction, series.quantity, message, old, new, ratio, low, high, series.match.labels
    )
    return move, threshold


def _logs(match: Match, direction: Direction) -> tuple[list[str], Floats, Floats]:
    """Return the sites that both sides have and ln rms, shape (seeds, sites): Inf not finite, -Inf zero, NaN unseen."""
    before, after = _all_sites(match.before), _all_sites(match.after)
    names = [name for name in before if name in after]
    sides = []
    for members in (match.before, match.after):
        seen = [{site.name: _log(site, direction) for site in member.sites} for member in members]
        sides.append(np.array([[logs.get(name, math.nan) for name in names] for logs in seen]).reshape(-1, len(names)))
    return names, sides[0], sides[1]


def _log(site: Site, direction: Direction) -> float:
    summary = getattr(site, direction)
    if summary is None or not summary.count:
        return math.nan
    if summary.nonfinite_count:
        return math.inf
    return math.log(summary.rms) if summary.rms > 0 else -math.inf


def _all_sites(members: tuple[NetworkProfile, ...]) -> dict[str, Site]:
    """Return the sites of every seed by name: of a mixture of experts some run, or not, by the seed."""
    return {site.name: site for member in reversed(members) for site in member.sites} | {
        site.name: site for site in members[0].sites
    }


def _exp(log: float) -> float:
    return math.inf if log >= 700 else math.exp(log)
