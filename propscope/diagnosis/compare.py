"""`compare`: the sites whose signal has moved since a baseline, by more than other seeds of the same network do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from propscope.checks import number as checked
from propscope.diagnosis.older_names import renamed
from propscope.errors import InputError
from propscope.records.network import DIRECTIONS, Direction, Floats, Label, NetworkProfile, Site
from propscope.records.numerals import number
from propscope.records.profile_set import ProfileSet
from propscope.records.stored_spec import read_spec

# Differences below 1% come from thread counts, kernels and versions, and do not affect training.
TOLERANCE = 0.01
# The share of calls on unchanged networks that may find a move, over all comparisons of a call together.
FALSE_ALARMS = 0.05

Quantity = Literal["rms", "gain", "state", "structure"]
_STATES = ((math.inf, "NaN or Inf"), (-math.inf, "all zero"))
_HINT = "profile at least two seeds on both sides, or the seeds of the baseline: --seeds 5"
# Parts of a spec that describe the network; the others describe the measurement.
_OF_THE_NETWORK = {"target", "arguments", "config", "checkpoint", "init", "network", "seed", "seeds", "device"}
_SHOWN = 3

_Key = tuple[tuple[str, Label], ...]


@dataclass(frozen=True, slots=True)
class Move:
    """One difference from the baseline at one site.

    `quantity`: "rms"; "gain", the rms divided by that of the site before (backward: after); "state", whether there is a
    signal, NaN, Inf or zeros; "structure", the site itself. `before`, `after`: geometric means over the seeds of the
    baseline and of the new profiles; `ratio` = after / before with its simultaneous interval `low` to `high`; NaN where
    there is none.
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
    """What `compare` found: `moves` network by network, gains first, in the order in which the signal passes.

    `comparisons`: the number of intervals, which share one rate of false alarms. `method`: how the seeds were compared,
    in words. `visible`: the factor of change that half of the comparisons would have detected; NaN without any.
    `notes`: what was not compared, or was measured differently.
    """

    moves: tuple[Move, ...]
    networks: int
    comparisons: int
    method: str
    visible: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Match:
    """One network before and after, one profile per seed; `paired`: both sides have the same seeds in the same order.

    `labels`: those of the new profiles, without the seed. `method`: how the seeds are compared, in words.
    """

    before: tuple[NetworkProfile, ...]
    after: tuple[NetworkProfile, ...]
    paired: bool
    method: str
    labels: Mapping[str, Label]


@dataclass(frozen=True, slots=True, eq=False)
class _Series:
    """ln of one quantity at one site before and after, one value per seed; of paired seeds in the same order."""

    match: Match
    site: str
    direction: Direction
    quantity: Literal["rms", "gain"]
    before: Floats
    after: Floats


def compare(profiles: ProfileSet, baseline: ProfileSet, *, tolerance: float = TOLERANCE) -> Comparison:
    """Return where the signal has moved; sites are matched by name, networks by their labels other than the seed.

    For each site the rms, and the rms divided by that of the site before (backward: after), is compared in logarithms
    by Welch's interval of the difference of two means. If both sides have the same seeds, Student's interval of the
    differences is used as well, since an unchanged program draws the same networks again. A quantity has moved if the
    difference lies outside its interval and exceeds the share `tolerance`. The intervals are simultaneous over the
    whole call (Bonferroni), so that at most 5% of the calls on unchanged networks find anything. A single seed that is
    the same on both sides has no interval: a quantity has moved if it differs by more than `tolerance`.

    A site has also moved if only one side has it, if its kind or width has changed, if NaN, Inf or zeros appear in any
    seed or disappear in all, or if its signal is no longer seen. Raises `InputError` where nothing can be compared: no
    network or site in common, or a single seed that the other side does not have.
    """
    checked("tolerance", tolerance)
    matches, notes = matched(profiles, baseline)
    moves: dict[int, list[Move]] = {position: [] for position in range(len(matches))}
    series: list[list[_Series]] = []
    for position, match in enumerate(matches):
        moves[position] += [*_structure(match), *_states(match)]
        series.append(list(_series(match)))
    count = sum(map(len, series))
    halves: list[float] = []
    for position, entries in enumerate(series):
        found = []
        for entry in entries:
            move, half = _judged(entry, FALSE_ALARMS / count, math.log1p(tolerance))
            halves.append(half)
            found += [move] if move else []
        moves[position] += sorted(found, key=lambda move: move.quantity == "rms")
    together = tuple(move for position in moves for move in moves[position])
    methods = dict.fromkeys(match.method for match in matches)
    visible = math.exp(min(float(np.median(halves)), 700.0)) if halves else math.nan
    return Comparison(together, len(matches), count, "; ".join(methods), visible, notes)


