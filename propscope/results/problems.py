"""Which sites of a network cannot be right, in the order in which the signal passes them."""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from propscope.results.network import Direction, NetworkProfile, Site
from propscope.results.summary import TensorSummary
from propscope.results.table import number, percent

JUMP = 10.0
DRIFT = 1e4
SATURATED, INACTIVE, DEAD, ALIKE = 0.5, 0.9, 0.5, 0.999
_PEERS = 3
_EVIDENCE = 16
_STRETCH = 4.0
_BOUNDED = frozenset({"tanh", "sigmoid", "hardtanh", "hardsigmoid", "softsign", "erf", "relu6", "sin"})

# Which words of `Problem.word` each rule gives, and the rule.
_RULES = (
    (r"x\d", f"x: gain beyond {JUMP:g} or below {1 / JUMP:g}, or that far from that of its kind (norms: rms)"),
    (r"vanishing|exploding", f"vanishing, exploding: rms x{1 / DRIFT:g}, x{DRIFT:g} along the network"),
    (r"grad", "grad: of the gradient"),
    (r"saturated", f"saturated: over {SATURATED:.0%} flat"),
    (r"inactive", f"inactive: over {INACTIVE:.0%} flat"),
    (r"dead", f"dead: over {DEAD:.0%} of the units"),
    (r"alike", f"alike: mean cosine between samples above {ALIKE:g}"),
)


def rules_for(words: Iterable[str]) -> tuple[str, ...]:
    """Return the rules, with their thresholds, that gave these words."""
    text = "\n".join(words)
    return tuple(rule for pattern, rule in _RULES if re.search(pattern, text))


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at the site at position `index`: a `word` for a margin, a `message` for a sentence.

    `direction` of the signal that shows it. `grave`: the signal is lost or overflows; else a layer works badly.
    """

    index: int
    name: str
    word: str
    message: str
    direction: Direction = "forward"
    grave: bool = True


@dataclass(frozen=True, slots=True)
class Gains:
    """A site's gains: `forward` and `backward` between signal sites, `step` over the site run before; None: no gain."""

    forward: float | None = None
    backward: float | None = None
    step: float | None = None


def site_gains(profile: NetworkProfile) -> tuple[Gains, ...]:
    """Return the gains of every site, in execution order; `forward` and `backward` are None off the signal sites."""
    signal = profile.signal_sites
    forward = dict(zip(map(id, signal), [None, *profile.forward_gains.tolist()], strict=True)) if signal else {}
    backward = dict(zip(map(id, signal), [*profile.backward_gains.tolist(), None], strict=True)) if signal else {}
    return tuple(
        Gains(_known(forward.get(id(site))), _known(backward.get(id(site))), _step(profile.sites, index))
        for index, site in enumerate(profile.sites)
    )


def find_problems(profile: NetworkProfile) -> tuple[Problem, ...]:
    """Return every problem, by site in execution order; at a site the grave ones first. Empty for a sound network."""
    gains = site_gains(profile)
    found = [
        *_lost(profile),
        *_jumps(profile, gains, "forward"),
        *_jumps(profile, gains, "backward"),
        *_odd_steps(profile, gains),
        *_drifts(profile),
        *_strained(profile),
    ]
    once: dict[tuple[int, str], Problem] = {}
    for problem in found:
        once.setdefault((problem.index, problem.word), problem)
    return tuple(sorted(once.values(), key=lambda problem: (problem.index, not problem.grave)))


def first_problem(problems: tuple[Problem, ...]) -> Problem | None:
    """Return where it starts: the first grave forward site, else the last grave backward one, else the first of all.

    The gradient passes the sites from the last to the first, so its trouble starts at the last in execution order.
    """
    grave = [problem for problem in problems if problem.grave]
    if forward := [problem for problem in grave if problem.direction == "forward"]:
        return forward[0]
    sudden = [problem for problem in grave if not problem.word.endswith("ing")]
    if sudden:
        return sudden[-1]
    return grave[0] if grave else (problems[0] if problems else None)


def _lost(profile: NetworkProfile) -> Iterator[Problem]:
    for index, site in enumerate(profile.sites):
        for direction in ("forward", "backward"):
            summary: TensorSummary | None = getattr(site, direction)
            if summary is None or not summary.count:
                continue
            grad = "" if direction == "forward" else "grad "
            of = "values" if direction == "forward" else "gradients"
            infinite = summary.posinf_count + summary.neginf_count
            for word, count in (("NaN", summary.nan_count), ("Inf", infinite)):
                if count:
                    share = f"{count} of {summary.count} {of} are {word}"
                    yield Problem(index, site.name, grad + word, share, direction)
            if summary.rms == 0 and not summary.nonfinite_count:
                yield Problem(index, site.name, f"{grad}zero", f"all {summary.count} {of} are zero", direction)


def _jumps(profile: NetworkProfile, gains: tuple[Gains, ...], direction: Direction) -> Iterator[Problem]:
    at = [index for index, gain in enumerate(gains) if gain.forward is not None or gain.backward is not None]
    values = {index: value for index in at if (value := getattr(gains[index], direction)) and math.isfinite(value)}
    typical = statistics.median(values.values()) if len(values) > _PEERS else None
    grad = "" if direction == "forward" else "grad "
    for index, value in values.items():
        place = at.index(index)
        # A forward gain is taken from the signal site before, a backward one from the site after.
        other = profile.sites[at[place - 1] if direction == "forward" and place else at[min(place + 1, len(at) - 1)]]
        site = profile.sites[index]
        later = site if direction == "forward" else other
        if _far(value) and _comparable(site, other) and not _steadied(later):
            beside = f" (x{number(value / typical, 2)} its neighbours')" if typical and _far(value / typical) else ""
            message = f"{direction} gain {number(value, 2)}{beside}"
            yield Problem(index, site.name, f"{grad}x{number(value, 2)}", message, direction)


