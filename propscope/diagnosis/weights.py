"""Weights out of scale: the gain of a layer, computed only from its weights.

The gain is s = rms(W) sqrt(fan_in): for inputs that are independent of the weights E[z^2] = s^2 E[x^2] (Poole et al.
2016, eq. 3; He et al. 2015, eq. 7). It shows a fault anywhere: before a norm, which hides it from the signal after the
norm, at the end of a branch, or where no other layer can be compared.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from propscope.diagnosis import limits
from propscope.diagnosis.behind import behind_of
from propscope.diagnosis.evidence import Evidence, module_of, succession
from propscope.diagnosis.peers import groups_in_one_place, median_without
from propscope.records.finding import Finding, Remedy
from propscope.records.gains import is_norm, name_pattern
from propscope.records.network import NetworkProfile, Parameter, Site
from propscope.records.numerals import number

# Two others in the same place, so that a majority of the three agrees on the usual scale.
_PEERS = 2
_TRANSPOSED = "Conv1D"
# The functions that multiply by a matrix.
_PRODUCTS = ("linear", "matmul", "mm", "addmm", "einsum")
# Two layers have the same rms(W) within this factor.
_SAME = 1.5
# The mean square of a sum scatters by as much about the sum of the mean squares.
_CANCELS = 1.25


@dataclass(frozen=True, slots=True)
class Bias:
    """The bias of a site: its parameter, its rms, and the share of the site's mean square that it makes up."""

    parameter: str
    rms: float
    share: float


@dataclass(frozen=True, slots=True)
class Scale:
    """The scale s of a layer's weights: position of its first site, its name, and ln s per seed (-inf for zeros).

    `depthwise`: each channel has its own filter, whose scale cannot be compared with layers that sum over channels.
    `shared`: the other modules that use the weights; `weight`: the module that they are stored under.
    `outward`: ln of rms(W) sqrt(fan_out), which an initializer keeps that conserves the gradient (He et al. 2015, eq.
    14); `std`: ln of rms(W), which many initializers have the same for all layers, such as 0.02.
    """

    index: int
    owner: str
    logs: tuple[float, ...]
    depthwise: bool = False
    shared: tuple[str, ...] = ()
    weight: str = ""
    outward: float = math.nan
    std: float = math.nan

    @property
    def mean(self) -> float:
        """Mean of ln s over seeds; -inf where the weights of any seed are all zero."""
        return sum(self.logs) / len(self.logs)


def odd_weights(evidence: Evidence) -> Iterator[Finding]:
    """Find layers whose scale s differs by a factor of e^3 from that of their peers or from 1; zeros are no scale.

    Among peers of other shapes, what an initializer gives all of them may be rms(W) sqrt(fan_out) instead of s: a layer
    is at fault if it differs in both, or in s alone where the peers agree on s and not on the other. A small layer has
    no fault of its own where most layers have its rms(W): with weights of 0.02 s is small at 9 inputs, and about 1 at
    2,500.
    """
    scales = evidence.once(scales_of)
    usual = _usual(evidence, scales)
    outward = _usual(evidence, scales, read=lambda scale: scale.outward)
    # The initializer kept what the peers agree on.
    kept = {s: outward[s].spread < usual[s].spread + math.log(_SAME) for s in scales if s in usual and s in outward}
    recurrent = {course.module for course in evidence.members[0].time_courses if course.weights}
    for scale in scales:
        site = evidence.sites[scale.index]
        # The weights of a recurrent layer are judged by what they do over time.
        if scale.mean == -math.inf or (scale.owner in recurrent and site.units is None):
            continue
        peers = usual[scale].median if scale in usual else None
        if peers is not None and (
            abs(scale.mean - peers) > limits.ODD
            and not (kept[scale] and abs(scale.outward - outward[scale].median) <= limits.ODD)
        ):
            # Where this one is about 1, the others are at fault.
            if abs(scale.mean) > 1 or abs(peers) <= limits.ODD:
                yield _odd(evidence, scale, peers, beside=True)
        elif is_norm(site):
            continue
        # A small scale that all layers in one place share is intended, such as 1/sqrt(depth) at a branch's end.
        elif scale.mean > limits.ODD or (peers is None and scale.mean < -limits.ODD):
            small = scale.index in evidence.once(_small_together) or (scale.mean < 0 and _is_common(scale, scales))
            if not (small or (scale.mean > 0 and _restores(evidence, scale.index))):
                yield _odd(evidence, scale, 0.0, beside=False)