def _structure(match: Match) -> Iterator[Move]:
    """Yield the sites that only one side has, in every seed, and those whose kind or width has changed."""
    before, after = _all_sites(match.before), _all_sites(match.after)
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        message = ""
        if "input" in {site.role for site in (old, new) if site is not None} and None in (old, new):
            # Files before schema 3 hold no inputs.
            continue
        if old is None or new is None:
            side = match.before if new is None else match.after
            if all(any(site.name == name for site in member.sites) for member in side):
                message = "gone: only in the baseline" if new is None else "new: not in the baseline"
        elif old.kind != new.kind:
            message = f"was {old.kind}, is {new.kind}"
        elif old.units is not None and new.units is not None and old.units != new.units:
            message = f"had {old.units} units, has {new.units}"
        if message:
            yield Move(name, None, "structure", message, labels=match.labels)


def _states(match: Match) -> Iterator[Move]:
    """Yield the sites where NaN, Inf or zeros have appeared or disappeared, or whose signal is no longer seen."""
    for direction in DIRECTIONS:
        names, before, after = _logs(match, direction)
        lost = [
            n for n, old, new in zip(names, before.T, after.T, strict=True) if _all_nan(new) and not np.isnan(old).any()
        ]
        if lost and not np.isnan(before).all() and np.isnan(after).all():
            message = f"no longer seen at any of {len(lost)} sites"
            yield Move(lost[0], direction, "state", message, labels=match.labels)
            continue
        for position, name in enumerate(names):
            old, new = before[:, position], after[:, position]
            if name in lost:
                yield Move(name, direction, "state", "no longer seen", labels=match.labels)
            for value, what in _STATES:
                was, now = int((old == value).sum()), int((new == value).sum())
                if now and not was:
                    message = f"{what} in {now} of {len(new)} seeds, in none of the baseline"
                    yield Move(name, direction, "state", message, labels=match.labels)
                elif was == len(old) and not now:
                    message = f"no longer {what}, which every seed of the baseline has"
                    yield Move(name, direction, "state", message, labels=match.labels)


def _all_nan(values: Floats) -> bool:
    return bool(np.isnan(values).all())


def _series(match: Match) -> Iterator[_Series]:
    """Yield what can be compared: forward in the order of execution, backward in the reverse order."""
    inputs = {site.name for member in match.before for site in member.inputs}
    for direction in DIRECTIONS:
        names, before, after = _logs(match, direction)
        before, after = (np.where(np.isfinite(side), side, np.nan) for side in (before, after))
        if direction == "backward":
            names, before, after = names[::-1], before[:, ::-1], after[:, ::-1]
        for position, name in enumerate(names):
            for quantity in ("rms", "gain"):
                if quantity == "gain" and (not position or names[position - 1] in inputs):
                    continue
                sides = [
                    side[:, position] - (side[:, position - 1] if quantity == "gain" else 0) for side in (before, after)
                ]
                kept = _kept(sides[0], sides[1], paired=match.paired)
                if kept is not None:
                    yield _Series(match, name, direction, quantity, *kept)