def _odd_steps(profile: NetworkProfile, gains: tuple[Gains, ...]) -> Iterator[Problem]:
    """Find layers that scale the signal unlike their kind: norms behind them hide that from the gains."""
    flagged = {problem.index for problem in _jumps(profile, gains, "forward")}
    exact: dict[tuple[str, ...], list[int]] = defaultdict(list)
    by_kind: dict[str, list[int]] = defaultdict(list)
    factors = {index: factor for index in range(len(gains)) if (factor := _factor(profile.sites[index], gains[index]))}
    for index in factors:
        site = profile.sites[index]
        exact[site.kind, re.sub(r"\d+", "*", site.name)].append(index)
        by_kind[site.kind].append(index)
    for index, factor in factors.items():
        site = profile.sites[index]
        group = exact[site.kind, re.sub(r"\d+", "*", site.name)]
        peers = [i for i in (group if len(group) > _PEERS else by_kind[site.kind]) if i != index]
        if index in flagged or len(peers) < _PEERS:
            continue
        ratio = factor / statistics.median(factors[i] for i in peers)
        if _far(ratio):
            what = "rms {}" if _is_norm(site) else "forward gain {} over its input"
            what = what.format(number(factor, 2))
            message = f"{what} is x{number(ratio, 2)} that of the other {site.kind} sites"
            yield Problem(index, site.name, f"x{number(ratio, 2)}", message)


def _factor(site: Site, gains: Gains) -> float | None:
    if _is_norm(site):
        return site.forward.rms if site.forward is not None and _sound(site.forward) else None
    return gains.step


def _drifts(profile: NetworkProfile) -> Iterator[Problem]:
    chosen = [(i, s) for i, s in enumerate(profile.sites) if s.role == "pre-activation"]
    if len(chosen) < 2:
        chosen = [(i, s) for i, s in enumerate(profile.sites) if not _steadied(s)]
    for direction in ("forward", "backward"):
        seen = [(i, s.name, v) for i, s in chosen if (v := getattr(s, direction)) is not None and _sound(v)]
        if direction == "backward":
            seen.reverse()
        for passed, (index, name, summary) in enumerate(seen):
            ratio = summary.rms / seen[0][2].rms
            if not 1 / DRIFT < ratio < DRIFT:
                word = "vanishing" if ratio < 1 else "exploding"
                end = "first" if direction == "forward" else "last"
                each = number(ratio ** (1 / passed), 2)
                message = (
                    f"{direction} rms {number(summary.rms, 2)} is x{number(ratio, 2)} that of the {end} layer "
                    f"(x{each} a layer)"
                )
                yield Problem(index, name, word if direction == "forward" else f"grad {word}", message, direction)


def _strained(profile: NetworkProfile) -> Iterator[Problem]:
    for index, site in enumerate(profile.sites):
        flat, kind = site.flat_fraction, site.activation or "nonlinearity"
        bounded = kind.lower() in _BOUNDED
        if flat is not None and flat > (SATURATED if bounded else INACTIVE):
            word = "saturated" if bounded else "inactive"
            yield Problem(
                index, site.name, word, f"{percent(flat)} of the values are where {kind} is flat", grave=False
            )
        if site.units and site.dead_units and site.dead_units / site.units > DEAD and _evidence(site) >= _EVIDENCE:
            message = f"{site.dead_units} of {site.units} units are dead on all {site.samples} samples"
            yield Problem(index, site.name, "dead", message, grave=False)
        if site.role == "pre-activation" and site.mean_cosine is not None and site.mean_cosine > ALIKE:
            message = f"mean cosine between samples {site.mean_cosine:.4f}: inputs are no longer told apart"
            yield Problem(index, site.name, "alike", message, grave=False)


def _is_norm(site: Site) -> bool:
    # A norm's output that enters a nonlinearity has the role of a pre-activation.
    return site.role == "norm" or "norm" in site.kind.lower()


def _steadied(site: Site) -> bool:
    """Return whether a site's scale follows from its kind, not from the scale of what enters."""
    return _is_norm(site) or site.role in ("attention", "embedding") or "softmax" in site.kind.lower()


def _step(sites: tuple[Site, ...], index: int) -> float | None:
    here, before = sites[index].forward, sites[index - 1].forward if index else None
    if here is None or before is None or not _sound(here) or not _sound(before):
        return None
    return here.rms / before.rms


def _sound(summary: TensorSummary) -> bool:
    return bool(summary.count) and not summary.nonfinite_count and summary.rms > 0


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _far(ratio: float) -> bool:
    return ratio > JUMP or ratio < 1 / JUMP


def _extent(site: Site) -> int:
    """Return over how many positions a sample spreads: pooling changes an element's rms without being at fault."""
    return math.prod(site.shape[2:] if len(site.shape) > 3 else site.shape[1:-1])


def _comparable(site: Site, other: Site) -> bool:
    a, b = _extent(site), _extent(other)
    return bool(a and b) and 1 / _STRETCH <= a / b <= _STRETCH


def _evidence(site: Site) -> int:
    return site.samples * _extent(site)
