"""Which sites of a network cannot be right, in the order in which the signal passes them."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from propscope.results.gains import Gains, extent, is_chain, is_norm, is_sound, place_of, same_stack, site_gains
from propscope.results.network import Direction, NetworkProfile, Site
from propscope.results.summary import TensorSummary
from propscope.results.table import number, percent

JUMP = 10.0
DRIFT = 1e4
SATURATED, INACTIVE, DEAD, ALIKE = 0.5, 0.9, 0.5, 0.999
_PEERS = 3
_EVIDENCE = 16
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
        if _far(value) and is_chain(site, other) and not (direction == "forward" and is_norm(site)):
            beside = f" (x{number(value / typical, 2)} its neighbours')" if typical and _far(value / typical) else ""
            message = f"{direction} gain {number(value, 2)}{beside}"
            yield Problem(index, site.name, f"{grad}x{number(value, 2)}", message, direction)


def _odd_steps(profile: NetworkProfile, gains: tuple[Gains, ...]) -> Iterator[Problem]:
    """Find layers that scale the signal unlike their kind: norms behind them hide that from the gains."""
    sites = profile.sites
    flagged = {problem.index for problem in _jumps(profile, gains, "forward")}
    steps = {
        index: gain.step
        for index, gain in enumerate(gains)
        # A sum is as large as the larger of its branches, and these are looked at themselves.
        if gain.step is not None and sites[index].kind.lower() != "add" and same_stack(sites[index - 1], sites[index])
    }

    def near(index: int) -> tuple[str, ...]:
        return sites[index].kind, sites[index - 1].kind, place_of(sites[index].name, parts=2)

    exact: dict[tuple[str, ...], list[int]] = defaultdict(list)
    similar: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index in steps:
        exact[sites[index].kind, place_of(sites[index].name)].append(index)
        similar[near(index)].append(index)
    for index in sorted(steps.keys() - flagged):
        site = sites[index]
        group = exact[site.kind, place_of(site.name)]
        # The site run before is the input only as a rule: a layer is held against those with the same before it.
        group = group if len(group) > 2 else similar[near(index)]
        peers = [other for other in group if other != index]
        if len(peers) < 2:
            continue
        ratio = steps[index] / statistics.median(steps[other] for other in peers)
        if not _far(ratio):
            continue
        message = f"forward gain {number(steps[index], 2)} over its input"
        if is_norm(site):
            # What a norm gives does not depend on what enters: it is at fault only where its own scale is odd.
            rms = {other: summary.rms for other in group if (summary := sites[other].forward) is not None}
            ratio = rms[index] / statistics.median(rms[other] for other in peers)
            message = f"rms {number(rms[index], 2)}"
            if not _far(ratio):
                continue
        yield Problem(
            index,
            site.name,
            f"x{number(ratio, 2)}",
            f"{message} is x{number(ratio, 2)} that of the other {site.kind} sites",
        )


def _drifts(profile: NetworkProfile) -> Iterator[Problem]:
    """Find where the signal has faded or grown beyond use, among the sites of the kind that is most common."""
    chosen = [(i, s) for i, s in enumerate(profile.sites) if s.role == "pre-activation"]
    read: Callable[[Site], str] = lambda site: site.activation.lower()  # noqa: E731
    if len(chosen) < 2:
        chosen, read = [(i, s) for i, s in enumerate(profile.sites) if s.role == "other"], lambda site: site.kind
    common = Counter(read(site) for _, site in chosen).most_common(1)
    chosen = [(i, s) for i, s in chosen if common and read(s) == common[0][0]]
    for direction in ("forward", "backward"):
        seen = [(i, s.name, v) for i, s in chosen if (v := getattr(s, direction)) is not None and is_sound(v)]
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


def _far(ratio: float) -> bool:
    return ratio > JUMP or ratio < 1 / JUMP


def _evidence(site: Site) -> int:
    return site.samples * extent(site)