def _kept(before: Floats, after: Floats, *, paired: bool) -> tuple[Floats, Floats] | None:
    """Return the values of the seeds that have one; None where too few are left to compare."""
    if paired:
        both = ~np.isnan(before) & ~np.isnan(after)
        enough = both.sum() >= min(2, len(both))
        return (before[both], after[both]) if enough else None
    before, after = before[~np.isnan(before)], after[~np.isnan(after)]
    return (before, after) if min(len(before), len(after)) > 1 else None


def _judged(series: _Series, alpha: float, tolerance: float) -> tuple[Move | None, float]:
    """Return the move, or None, and the smallest abs(ln ratio) that would have been a move."""
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
    """Return the common sites and ln rms, shape (seeds, sites): Inf if not finite, -Inf for zero, NaN if not seen."""
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
    """Return the sites of all seeds by name: which experts of a mixture run may depend on the seed."""
    return {site.name: site for member in reversed(members) for site in member.sites} | {
        site.name: site for site in members[0].sites
    }


def _exp(log: float) -> float:
    return math.inf if log >= 700 else math.exp(log)


def matched(profiles: ProfileSet, baseline: ProfileSet) -> tuple[tuple[Match, ...], tuple[str, ...]]:
    """Return the networks that both sets have, and notes on what is not compared or was measured differently.

    Networks are identified by their labels. Where each set holds only one, the label `model` is ignored, since it is
    the name that was typed. Raises `InputError` where a set is empty, and where no network, site or seed matches.
    """
    for given, what in ((profiles, "the set"), (baseline, "the baseline")):
        if not any(profile.without_inputs.sites for profile in given):
            raise InputError(f"{what} holds no site to compare")
    after, before = _networks(profiles), _networks(baseline)
    if len(after) == len(before) == 1:
        after, before = ({_unnamed(key): members for key, members in side.items()} for side in (after, before))
    common = [key for key in after if key in before]
    if not common:
        raise InputError(
            f"no network is in both: the baseline has {_spelled(before)}, what is checked has {_spelled(after)}",
            hint="give the baseline of this network",
        )
    matches = tuple(_match(tuple(renamed(old, after[key][0]) for old in before[key]), after[key]) for key in common)
    notes = [
        f"{len(keys)} of {len(side)} networks {where}: {_spelled(keys)}"
        for side, other, where in ((after, before, "not in the baseline"), (before, after, "only in the baseline"))
        if (keys := {key: side[key] for key in side if key not in other})
    ]
    notes += dict.fromkeys(note for match in matches for note in _measured_differently(match))
    return matches, tuple(notes)


def _networks(profiles: ProfileSet) -> dict[_Key, tuple[NetworkProfile, ...]]:
    groups: dict[_Key, tuple[NetworkProfile, ...]] = {}
    for key, members in profiles.groups("seed").items():
        ordered = tuple(sorted(key))
        groups[ordered] = (*groups.get(ordered, ()), *members.profiles)
    return groups


def _unnamed(key: _Key) -> _Key:
    return tuple((name, value) for name, value in key if name != "model")


def _match(before: tuple[NetworkProfile, ...], after: tuple[NetworkProfile, ...]) -> Match:
    names = [{site.name for member in side for site in member.without_inputs.sites} for side in (before, after)]
    if not names[0] & names[1]:
        raise InputError(
            f"no site is in both: the baseline has {_few(names[0])}, what is checked has {_few(names[1])}",
            hint="give the baseline of this model",
        )
    labels = {name: value for name, value in after[0].labels.items() if name != "seed"}
    sides = [{member.labels.get("seed"): member for member in side} for side in (before, after)]
    named = all(
        None not in seeds and len(seeds) == len(side) for seeds, side in zip(sides, (before, after), strict=True)
    )
    then, now = sides
    if named and (then.keys() <= now.keys() or now.keys() <= then.keys()):
        common = [seed for seed in then if seed in now]
        pairs = tuple(then[seed] for seed in common), tuple(now[seed] for seed in common)
        method = (
            f"{len(common)} seeds, the same on both sides"
            if len(common) > 1
            else f"only seed {common[0]}, without an interval"
        )
        return Match(*pairs, paired=True, method=method, labels=labels)
    if min(len(before), len(after)) < 2:
        raise InputError(f"no interval can be formed: {_unequal_seeds(before, after)}", hint=_HINT)
    method = f"{len(after)} seeds against {len(before)} other seeds"
    return Match(before, after, paired=False, method=method, labels=labels)


