"""Single layers at fault: a gain far from 1, or unlike that of other layers of the same kind and place."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from propscope.diagnosis import limits
from propscope.diagnosis.behind import behind_of
from propscope.diagnosis.evidence import Chain, Evidence, module_of, parameters_by_module, succession
from propscope.diagnosis.peers import groups_in_one_place, maker_of, medians_of_others
from propscope.diagnosis.weights import bias_at, scale_at
from propscope.records.finding import Finding, Remedy, Severity
from propscope.records.gains import (
    SeedGains,
    carries_size,
    gains_of_seeds,
    has_own_size,
    input_rms,
    is_bounded,
    is_chain,
    is_norm,
    same_stack,
)
from propscope.records.network import Direction, NetworkProfile, Site
from propscope.records.numerals import number, percent

# More than half of a mean square, or of a layer's units.
_MOST = 0.5
_PEERS = 2
_BLOCKS = 3
# The weights of so many layers are not drawn wrongly by accident.
_SEVERAL = 3


@dataclass(frozen=True, slots=True)
class _Odd:
    """A layer at fault: its position, ln of the factor by which it is off in each seed, and a message.

    `shown`: the position where the factor shows, if it is another one.
    """

    index: int
    logs: tuple[float, ...]
    message: str
    direction: Direction = "forward"
    shown: int | None = None

    @property
    def mean(self) -> float:
        return sum(self.logs) / len(self.logs)


def odd_layers_of_grid(evidence: Evidence) -> Iterator[Finding]:
    """Find layers that change the signal by a factor of e^3 or more, by themselves or compared with their kind."""
    gains = gains_of_seeds(evidence.members)
    yield from _first_of_each_layer(
        evidence,
        *_odd_gains(evidence, gains, "forward"),
        *_odd_steps(evidence, gains),
        *_odd_gains(evidence, gains, "backward"),
    )


def odd_layers_of_model(evidence: Evidence) -> Iterator[Finding]:
    """Find the same in a model, and layers whose output differs by e^3 from that in the same place of other blocks."""
    gains = gains_of_seeds(evidence.members)
    yield from _first_of_each_layer(
        evidence,
        *_odd_gains(evidence, gains, "forward"),
        *_odd_steps(evidence, gains),
        *_odd_sizes(evidence),
        *_odd_gains(evidence, gains, "backward"),
    )


def _first_of_each_layer(evidence: Evidence, *found: _Odd) -> Iterator[Finding]:
    """Yield a finding for each layer, by the first of its faults."""
    by_layer: dict[int, _Odd] = {}
    for odd in found:
        by_layer.setdefault(odd.index, odd)
    for odd in by_layer.values():
        yield _finding(evidence, odd)


def _finding(evidence: Evidence, odd: _Odd) -> Finding:
    site = evidence.sites[odd.index]
    kind = "exploding" if odd.mean > 0 else "vanishing"
    severity: Severity = "broken" if odd.mean > limits.EXPLODED or odd.mean < -limits.VANISHED else "strained"
    ratio = math.exp(min(odd.mean, 700.0))
    limit = math.exp(math.copysign(limits.ODD, odd.mean))
    grad = "" if odd.direction == "forward" else "grad "
    cause, remedy = _why(evidence, odd)
    shown = site if odd.shown is None else evidence.sites[odd.shown]
    return Finding(
        kind=kind,  # type: ignore[arg-type]
        severity=severity,
        direction=odd.direction,
        sites=(site.name,),
        message=f"{site.name or '(model)'}: {odd.message}",
        cause=cause,
        evidence={"ratio": ratio, "limit": limit, "seeds": float(len(odd.logs))},
        remedy=remedy,
        confidence=succession(sum(abs(log) > limits.ODD for log in odd.logs), len(odd.logs)),
        marks={shown.name: f"{grad}x{number(ratio, 2)}"},
    )


def _why(evidence: Evidence, odd: _Odd) -> tuple[str, Remedy]:
    """Return what makes a layer odd, as far as its weights, its bias and its input show, and what to change.

    For weights that are independent of the input E[z^2] = s^2 E[x^2] + E[b^2] with s = rms(W) sqrt(fan_in) (Poole et
    al. 2016, eq. 3), which tells the three apart.
    """
    profile, site = evidence.members[0], evidence.sites[odd.index]
    name, scale = module_of(site.name), scale_at(profile, site)
    if all(p.name != f"{name}.weight" for p in evidence.once(parameters_by_module).get(name, ())):
        remedy = Remedy("repair", f"check what {site.name or 'the model'} computes, and its input")
        return "it has no weight of its own; what it computes differs from the layers beside it", remedy
    factor = math.exp(-odd.mean)
    rescale = Remedy("scale", f"multiply the weight of {name} by {number(factor)}", factors={name: factor})
    bias = bias_at(profile, site)
    if odd.direction == "forward" and odd.mean > 0 and bias is not None and bias.share > _MOST:
        zero = Remedy("repair", f"set the bias of {name} to zero", factors={bias.parameter: 0.0})
        return f"its bias makes up {percent(bias.share)} of the mean square of its output", zero
    flat = evidence.mean(odd.index if odd.shown is None else odd.shown, "flat_fraction")
    if odd.direction == "backward" and odd.mean < 0 and flat > _MOST:
        return f"{percent(flat)} of what enters the nonlinearity before it lies where that is flat", rescale
    if scale is None:
        return "its weights, or what reaches it, are not of the usual size", rescale
    said = f"its weights scale an input by {number(scale, 2)}"
    if 2 * abs(odd.mean - math.log(scale)) <= abs(odd.mean):
        size = "large" if odd.mean > 0 else "small"
        return f"{said}: they are {number(math.exp(min(abs(odd.mean), 700.0)), 2)} times too {size}", rescale
    entering = input_rms(profile, odd.index)
    if odd.direction == "backward" or entering is None:
        return said, rescale
    if abs(_size_in(profile, odd.index) - math.log(entering)) < abs(odd.mean) / 2:
        check = Remedy("repair", f"check what comes between {name} and the layer before it")
        return f"{said}, and the rms of what reaches it is {number(entering, 2)}", check
    along = "along" if odd.mean > 0 else "across"
    return f"{said}, and lie {along} what its inputs have in common", rescale


def _odd_gains(evidence: Evidence, gains: tuple[SeedGains, ...], direction: Direction) -> Iterator[_Odd]:
    """Find layers whose gain is odd, unless those of most layers of their chain are: then no single one is at fault."""
    # The gates of a recurrent layer run side by side: only two sites of one chain follow each other.
    chains_through: dict[int, set[Chain]] = defaultdict(set)
    for chain in evidence.chains:
        for index in chain.indices:
            chains_through[index].add(chain)
    found: list[_Odd] = []
    seen: dict[int, float] = {}
    for index, gain in enumerate(gains):
        if gain.forward[0] is None and gain.backward[0] is None:
            continue
        logs = _logs(getattr(gain, direction))
        beside = gain.before if direction == "forward" else gain.after[0] if len(gain.after) == 1 else None
        if beside is None:
            continue
        site, other = evidence.sites[index], evidence.sites[beside]
        together = chains_through[index] & chains_through[beside]
        if direction == "forward" and logs:
            if not carries_size(evidence.members[0], beside, index):
                continue
            logs = _passed_on(evidence, beside, logs)
        at = index if direction == "forward" else beside
        if logs:
            seen[at] = _mean(logs)
        if logs and abs(_mean(logs)) > limits.ODD and is_chain(site, other) and together:
            message = f"the {direction} gain is {number(math.exp(min(_mean(logs), 700.0)), 2)}"
            # The gradient of a site has passed the weights of the one after it.
            found.append(_Odd(at, logs, message, direction, index))
    # By how much most layers of a chain are off at least.
    usual: dict[bool, dict[Chain, float]] = {True: {}, False: {}}
    for chain in evidence.chains:
        means = sorted(seen[index] for index in chain.indices if index in seen)
        if len(means) >= _SEVERAL:
            most = max(_SEVERAL, len(means) // 2 + 1)
            usual[True][chain], usual[False][chain] = means[-most], -means[most - 1]
    for odd in found:
        # Of layers that are all about as far off, chance brings one over the limit.
        alike, least = usual[odd.mean > 0], min(limits.ODD, abs(odd.mean) / 2)
        if all(alike.get(chain, 0.0) <= least for chain in chains_through[odd.index]):
            yield odd


def _passed_on(evidence: Evidence, before: int, logs: tuple[float, ...]) -> tuple[float, ...]:
    """Return ln of a gain from what the site before passes on: at most 1 where it enters a bounded function."""
    if not is_bounded(evidence.sites[before].activation):
        return logs
    sizes = [_size_in(member, before) for member in evidence.members]
    return tuple(log + max(size, 0.0) for log, size in zip(logs, sizes, strict=True))


def _odd_steps(evidence: Evidence, gains: tuple[SeedGains, ...]) -> Iterator[_Odd]:
    """Find layers that scale their input unlike their kind, which a norm after them hides from the gains."""
    sites, graph = evidence.sites, evidence.members[0].graph
    steps = {
        index: logs
        for index in range(1, len(sites))
        # A sum is as large as the larger of its branches, and those are judged themselves.
        if sites[index].kind.lower() != "add"
        # What a bounded function or a softmax gives does not grow with its input.
        if (is_norm(sites[index]) or not has_own_size(sites[index])) and not _is_own(sites[index])
        # What ran before is no input where another stack begins.
        if graph.known or same_stack(sites[index - 1], sites[index])
        if (logs := _logs(gains[index].step))
    }
    at = {index: index for index in steps}
    groups = groups_in_one_place(evidence.members[0], at, more_than=_PEERS, alike=lambda index: maker_of(sites[index]))
    # The output of a norm does not depend on the size of its input: only its own scale can be at fault.
    size = partial(_size, evidence)
    usual_sizes = _usual({index: group for index, group in groups.items() if is_norm(sites[index])}, size)
    for index, usual in _usual(groups, lambda index: _mean(steps[index])).items():
        site, logs = sites[index], tuple(log - usual for log in steps[index])
        if abs(_mean(logs)) <= limits.ODD:
            continue
        message = f"its rms is {number(math.exp(_mean(steps[index])), 2)} times that of its input"
        compared = "the ratio"
        if is_norm(site):
            logs = (size(index) - usual_sizes[index],)
            message, compared = f"its rms is {number(math.exp(size(index)), 2)}", "that"
            if abs(logs[0]) <= limits.ODD:
                continue
        ratio = number(math.exp(_mean(logs)), 2)
        yield _Odd(index, logs, f"{message}, {ratio} times {compared} of the other {site.kind} sites")


def _odd_sizes(evidence: Evidence) -> Iterator[_Odd]:
    """Find sites whose rms differs by e^3 from that in the same place of three or more other blocks.

    Of sites that feed each other only the first is found. A branch that is large among others but far below the stream
    that it is added to, as behind gains of 1e-5 (Touvron et al. 2021, LayerScale), changes nothing. The outputs of
    blocks have one size where a norm or a sum of the residual stream enters each block. A stack without either changes
    the signal a little at each layer, which is not the fault of one layer: such a stack is judged only by the steps
    between neighbours.
    """
    sizes: dict[int, tuple[float, ...]] = {}
    for index, site in enumerate(evidence.sites):
        logs = _logs([s.forward.rms if (s := m.sites[index]).forward is not None else None for m in evidence.members])
        # A sum is as large as the larger of its branches; a site that runs several times is judged once.
        if logs and site.branch_share is None and site.name.partition("#")[2] in ("", "0") and not _is_own(site):
            sizes[index] = logs
    groups = groups_in_one_place(
        evidence.members[0],
        {index: index for index in sizes},
        more_than=_BLOCKS,
        alike=lambda index: maker_of(evidence.sites[index]),
    )
    odd: dict[int, _Odd] = {}
    for group in {id(group): group for group in groups.values()}.values():
        remaining = {index: _mean(sizes[index]) for index in group}
        while len(remaining) > _BLOCKS:
            medians = medians_of_others([*remaining.values()])
            deviations = {
                index: size - median for (index, size), median in zip(remaining.items(), medians, strict=True)
            }
            worst = max(deviations, key=lambda index: abs(deviations[index]))
            if abs(deviations[worst]) <= limits.ODD or _spread(remaining, worst) > 1:
                break
            usual = remaining.pop(worst) - deviations[worst]
            if groups[worst] is group:
                odd[worst] = _odd_size_at(evidence, worst, tuple(log - usual for log in sizes[worst]))
    for index, found in sorted(odd.items()):
        if found.mean > 0 and _is_lost_in_sums(evidence, index):
            continue
        inputs = evidence.members[0].graph.inputs[index]
        if not any(at in odd and odd[at].mean * found.mean >= 0 for at in inputs):
            yield found


def _is_own(site: Site) -> bool:
    """Return whether a site is unlike others in its place by design: an expert that few samples reach, an embedding.

    Learned positions are often drawn 50 times as small as tokens. The weights of both are judged themselves.
    """
    return site.token_share is not None or site.role == "embedding"


def _is_lost_in_sums(evidence: Evidence, index: int) -> bool:
    """Return whether all that a site feeds are sums that are larger than it by e^3 or more."""
    fed = evidence.once(behind_of).fed(index)
    return bool(fed) and all(
        evidence.sites[at].branch_share is not None and _size(evidence, at) - _size(evidence, index) > limits.ODD
        for at in fed
    )


def _spread(sizes: dict[int, float], without: int) -> float:
    """Return the largest abs(ln(rms / median)) among the others."""
    others = [size for index, size in sizes.items() if index != without]
    usual = statistics.median(others)
    return max(abs(size - usual) for size in others)


def _odd_size_at(evidence: Evidence, index: int, logs: tuple[float, ...]) -> _Odd:
    kind, ratio = evidence.sites[index].kind, number(math.exp(_mean(logs)), 2)
    return _Odd(index, logs, f"its rms is {ratio} times that of the other {kind} sites in the same place")


def _usual(groups: dict[int, list[int]], read: Callable[[int], float]) -> dict[int, float]:
    """Return the median of a figure over the others of a site's group, for each site."""
    of_group: dict[int, dict[int, float]] = {}
    for group in groups.values():
        if id(group) not in of_group:
            medians = medians_of_others([read(index) for index in group])
            of_group[id(group)] = dict(zip(group, medians, strict=True))
    return {index: of_group[id(group)][index] for index, group in groups.items()}


def _logs(values: Sequence[float | None]) -> tuple[float, ...]:
    known = tuple(math.log(value) for value in values if value is not None and 0 < value < math.inf)
    return known if len(known) == len(values) else ()


def _mean(logs: tuple[float, ...]) -> float:
    return sum(logs) / len(logs)


def _size(evidence: Evidence, index: int) -> float:
    return _mean(tuple(_size_in(member, index) for member in evidence.members))


def _size_in(profile: NetworkProfile, index: int) -> float:
    """Return ln of the rms of a site's values; 0 where it has none."""
    summary = profile.sites[index].forward
    return math.log(summary.rms) if summary is not None and 0 < summary.rms < math.inf else 0.0