def _restores(evidence: Evidence, index: int) -> bool:
    """Return whether weights that are large only bring what enters to size, as behind an average over many keys."""
    seen = [member.sites[index].forward for member in evidence.members if member.sites[index].parents]
    return bool(seen) and all(values is not None and 0 < values.rms < _SAME for values in seen)


def _small_together(evidence: Evidence) -> frozenset[int]:
    """Return the positions of layers whose scale is too small as those of most layers of their chain are.

    What they do together is judged, where no norm undoes it.
    """
    means = {scale.index: scale.mean for scale in evidence.once(scales_of)}
    found: set[int] = set()
    for chain in evidence.chains:
        beside = [index for index in chain.indices if index in means]
        small = [index for index in beside if means[index] < -limits.ODD]
        if len(small) > _PEERS and 2 * len(small) > len(beside) and not any(chain.forward_held):
            found.update(small)
    return frozenset(found)


def _is_common(scale: Scale, scales: list[Scale]) -> bool:
    """Return whether more than half of the other layers have the rms(W) of this one, within a factor of 1.5."""
    others = [other for other in scales if other is not scale and other.mean > -math.inf]
    alike = sum(abs(other.std - scale.std) < math.log(_SAME) for other in others)
    return alike > max(len(others) / 2, _PEERS)


def large_embeddings(evidence: Evidence) -> Iterator[Finding]:
    """Find embeddings whose rows have a rms above e^3, unless all that they feed are norms, behind a sum or not."""
    behind = evidence.once(behind_of)
    for index, sites in evidence.columns():
        if sites[0].role != "embedding":
            continue
        rows = [
            p.value.rms
            for member, site in zip(evidence.members, sites, strict=True)
            for p in member.parameters_of(site)
        ]
        if len(rows) != len(evidence.members) or not all(rows):
            continue
        scale = Scale(index, module_of(sites[0].name), tuple(map(math.log, rows)), weight=module_of(sites[0].name))
        if scale.mean > limits.ODD and not behind.is_absorbed(index, through_sums=True):
            yield _odd(evidence, scale, 0.0, beside=False)


def scales_of(evidence: Evidence) -> list[Scale]:
    """Return the scale of each layer that has a site, in execution order; shared weights count where they are used."""
    sites, first = evidence.sites, evidence.members[0]
    owned = _owned(first)
    used_by: dict[str, list[Site]] = defaultdict(list)
    for site in sites:
        for name in site.parameters:
            used_by[name].append(site)
    values = [{p.name: p for p in member.parameters} for member in evidence.members]
    return [
        Scale(
            index,
            owner,
            tuple(_log_scale([each[n] for n in names if n in each], sites[index]) for each in values),
            outward=_log_scale([values[0][n] for n in names], sites[index], fan=_fan_out),
            std=_log_scale([values[0][n] for n in names], sites[index], fan=lambda parameter, site: 1.0),
            depthwise=all(len(values[0][n].shape) > 2 and values[0][n].shape[1] == 1 for n in names),
            shared=_sharing(used_by, owner, names),
            weight=names[0].rpartition(".")[0],
        )
        for (index, owner), names in sorted(owned.items())
    ]


