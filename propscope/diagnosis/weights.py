"""Weights out of scale: the gain of a layer, computed only from its weights.

The gain is s = rms(W) sqrt(fan_in): for inputs that are independent of the weights E[z^2] = s^2 E[x^2] (Poole et al.
2016, eq. 3; He et al. 2015, eq. 7). It shows a fault anywhere: before a norm, which hides it from the signal after the
norm, at the end of a branch, or where no other layer can be compared.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from propscope.diagnosis import limits
from propscope.diagnosis.evidence import Evidence, module_of, succession
from propscope.diagnosis.peers import median_without
from propscope.records.finding import Finding, Remedy
from propscope.records.gains import is_norm, name_pattern
from propscope.records.network import NetworkProfile, Parameter, Site
from propscope.records.numerals import number

# Two others in the same place, so that a majority of the three agrees on the usual scale.
_PEERS = 2
_TRANSPOSED = "Conv1D"


@dataclass(frozen=True, slots=True)
class Scale:
    """The scale s of a layer's weights: position of its first site, its name, and ln s per seed (-inf for zeros).

    `depthwise`: each channel has its own filter, whose scale cannot be compared with layers that sum over channels.
    """

    index: int
    owner: str
    logs: tuple[float, ...]
    depthwise: bool = False

    @property
    def mean(self) -> float:
        """Mean of ln s over seeds; -inf where the weights of any seed are all zero."""
        return sum(self.logs) / len(self.logs)


def odd_weights(evidence: Evidence) -> Iterator[Finding]:
    """Find layers whose scale s differs by a factor of e^3 from that of their peers or from 1; zeros are no scale."""
    scales = scales_of(evidence)
    usual = _usual(evidence, scales)
    for scale in scales:
        site = evidence.sites[scale.index]
        if scale.mean == -math.inf:
            continue
        peers = usual.get(scale.owner)
        if peers is not None and abs(scale.mean - peers) > limits.ODD:
            yield _odd(evidence, scale, peers, beside=True)
        elif not is_norm(site) and (scale.mean > limits.ODD or (peers is None and scale.mean < -limits.ODD)):
            # A small scale that all layers in one place share is intended, such as 1/sqrt(depth) at a branch's end.
            yield _odd(evidence, scale, 0.0, beside=False)


def scales_of(evidence: Evidence) -> list[Scale]:
    """Return the scale of each layer that has a site, in execution order."""
    sites = evidence.sites
    first: dict[str, int] = {}
    for index, site in enumerate(sites):
        first.setdefault(module_of(site.name), index)
    owned: dict[tuple[int, str], list[str]] = defaultdict(list)
    for parameter in evidence.members[0].parameters:
        at = _site_of(parameter, first, sites)
        if at is not None:
            owned[at, parameter.name.rpartition(".")[0]].append(parameter.name)
    values = [{p.name: p for p in member.parameters} for member in evidence.members]
    return [
        Scale(
            index,
            owner,
            tuple(_log_scale([each[n] for n in names if n in each], sites[index]) for each in values),
            depthwise=all(len(values[0][n].shape) > 2 and values[0][n].shape[1] == 1 for n in names),
        )
        for (index, owner), names in sorted(owned.items())
    ]


def scale_at(profile: NetworkProfile, site: Site) -> float | None:
    """Return the scale s of the weights that took part in a site, None where there are none, or only zeros."""
    taking_part = set(site.parameters)
    matrices = [p for p in profile.parameters if p.name in taking_part and len(p.shape) > 1]
    log = _log_scale(matrices, site)
    return math.exp(log) if log > -math.inf else None


def _site_of(parameter: Parameter, first: dict[str, int], sites: tuple[Site, ...]) -> int | None:
    owner, _, name = parameter.name.rpartition(".")
    if "weight" not in name or not parameter.value.finite_count:
        return None
    index = first.get(owner)
    if index is None:
        # torch's attention applies its last layer itself, so that layer has no site of its own.
        above = first.get(owner.rpartition(".")[0])
        index = above if above is not None and sites[above].kind == "MultiheadAttention" else None
    if index is None or sites[index].role == "embedding" or "embedding" in sites[index].kind.lower():
        return None
    return index if len(parameter.shape) > 1 or is_norm(sites[index]) else None


def _log_scale(parameters: list[Parameter], site: Site) -> float:
    """Return ln s of all matrices of a layer together: those of a recurrent layer add up in its gates."""
    square = sum((p.value.rms * math.sqrt(_fan_in(p, site))) ** 2 for p in parameters)
    return 0.5 * math.log(square) if square > 0 else -math.inf


def _fan_in(parameter: Parameter, site: Site) -> float:
    size = math.prod(parameter.shape)
    inputs_first = site.kind == _TRANSPOSED or "Transpose" in site.kind
    return size / parameter.shape[1 if inputs_first else 0] if size else 0.0


def _place(evidence: Evidence, scale: Scale) -> tuple[str, str, bool]:
    site = evidence.sites[scale.index]
    return site.kind, name_pattern(scale.owner), scale.depthwise


def _usual(evidence: Evidence, scales: list[Scale]) -> dict[str, float]:
    """Return the median of ln s over the other layers in the same place, for each layer that has two or more.

    The layer farthest from its peers is judged first; if it is at fault, it does not count as a peer of the others.
    """
    groups: dict[tuple[str, str, bool], list[Scale]] = defaultdict(list)
    for scale in scales:
        if scale.mean > -math.inf:
            groups[_place(evidence, scale)].append(scale)
    found: dict[str, float] = {}
    for group in groups.values():
        left = sorted(group, key=lambda scale: scale.mean)
        sizes = [scale.mean for scale in left]
        while len(left) > _PEERS:
            # The one farthest from the median of the others is the smallest or the largest.
            usual = {at: median_without(sizes, at) for at in (0, len(left) - 1)}
            worst = max(usual, key=lambda at: abs(sizes[at] - usual[at]))
            if abs(sizes[worst] - usual[worst]) <= limits.ODD:
                found |= {scale.owner: median_without(sizes, at) for at, scale in enumerate(left)}
                break
            found[left.pop(worst).owner] = usual[worst]
            del sizes[worst]
        else:
            # Too few are left to compare: each of them counts as usual, since they differed from the ones removed.
            found |= {scale.owner: scale.mean for scale in left if len(group) > len(left)}
    return found


def _odd(evidence: Evidence, scale: Scale, usual: float, *, beside: bool) -> Finding:
    site = evidence.sites[scale.index]
    name = scale.owner
    logs = tuple(log - usual for log in scale.logs)
    mean = sum(logs) / len(logs)
    ratio = math.exp(mean)
    # A small last layer starts with a neutral guess: this is done on purpose, and training corrects it.
    meant = mean < 0 and site.role == "output"
    against = (
        f"{number(ratio, 2)} times as much as the other {site.kind} layers in the same place do"
        if beside
        else "where about 1 is usual"
    )
    much, size = (ratio, "large") if ratio > 1 else (1 / ratio, "small")
    hidden = any(is_norm(behind) for behind in evidence.sites[scale.index + 1 : scale.index + 2])
    behind = (
        "; the norm after it hides this, and divides the gradient of the weights by the same factor"
        if mean > 0 and hidden
        else ""
    )
    return Finding(
        kind="exploding" if mean > 0 else "vanishing",
        severity="note" if meant else "strained",
        direction="forward",
        sites=(site.name,),
        message=f"{site.name}: its weights scale the input by {number(math.exp(scale.mean), 2)}, {against}",
        cause=f"its weights are {number(much, 2)} times too {size}{behind}",
        evidence={
            "weight_scale": math.exp(scale.mean),
            "ratio": ratio,
            "limit": math.exp(math.copysign(limits.ODD, mean)),
            "seeds": float(len(logs)),
        },
        remedy=Remedy("scale", f"multiply the weight of {name} by {number(1 / ratio)}", factors={name: 1 / ratio}),
        confidence=succession(sum(abs(log) > limits.ODD for log in logs), len(logs)),
        marks={site.name: f"weight x{number(ratio, 2)}"},
    )