def _unequal_seeds(before: tuple[NetworkProfile, ...], after: tuple[NetworkProfile, ...]) -> str:
    def spelled(members: tuple[NetworkProfile, ...]) -> str:
        seeds = [member.labels.get("seed") for member in members]
        if None in seeds:
            return "one profile without a seed" if len(seeds) == 1 else f"{len(seeds)} profiles without seeds"
        return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {_few({str(seed) for seed in seeds})}"

    return f"the baseline has {spelled(before)}, what is checked has {spelled(after)}"


def _measured_differently(match: Match) -> Iterator[str]:
    """Yield each difference in how the two sides were measured, which may be the reason for a move."""
    old, new = match.before[0], match.after[0]
    then, now = read_spec(old.provenance), read_spec(new.provenance)
    # Files from another program do not say how they were measured.
    for name in sorted(then.keys() | now.keys() if then and now else ()):
        if name not in _OF_THE_NETWORK and then.get(name) != now.get(name):
            yield f"measured differently: {name} {then.get(name, 'not given')} -> {now.get(name, 'not given')}"
    versions = old.provenance.torch_version, new.provenance.torch_version
    if all(versions) and versions[0] != versions[1]:
        yield f"measured differently: torch {versions[0]} -> {versions[1]}"
    for direction in DIRECTIONS:
        seen = [
            any(getattr(site, direction) is not None for m in side for site in m.sites)
            for side in (match.before, match.after)
        ]
        if seen == [False, True]:
            yield f"the baseline has no {direction} signal, so it is not compared"


def _spelled(keys: Mapping[_Key, object]) -> str:
    said = ["(" + (", ".join(f"{name} {value}" for name, value in key) or "no label") + ")" for key in keys]
    return ", ".join(said[:_SHOWN]) + (", ..." if len(said) > _SHOWN else "")


def _few(names: set[str]) -> str:
    said = sorted(name or "(model)" for name in names)
    return ", ".join(said[:_SHOWN]) + (", ..." if len(said) > _SHOWN else "")


def half_width(before: Floats, after: Floats, alpha: float, *, paired: bool) -> float:
    """Return half the width of the interval of level 1 - alpha of mean(after) - mean(before), shapes (m,) and (n,).

    This is Welch's interval. If `paired` (n = m, entry i of both from the same seed), it is the narrower of Student's
    interval of the differences and Welch's, each of level 1 - alpha / 2. Student's is far narrower where a seed draws
    the same network again, Welch's where it no longer does. NaN for a single pair.
    """
    if not paired:
        return _welch(before, after, alpha)
    return math.nan if len(before) < 2 else min(_student(after - before, alpha / 2), _welch(before, after, alpha / 2))


def _student(differences: Floats, alpha: float) -> float:
    from scipy.special import stdtrit

    count = len(differences)
    return float(stdtrit(count - 1, 1 - alpha / 2) * differences.std(ddof=1)) / math.sqrt(count)


def _welch(before: Floats, after: Floats, alpha: float) -> float:
    """Return half the width of Welch's interval (1947), with the degrees of freedom of Welch and Satterthwaite."""
    from scipy.special import stdtrit

    squares = [float(side.var(ddof=1)) / len(side) for side in (before, after)]
    total = sum(squares)
    if total == 0:
        return 0.0
    # As shares of the total, because the squares of small values would underflow.
    shares = ((square / total) ** 2 / (len(side) - 1) for square, side in zip(squares, (before, after), strict=True))
    return float(stdtrit(1 / sum(shares), 1 - alpha / 2)) * math.sqrt(total)