def _owned(profile: NetworkProfile) -> dict[tuple[int, str], list[str]]:
    """Return the names of the weights of each layer, by the position of its first site and its own name."""
    sites, parameters = profile.sites, {parameter.name: parameter for parameter in profile.parameters}
    first: dict[str, int] = {}
    for index, site in enumerate(sites):
        first.setdefault(module_of(site.name), index)
    owned: dict[tuple[int, str], list[str]] = defaultdict(list)
    for parameter in profile.parameters:
        at = _site_of(parameter, first, sites)
        if at is not None:
            owned[at, parameter.name.rpartition(".")[0]].append(parameter.name)
    taken = {at for at, _ in owned}
    for module, index in first.items():
        site = sites[index]
        used = [name for name in site.parameters if name in parameters and len(parameters[name].shape) > 1]
        if index in taken or len(used) != 1 or site.role == "embedding":
            continue
        # The weight has another module's name, since both share it, or was used by a function.
        shares = any(name not in parameters and name.rpartition(".")[0] == module for name in site.parameters)
        multiplied = any(parent.operations[-1:] == (name,) for parent in site.parents or () for name in _PRODUCTS)
        if shares or multiplied:
            owned[index, module if shares else used[0].rpartition(".")[0]].append(used[0])
    return owned


def _sharing(used_by: Mapping[str, Iterable[Site]], owner: str, names: list[str]) -> tuple[str, ...]:
    """Return the other modules that use a weight, by all of its names and the sites that it takes part in."""
    found: dict[str, None] = {}
    for site in (site for name in names for site in used_by.get(name, ())):
        aliases = [name for name in site.parameters if name.rpartition(".")[2] == names[0].rpartition(".")[2]]
        users = [name.rpartition(".")[0] for name in aliases if name in names or module_of(site.name) in name]
        found |= dict.fromkeys(users)
    return tuple(name for name in found if name != owner)


def bias_at(profile: NetworkProfile, site: Site) -> Bias | None:
    """Return the bias that took part in a site; None where there is none, or several, or it cancels something."""
    found = [p for p in profile.parameters_of(site) if _is_bias(p)]
    if len(found) != 1 or site.forward is None or not site.forward.rms > 0 or not found[0].value.rms > 0:
        return None
    share = (found[0].value.rms / site.forward.rms) ** 2
    # A bias that is larger than the sum takes the mean of W x away, as `centre` has it.
    return Bias(found[0].name, found[0].value.rms, min(share, 1.0)) if share < _CANCELS else None


def _is_bias(parameter: Parameter) -> bool:
    return parameter.name.rpartition(".")[2] == "bias" and len(parameter.shape) == 1


def scale_at(profile: NetworkProfile, site: Site) -> float | None:
    """Return the scale s of the weights that took part in a site, None where there are none, or only zeros."""
    matrices = [p for p in profile.parameters_of(site) if len(p.shape) > 1]
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


def _log_scale(
    parameters: list[Parameter], site: Site, *, fan: Callable[[Parameter, Site], float] | None = None
) -> float:
    """Return ln s of all matrices of a layer together, as those of a recurrent layer add up in its gates.

    `fan`: what takes the place of the number of inputs.
    """
    square = sum(p.value.rms**2 * (fan or _fan_in)(p, site) for p in parameters)
    return 0.5 * math.log(square) if square > 0 else -math.inf


def _fan_in(parameter: Parameter, site: Site) -> float:
    size = math.prod(parameter.shape)
    if not site.units and len(parameter.shape) == 2 and site.features in parameter.shape:
        # A function takes its matrix in either order.
        return size / (site.features or 1)
    inputs_first = site.kind == _TRANSPOSED or "Transpose" in site.kind
    return size / parameter.shape[1 if inputs_first else 0] if size else 0.0


def _fan_out(parameter: Parameter, site: Site) -> float:
    """Return the number of outputs that an input reaches: of a convolution, the channels times the kernel."""
    size = math.prod(parameter.shape)
    if len(parameter.shape) < 2 or not size:
        return 1.0
    if len(parameter.shape) == 2:
        return size / _fan_in(parameter, site)
    return size / parameter.shape[0 if "Transpose" in site.kind else 1]


