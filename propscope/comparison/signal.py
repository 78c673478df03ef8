"""The sites at which a signal differs by more than other seeds of the same network do, or by more than a tolerance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from propscope.comparison.networks import Match
from propscope.comparison.sites import rewired
from propscope.records.comparison import Difference, Quantity, SiteSizes
from propscope.records.network import DIRECTIONS, Direction, Floats, Site
from propscope.records.numerals import counted, number

# The share of calls on unchanged networks that may find a difference, over all comparisons of a call together.
FALSE_ALARMS = 0.05

_STATES = ((math.inf, "NaN or Inf"), (-math.inf, "all zero"))


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """ln of one quantity at one site before and after, one value per seed; of paired seeds in the same order.

    `scatter`: the standard deviation of their difference by theory, NaN where the seeds themselves show it.
    """

    match: Match
    place: int
    direction: Direction
    quantity: Literal["rms", "gain"]
    before: Floats
    after: Floats
    scatter: float = math.nan


def difference(
    match: Match,
    place: int,
    direction: Direction | None,
    quantity: Quantity,
    message: str,
    numbers: tuple[float, ...] = (),
) -> Difference:
    """Return a difference at the pair of sites at `place`; `numbers`: before, after, ratio, low and high."""
    pair = match.pairs[place]
    sizes = dict(zip(("before", "after", "ratio", "low", "high"), numbers, strict=False))
    of: dict[str, Any] = {"labels": match.labels, "place": place, "renamed": pair.renamed, **sizes}
    return Difference(pair.site.name, direction, quantity, message, **of)


def structure(match: Match) -> Iterator[Difference]:
    """Yield the sites that only one side has, in every seed, and whose kind, width or parents have changed."""
    wired = rewired(match.pairs)
    for place, pair in enumerate(match.pairs):
        old, new, message = pair.before, pair.after, ""
        if pair.site.role == "input" and None in (old, new):
            # Files before schema 3 hold no inputs.
            continue
        if old is None or new is None:
            side = match.before if new is None else match.after
            if all(any(site.name == pair.site.name for site in member.sites) for member in side):
                message = "gone" if new is None else "new"
        elif old.kind != new.kind:
            message = f"was {old.kind}, is {new.kind}"
        elif old.units is not None and new.units is not None and old.units != new.units:
            message = f"had {old.units} units, has {new.units}"
        elif pair.site.name in wired:
            then, now = (_named(names) for names in wired[pair.site.name])
            message = f"was computed from {then}, is from {now}"
        if message:
            yield difference(match, place, None, "structure", message)


def _named(names: Sequence[str]) -> str:
    return ", ".join(name or "(model)" for name in names) or "no site"


def states(match: Match) -> Iterator[Difference]:
    """Yield the sites where NaN, Inf or zeros have appeared or disappeared, or whose signal one side alone has."""
    for direction in DIRECTIONS:
        places, before, after = _logs(match, direction)
        lost = np.flatnonzero(np.isnan(after).all(axis=0) & ~np.isnan(before).any(axis=0)).tolist()
        # Of a direction that the first lacks everywhere, a note says so.
        known = not np.isnan(before).all()
        found = np.flatnonzero(known & np.isnan(before).all(axis=0) & ~np.isnan(after).any(axis=0)).tolist()
        if lost and known and np.isnan(after).all():
            message = f"no longer seen at any of {counted(len(lost), 'site')}"
            yield difference(match, places[lost[0]], direction, "state", message)
            continue
        for at, place in enumerate(places):
            old, new = before[:, at], after[:, at]
            if at in lost:
                yield difference(match, place, direction, "state", "no longer seen")
            if at in found:
                yield difference(match, place, direction, "state", "seen, and not before")
            for value, what in _STATES:
                was, now = int((old == value).sum()), int((new == value).sum())
                several = len(new) > 1 or len(old) > 1
                message = ""
                if now and not was:
                    message = f"{what} in {now} of {len(new)} seeds, in none before" if several else f"now {what}"
                elif was == len(old) and not now:
                    message = f"no longer {what}" + (", which every seed had before" if several else "")
                if message:
                    yield difference(match, place, direction, "state", message)


def series(match: Match) -> Iterator[Series]:
    """Yield what can be compared: forward in the order of execution, backward in the reverse order."""
    for direction in DIRECTIONS:
        places, before, after = _logs(match, direction)
        before, after = (np.where(np.isfinite(side), side, np.nan) for side in (before, after))
        if direction == "backward":
            places, before, after = places[::-1], before[:, ::-1], after[:, ::-1]
        for at, place in enumerate(places):
            if match.theory:
                yield from _by_theory(match, place, direction, before[:, at], after[:, at])
                continue
            for quantity in ("rms", "gain"):
                if quantity == "gain" and (not at or match.pairs[places[at - 1]].site.role == "input"):
                    continue
                sides = [side[:, at] - (side[:, at - 1] if quantity == "gain" else 0) for side in (before, after)]
                kept = _kept(sides[0], sides[1], paired=match.paired)
                if kept is not None:
                    yield Series(match, place, direction, quantity, *kept)


def sizes(match: Match) -> Iterator[SiteSizes]:
    """Yield the rms at each site that both networks have."""
    means = []
    for direction in DIRECTIONS:
        places, *sides = _logs(match, direction)
        means.append([_means(side) for side in sides])
    for at, place in enumerate(places):
        forward, backward = ((side[0][at], side[1][at]) for side in means)
        pair = match.pairs[place]
        yield SiteSizes(pair.site.name, forward, backward, match.labels, place, pair.renamed)


def _means(logs: Floats) -> list[float]:
    """Return the geometric mean over the seeds that have one, for each site."""
    found = []
    for column in logs.T:
        known = column[~np.isnan(column)]
        with np.errstate(invalid="ignore"):
            found.append(_exp(float(known.mean())) if len(known) else math.nan)
    return found


def _by_theory(match: Match, place: int, direction: Direction, before: Floats, after: Floats) -> Iterator[Series]:
    """Yield the rms of a site of two seeds, where theory says how far they scatter.

    Theory starts from the batch of each seed: what the batches alone make different is taken out for equal networks.
    """
    pair = match.pairs[place]
    sites = [site for site in (pair.before, pair.after) if site is not None and site.expected is not None]
    scatter = math.hypot(*(getattr(site.expected, f"{direction}_log_std") for site in sites))
    if len(sites) < 2 or not scatter > 0 or np.isnan(before - after).any():
        return
    old, new = ({**one[0].labels, "seed": None} for one in (match.before, match.after))
    sizes = [getattr(site.expected, f"{direction}_rms") for site in sites]
    if old == new and all(size > 0 for size in sizes):
        before = before + math.log(sizes[1] / sizes[0])
    yield Series(match, place, direction, "rms", before, after, scatter)


def _kept(before: Floats, after: Floats, *, paired: bool) -> tuple[Floats, Floats] | None:
    """Return the values of the seeds that have one; None where too few are left to compare."""
    if paired:
        both = ~np.isnan(before) & ~np.isnan(after)
        enough = both.sum() >= min(2, len(both))
        return (before[both], after[both]) if enough else None
    before, after = before[~np.isnan(before)], after[~np.isnan(after)]
    return (before, after) if min(len(before), len(after)) > 1 else None


def judged(one: Series, alpha: float, tolerance: float) -> tuple[Difference | None, float]:
    """Return the difference, or None, and the smallest abs(ln ratio) that would have been one.

    `tolerance`: in logarithms. The interval has the level 1 - `alpha`.
    """
    before, after = one.before, one.after
    change = float(after.mean() - before.mean())
    half = half_width(before, after, alpha, paired=one.match.paired) if math.isnan(one.scatter) else math.nan
    if math.isfinite(one.scatter):
        from scipy.special import ndtri

        half = float(ndtri(1 - alpha / 2)) * one.scatter
    threshold = tolerance if math.isnan(half) else max(half, tolerance)
    if abs(change) <= threshold:
        return None, threshold
    old, new, ratio, low, high = (
        _exp(log) for log in (float(before.mean()), float(after.mean()), change, change - half, change + half)
    )
    within = "" if math.isnan(half) or number(low) == number(high) else f" [{number(low)}, {number(high)}]"
    message = f"x{number(ratio)}{within}, from {number(old)} to {number(new)}"
    numbers = (old, new, ratio, low, high)
    return difference(one.match, one.place, one.direction, one.quantity, message, numbers), threshold


def _logs(match: Match, direction: Direction) -> tuple[list[int], Floats, Floats]:
    """Return the places of the common sites and ln rms, shape (seeds, sites).

    Inf if not finite, -Inf for zero, NaN if not seen.
    """
    places = match.common
    sides = []
    for side, members in enumerate((match.before, match.after)):
        names = [match.pairs[place].names[side] for place in places]
        seen = [{site.name: _log(site, direction) for site in member.sites} for member in members]
        sides.append(np.array([[logs.get(name, math.nan) for name in names] for logs in seen]).reshape(-1, len(names)))
    return places, sides[0], sides[1]


def _log(site: Site, direction: Direction) -> float:
    summary = getattr(site, direction)
    if summary is None or not summary.count:
        return math.nan
    if summary.nonfinite_count:
        return math.inf
    return math.log(summary.rms) if summary.rms > 0 else -math.inf


def _exp(log: float) -> float:
    return math.inf if log >= 700 else math.exp(log)  # NaN stays NaN, and -Inf becomes 0.


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
