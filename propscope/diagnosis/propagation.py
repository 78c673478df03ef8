"""Exploding and vanishing signals and gradients, judged by the factor over the stretch that changes them most."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import takewhile

from propscope.diagnosis import limits
from propscope.diagnosis.advice import remedy_for_size
from propscope.diagnosis.evidence import LN_ZERO, Chain, Evidence, Stretch, change_interval, succession
from propscope.diagnosis.weights import scale_at
from propscope.records.activations import find_activation
from propscope.records.finding import Finding, Kind, Remedy, Severity
from propscope.records.network import DIRECTIONS, Direction, Site
from propscope.records.numerals import number

_OF = {"forward": "the signal", "backward": "the gradient"}
# Fewer sums than these grow by their branches' weights, not by their number.
_FEW = 4
# Where a signal passes norms, only these count: see `limits.EXPLODED`.
_LIMITS: Mapping[Kind, float] = {"exploding": limits.EXPLODED, "vanishing": limits.VANISHED}
_ACROSS_NORMS: Mapping[Kind, str] = {
    "exploding": "each norm divides the gradient by the spread of what entered it, and passes on a larger one (batch "
    "norm before a ReLU: 1.2 times as large); the scale of the weights makes no difference, since the norm undoes it",
    "vanishing": "each norm divides the gradient by the size of what entered it; the scale of weights before a norm "
    "makes no difference, since the norm undoes it",
}


def exploding(evidence: Evidence) -> Iterator[Finding]:
    """Find stretches over which the signal or gradient grows by e^3 or more; broken from 2,900, in chaos from 100."""
    yield from _over_depth(evidence, "exploding")


def vanishing(evidence: Evidence) -> Iterator[Finding]:
    """Find stretches over which the signal or gradient shrinks to e^-3 or less; broken below 1e-6."""
    yield from _over_depth(evidence, "vanishing")


def _over_depth(evidence: Evidence, kind: Kind) -> Iterator[Finding]:
    growing: Chain | None = None
    for direction in DIRECTIONS:
        found = [
            (chain, _before_zero(evidence, chain, direction, stretch))
            for chain in evidence.chains
            if (stretch := _beyond(chain, direction, kind)) is not None and not _is_stopped(evidence, chain, stretch)
        ]
        if not found:
            continue
        chain, worst = max(found, key=lambda pair: abs(pair[1].mean))
        ends = _branch_ends(evidence, chain, worst)
        if kind == "exploding" and len(ends) > _FEW and not _norms_hold(chain, worst):
            # What each sum adds forward, it also adds to the gradient.
            if growing is not chain:
                yield _growing_stream(evidence, chain, direction, worst, ends)
            growing = chain
        else:
            yield _finding(evidence, chain, kind, direction, worst)


def _norms_hold(chain: Chain, stretch: Stretch) -> bool:
    """Return whether norms hold the size at most steps of a stretch."""
    first, last = sorted(map(chain.indices.index, (stretch.start, stretch.end)))
    return 2 * sum(chain.backward_held[first:last]) > last - first


def _branch_ends(evidence: Evidence, chain: Chain, stretch: Stretch) -> dict[str, str]:
    """Return the last layers with weights of the branches that the sums of a stretch add, each with its site.

    Empty where the chain is none of sums, and where the graph is not known.
    """
    member = evidence.members[0]
    first, last = sorted((stretch.start, stretch.end))
    sums = {index for index in chain.indices if first <= index <= last}
    matrices = {parameter.name for parameter in member.parameters if len(parameter.shape) > 1}
    ends: dict[str, str] = {}
    for block in member.graph.blocks:
        if block.sum not in sums:
            continue
        weighing = {at: names for at in block.inside if (names := matrices.intersection(member.sites[at].parameters))}
        for at, names in weighing.items():
            if not any(member.graph.feeds(at, other) for other in weighing):
                ends |= {min(names).rpartition(".")[0]: member.sites[at].name}
    return ends


def _growing_stream(
    evidence: Evidence, chain: Chain, direction: Direction, stretch: Stretch, ends: dict[str, str]
) -> Finding:
    """Return the finding of a residual stream that grows with each sum (Zhang et al. 2019, Fixup, section 2)."""
    severity: Severity = "broken" if stretch.mean > limits.EXPLODED else "strained"
    limit = limits.EXPLODED if severity == "broken" else limits.STRAINED
    low, high = change_interval(evidence, stretch)
    each = math.exp(stretch.mean / stretch.steps)
    factor = 1 / math.sqrt(len(ends))
    names = [*ends]
    listed = ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]}, ... {names[-1]}"
    end = evidence.sites[max(stretch.start, stretch.end)].name
    what = "residual stream" if direction == "forward" else "gradient of the residual stream"
    return Finding(
        kind="exploding",
        severity=severity,
        direction=direction,
        sites=tuple(ends.values()),
        message=f"the {what} grows by a factor of {number(math.exp(stretch.mean), 2)} over {stretch.steps} sums "
        f"(x{number(each, 2)} per sum), up to {end}",
        cause="each sum adds the mean square of its branch to that of the stream, and no norm stands before the branch",
        evidence={
            "factor": math.exp(stretch.mean),
            "factor_low": math.exp(low),
            "factor_high": math.exp(high),
            "limit": math.exp(limit),
            "factor_per_layer": each,
            "layers": float(stretch.steps),
            "seeds": float(len(stretch.change)),
        },
        remedy=Remedy(
            "scale",
            f"multiply the weights of the last layer of each branch ({listed}) by 1/sqrt({len(ends)}) = "
            f"{number(factor)}, or zero-initialize them, or put a norm at the start of each branch",
            factors=dict.fromkeys(names, factor),
        ),
        confidence=succession(sum(abs(change) > limit for change in stretch.change), len(stretch.change)),
        marks={end: "exploding" if direction == "forward" else "grad exploding"},
    )


def _beyond(chain: Chain, direction: Direction, kind: Kind) -> Stretch | None:
    """Return the worst stretch of a chain if it is beyond a limit: first between norms, then a gradient across them."""
    between = chain.worst(direction, rising=kind == "exploding")
    # What a norm makes good on the way is no change.
    if between is not None and _is_beyond(between, kind, limits.STRAINED):
        whole = chain.between(between.start, between.end, direction)
        if _is_beyond(replace(between, change=tuple(whole.tolist())), kind, limits.STRAINED):
            return between
    across = chain.worst(direction, rising=kind == "exploding", everywhere=True) if direction == "backward" else None
    return across if _is_beyond(across, kind, _LIMITS[kind]) else None


def _is_beyond(stretch: Stretch | None, kind: Kind, limit: float) -> bool:
    # The greatest rise of a signal that only falls is a fall.
    if stretch is None or (stretch.mean if kind == "exploding" else -stretch.mean) <= limit:
        return False
    # A signal that comes back from zero, by a bias say, has not grown: the zero is the fault.
    return stretch.mean <= -LN_ZERO / 2


def _before_zero(evidence: Evidence, chain: Chain, direction: Direction, stretch: Stretch) -> Stretch:
    """Return the stretch over which a signal that underflows shrinks before it is zero; any other stretch as it is.

    It ends where the format still holds the values well, if it can.
    """
    sizes, least = _sizes_before_zero(evidence, chain, direction, stretch), _smallest(evidence, stretch)
    if not _reaches_zero(stretch) or not _underflows(sizes, least):
        return stretch
    for among in ({at for at, size in sizes.items() if size > least}, sizes.keys()):
        sized = chain.worst(direction, rising=False, among=among)
        if sized is not None and _is_beyond(sized, "vanishing", limits.VANISHED):
            return sized
    return stretch


def _reaches_zero(stretch: Stretch) -> bool:
    return stretch.mean <= LN_ZERO / 2


def _sizes_before_zero(evidence: Evidence, chain: Chain, direction: Direction, stretch: Stretch) -> dict[int, float]:
    """Return the rms at each position of a chain that the signal passes before the first zero of a stretch."""
    zeros, forward = frozenset(chain.zeros(direction)), stretch.start < stretch.end
    passed = chain.indices if forward else chain.indices[::-1]
    before = takewhile(lambda at: at not in zeros or (at < stretch.start) is forward, passed)
    seen = {at: getattr(evidence.sites[at], direction) for at in before if at not in zeros}
    return {at: summary.rms for at, summary in seen.items() if summary is not None}


def _smallest(evidence: Evidence, stretch: Stretch) -> float:
    return limits.smallest(evidence.sites[stretch.end].dtype)


def _underflows(sizes: Mapping[int, float], least: float) -> bool:
    """Return whether a signal was below what its format holds before it was zero."""
    return any(size <= least for size in sizes.values())


def _is_stopped(evidence: Evidence, chain: Chain, stretch: Stretch) -> bool:
    """Return whether the signal does not shrink, but is stopped: exact zeros behind values that do not underflow.

    What stops it is known where the way of every gradient was followed: zero weights, or what `lost_gradients` finds.
    """
    if not _reaches_zero(stretch) or all(not p.gradient_outlook for p in evidence.members[0].parameters):
        return False
    direction: Direction = "forward" if stretch.start < stretch.end else "backward"
    sizes = _sizes_before_zero(evidence, chain, direction, stretch)
    return bool(sizes) and not _underflows(sizes, _smallest(evidence, stretch))


def _finding(evidence: Evidence, chain: Chain, kind: Kind, direction: Direction, stretch: Stretch) -> Finding:
    held = _norms_hold(chain, stretch)
    forward = _forward(chain, stretch)
    beyond = borne(evidence, chain, kind, direction, stretch)
    load = abs(stretch.mean) / beyond
    severity = limits.severity_of(load)
    limit = {"broken": beyond, "strained": limits.SLOWED * beyond, "note": limits.STRAINED}[severity]
    low, high = change_interval(evidence, stretch)
    each = math.exp(stretch.mean / stretch.steps)
    start, end = evidence.sites[stretch.start], evidence.sites[stretch.end]
    sites = _passed(evidence, chain, stretch)
    zero = _zero_behind(evidence, chain, stretch)
    return Finding(
        kind=kind,
        severity=severity,
        direction=direction,
        sites=tuple(site.name for site in sites),
        message=_message(kind, direction, stretch, each, start, end)
        + (f", and is too small for {zero.dtype} at {zero.name}, where it is zero" if zero is not None else ""),
        cause=_ACROSS_NORMS[kind] if held else _cause(evidence, kind, direction, stretch, forward),
        evidence={
            "factor": _exp(stretch.mean),
            "factor_low": _exp(low),
            "factor_high": _exp(high),
            "limit": math.exp(math.copysign(limit, stretch.mean)),
            "adam_load": load,
            "factor_per_layer": each,
            "layers": float(stretch.steps),
            "seeds": float(len(stretch.change)),
        },
        remedy=_less_depth(evidence, chain) if held else remedy_for_size(evidence, sites, each),
        confidence=succession(sum(abs(change) > limit for change in stretch.change), len(stretch.change)),
        marks={end.name: kind if direction == "forward" else f"grad {kind}"},
    )


def _less_depth(evidence: Evidence, chain: Chain) -> Remedy:
    """Return the remedy where norms undo what a factor on a weight does."""
    if evidence.sites[chain.indices[-1]].role == "residual":
        return Remedy(
            "norm", "put each norm at the start of its branch (pre-norm), or warm up the learning rate from near zero"
        )
    return Remedy("residual", "put a residual sum around every one or two layers, or use fewer layers")


def _forward(chain: Chain, stretch: Stretch) -> float:
    """Return the mean of ln of the forward factor over a stretch, whatever its direction; NaN between zeros."""
    first, last = sorted((stretch.start, stretch.end))
    if {first, last}.issubset(chain.zeros("forward")):
        return math.nan
    return float(chain.between(first, last, "forward").mean())


def borne(evidence: Evidence, chain: Chain, kind: Kind, direction: Direction, stretch: Stretch) -> float:
    """Return the abs(ln factor) over a stretch from which on no optimizer trains the network."""
    if _norms_hold(chain, stretch):
        return _LIMITS[kind]
    forward = _forward(chain, stretch)
    if kind == "vanishing":
        return limits.VANISHED_OF_TWO if evidence.classes == 2 else limits.VANISHED
    if direction == "backward" and abs(forward) < limits.STRAINED:
        return limits.CHAOTIC + forward
    return limits.EXPLODED


def _passed(evidence: Evidence, chain: Chain, stretch: Stretch) -> tuple[Site, ...]:
    """Return the sites whose weights cause the change, in the order in which the signal passes them.

    With them come the others of the chain with weights of the same scale whose own factor is not seen: what enters the
    first layer forward is no site of the chain, and zero is multiplied by anything.
    """
    low, high = sorted((stretch.start, stretch.end))
    # Backward, the weights of a layer lie between its own site and the one before it.
    passed = [index for index in chain.indices if low < index <= high]
    hidden: set[int] = set()
    if _zero_behind(evidence, chain, stretch) is not None:
        hidden |= {at for at in chain.indices[1:] if (at > high if stretch.end == high else at <= low)}
    if stretch.start == chain.indices[0]:
        hidden.add(stretch.start)
    sites = evidence.sites
    scales = {at: math.log(s) for at in (*passed, *hidden) if (s := scale_at(evidence.members[0], sites[at]))}
    if known := [scales[index] for index in passed if index in scales]:
        usual = statistics.median(known)
        passed += [index for index in hidden if index in scales and abs(scales[index] - usual) < 1]
    passed.sort(reverse=stretch.end < stretch.start)
    return tuple(sites[index] for index in passed)


def _zero_behind(evidence: Evidence, chain: Chain, stretch: Stretch) -> Site | None:
    """Return the first site behind a stretch where the signal that passed it is zero, None where there is none."""
    if _reaches_zero(stretch):
        return None
    if stretch.start < stretch.end:
        behind = [index for index in chain.zeros("forward") if index > stretch.end][:1]
    else:
        behind = [index for index in chain.zeros("backward") if index < stretch.end][-1:]
    return evidence.sites[behind[0]] if behind else None


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