@dataclass(frozen=True, slots=True)
class _Usual:
    """The `median` of the other layers in one place, and the `spread` from the smallest to the largest of them."""

    median: float
    spread: float

    @classmethod
    def of_others(cls, ascending: Sequence[float], at: int) -> _Usual:
        """Return what is usual of ascending values without the one at a position."""
        first, last = int(at == 0), len(ascending) - 1 - (at == len(ascending) - 1)
        return cls(median_without(ascending, at), ascending[last] - ascending[first])


def _usual(
    evidence: Evidence, scales: list[Scale], *, read: Callable[[Scale], float] = lambda scale: scale.mean
) -> dict[Scale, _Usual]:
    """Return what is usual of ln s over the other layers in the same place, for each layer that has two or more.

    `read`: what is compared in place of ln s.

    The layer farthest from its peers is judged first; if it is at fault, it does not count as a peer of the others.
    """
    first = evidence.members[0]

    def alike(scale: Scale) -> tuple[str, str, bool]:
        site = evidence.sites[scale.index]
        within = scale.owner.removeprefix(module_of(site.name)) if first.graph.known else name_pattern(scale.owner)
        return site.kind, within, scale.depthwise

    at = {scale: scale.index for scale in scales if scale.mean > -math.inf}
    groups = groups_in_one_place(first, at, more_than=_PEERS, alike=alike)
    found: dict[Scale, _Usual] = {}
    for group in {id(group): group for group in groups.values()}.values():
        usual_of: dict[Scale, _Usual] = {}
        left = sorted(group, key=read)
        sizes = [read(scale) for scale in left]
        while len(left) > _PEERS:
            # The one farthest from the median of the others is the smallest or the largest.
            usual = {at: _Usual.of_others(sizes, at) for at in (0, len(left) - 1)}
            worst = max(usual, key=lambda at: abs(sizes[at] - usual[at].median))
            if abs(sizes[worst] - usual[worst].median) <= limits.ODD:
                usual_of |= {scale: _Usual.of_others(sizes, at) for at, scale in enumerate(left)}
                break
            usual_of[left.pop(worst)] = usual[worst]
            del sizes[worst]
        else:
            # Too few are left to compare: each of them counts as usual, since they differed from the ones removed.
            usual_of |= {scale: _Usual(read(scale), 0.0) for scale in left if len(group) > len(left)}
        found |= {scale: size for scale, size in usual_of.items() if groups[scale] is group}
    return found


def _odd(evidence: Evidence, scale: Scale, usual: float, *, beside: bool) -> Finding:
    site = evidence.sites[scale.index]
    name = scale.weight
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
    # A function of the model itself has no name but that of its weights.
    place = site.name or scale.owner
    shared = f" (those of {', '.join(scale.shared)} too)" if scale.shared else ""
    names = " and ".join(dict.fromkeys((scale.owner, *scale.shared)))
    what = "rows have rms" if site.role == "embedding" else f"weights{shared} scale the input by"
    weight = f"the weight that {names} share" if scale.shared else f"the weight of {name}"
    return Finding(
        kind="exploding" if mean > 0 else "vanishing",
        severity="note" if meant else "strained",
        direction="forward",
        sites=(place,),
        message=f"{place}: its {what} {number(math.exp(scale.mean), 2)}, {against}",
        cause=f"its weights are {number(much, 2)} times too {size}{behind}",
        evidence={
            "weight_scale": math.exp(scale.mean),
            "ratio": ratio,
            "limit": math.exp(math.copysign(limits.ODD, mean)),
            "seeds": float(len(logs)),
        },
        remedy=Remedy("scale", f"multiply {weight} by {number(1 / ratio)}", factors={name: 1 / ratio}),
        confidence=succession(sum(abs(log) > limits.ODD for log in logs), len(logs)),
        marks={site.name: f"weight x{number(ratio, 2)}"},
    )
