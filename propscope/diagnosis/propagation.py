"""Exploding and vanishing signals and gradients, judged by the factor over the stretch that changes them most."""

from __future__ import annotations

import math
from collections.abc import Iterator

from propscope.diagnosis import limits
from propscope.diagnosis.advice import remedy_for_size
from propscope.diagnosis.evidence import LN_ZERO, Chain, Evidence, Stretch, change_interval, succession
from propscope.records.activations import find_activation
from propscope.records.finding import Finding, Kind, Severity
from propscope.records.network import DIRECTIONS, Direction, Site
from propscope.records.numerals import number

_OF = {"forward": "the signal", "backward": "the gradient"}


def exploding(evidence: Evidence) -> Iterator[Finding]:
    """Find stretches over which the signal or gradient grows by e^3 or more; broken from 2,900, in chaos from 100."""
    yield from _over_depth(evidence, "exploding")


def vanishing(evidence: Evidence) -> Iterator[Finding]:
    """Find stretches over which the signal or gradient shrinks to e^-3 or less; broken below 1e-6."""
    yield from _over_depth(evidence, "vanishing")


def _over_depth(evidence: Evidence, kind: Kind) -> Iterator[Finding]:
    for direction in DIRECTIONS:
        found = [
            (chain, stretch)
            for chain in evidence.chains
            if (stretch := _beyond(chain, direction, kind)) is not None and not _is_stopped(evidence, chain, stretch)
        ]
        if found:
            chain, worst = max(found, key=lambda pair: abs(pair[1].mean))
            yield _finding(evidence, chain, kind, direction, worst)


def _beyond(chain: Chain, direction: Direction, kind: Kind) -> Stretch | None:
    stretch = chain.worst(direction, rising=kind == "exploding")
    # The greatest rise of a signal that only falls is a fall.
    if stretch is None or (stretch.mean if kind == "exploding" else -stretch.mean) <= limits.STRAINED:
        return None
    # A signal that comes back from zero, by a bias say, has not grown: the zero is the fault.
    return None if stretch.mean > -LN_ZERO / 2 else stretch


def _is_stopped(evidence: Evidence, chain: Chain, stretch: Stretch) -> bool:
    """Return whether the signal does not shrink, but is stopped: exact zeros behind values that do not underflow.

    What stops it is known where the way of every gradient was followed: zero weights, or what `lost_gradients` finds.
    """
    if stretch.mean > LN_ZERO / 2 or all(not p.gradient_outlook for p in evidence.members[0].parameters):
        return False
    direction = "forward" if stretch.start < stretch.end else "backward"
    seen = [getattr(evidence.sites[index], direction) for index in chain.indices]
    sizes = [summary.rms for summary in seen if summary is not None and summary.rms > 0]
    return bool(sizes) and min(sizes) > limits.smallest(evidence.sites[stretch.end].dtype)


def _finding(evidence: Evidence, chain: Chain, kind: Kind, direction: Direction, stretch: Stretch) -> Finding:
    first, last = sorted((stretch.start, stretch.end))
    forward = chain.between(first, last, "forward")
    beyond = _limit(kind, direction, float(forward.mean()))
    severity: Severity = "broken" if abs(stretch.mean) > beyond else "strained"
    limit = beyond if severity == "broken" else limits.STRAINED
    low, high = change_interval(evidence, stretch)
    each = math.exp(stretch.mean / stretch.steps)
    start, end = evidence.sites[stretch.start], evidence.sites[stretch.end]
    sites = _passed(evidence, chain, stretch)
    return Finding(
        kind=kind,
        severity=severity,
        direction=direction,
        sites=tuple(site.name for site in sites),
        message=_message(kind, direction, stretch, each, start, end),
        cause=_cause(evidence, kind, direction, stretch, float(forward.mean())),
        evidence={
            "factor": _exp(stretch.mean),
            "factor_low": _exp(low),
            "factor_high": _exp(high),
            "limit": math.exp(math.copysign(limit, stretch.mean)),
            "factor_per_layer": each,
            "layers": float(stretch.steps),
            "seeds": float(len(stretch.change)),
        },
        remedy=remedy_for_size(evidence, sites, each),
        confidence=succession(sum(abs(change) > limit for change in stretch.change), len(stretch.change)),
        marks={end.name: kind if direction == "forward" else f"grad {kind}"},
    )


def _limit(kind: Kind, direction: Direction, forward: float) -> float:
    """Return the abs(ln factor) from which it is broken, given ln of the forward factor over the same stretch."""
    if kind == "vanishing":
        return limits.VANISHED
    if direction == "backward" and abs(forward) < limits.STRAINED:
        return limits.CHAOTIC + forward
    return limits.EXPLODED


def _passed(evidence: Evidence, chain: Chain, stretch: Stretch) -> tuple[Site, ...]:
    """Return the sites whose weights cause the change, in the order in which the signal passes them."""
    if stretch.start < stretch.end:
        return tuple(evidence.sites[index] for index in chain.indices if stretch.start < index <= stretch.end)
    # Backward, the weights of a layer lie between its own site and the one before it.
    return tuple(evidence.sites[index] for index in reversed(chain.indices) if stretch.end < index <= stretch.start)


def _message(kind: Kind, direction: Direction, stretch: Stretch, each: float, start: Site, end: Site) -> str:
    if stretch.mean < -700:
        return f"{_OF[direction]} is exactly zero at {end.name}"
    verb = "grows" if kind == "exploding" else "shrinks"
    rate = f" (x{number(each, 2)} per layer)" if stretch.steps > 1 else ""
    factor = number(_exp(stretch.mean), 2)
    return f"{_OF[direction]} {verb} by a factor of {factor} from {start.name} to {end.name}{rate}"


def _cause(evidence: Evidence, kind: Kind, direction: Direction, stretch: Stretch, forward: float) -> str:
    end = evidence.sites[stretch.end]
    nonlinearity = end.activation.lower() or "the nonlinearity"
    if stretch.mean < -700:
        return "a weight or a derivative along the way is zero, so nothing passes"
    size, change = ("large", "enlarges") if kind == "exploding" else ("small", "shrinks")
    if direction == "backward" and abs(forward) < limits.STRAINED < abs(stretch.mean):
        entry = find_activation(nonlinearity)
        flat = evidence.mean(stretch.end, "flat_fraction")
        if kind == "vanishing" and flat > limits.SATURATED and entry is not None and entry.bounded:
            return f"{nonlinearity} is saturated: its small slope shrinks the gradient, but its values keep their size"
        if kind == "vanishing":
            return (
                f"each layer's weights times the slope of {nonlinearity} are below 1; the values keep their size only "
                "through what all samples have in common (biases, the mean of the activation), which carries no "
                "gradient"
            )
        return (
            f"each layer's weights times the slope of {nonlinearity} are above 1, while the values keep their "
            "size: every layer enlarges small differences (chaos), and with them the effect of a training step"
        )
    return f"the weights are too {size} for {nonlinearity}: every layer {change} values and gradients alike"


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
