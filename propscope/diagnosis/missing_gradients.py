"""Parameters that get no gradient: the place where it is lost on its way from the output, and what stands there."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise

from propscope.diagnosis import limits
from propscope.diagnosis.evidence import Evidence, module_of, sites_by_name
from propscope.diagnosis.unmeasured import unrecorded
from propscope.diagnosis.weights import bias_at
from propscope.records.activations import find_activation
from propscope.records.finding import Finding, Kind, Remedy, Severity
from propscope.records.gains import block_pattern, extent, is_norm, name_pattern
from propscope.records.network import UNKNOWN, Direction, GradientLoss, NetworkProfile, Parameter, Site
from propscope.records.numerals import counted, number
from propscope.records.summary import TensorSummary

# How the coverage's reasons begin, and what they say of a module that other random numbers let run.
_FROZEN, _AT_RANDOM, _ELSEWHERE = "frozen", "at random", "in other cases"
_LISTED = 3
# Functions that are constant between their steps.
_STEPS = frozenset(("round", "sign", "sgn", "floor", "ceil", "trunc", "fix", "heaviside", "floor_divide", "frac"))
# Operations that pass a gradient on wherever they are.
_SMOOTH = frozenset((
    "add", "sub", "neg", "view", "reshape", "flatten", "unflatten", "transpose", "permute", "contiguous", "clone", "to",
    "stack", "cat", "sum", "mean", "squeeze", "unsqueeze", "expand", "chunk", "split",
))  # fmt: skip
_PASSING = _SMOOTH | {"matmul", "bmm", "einsum", "mul", "div", "truediv", "dropout"}
_ATTENTION = ("scaled_dot_product_attention", "MultiheadAttention")
_DETACHING = "detach(), no_grad, .data, or an operation without a derivative such as argmax"


@dataclass(frozen=True, slots=True)
class Stop:
    """A place where gradients are lost.

    `place`: the name of the site, or of the module that did not run; `lost_by` as in `Parameter`; `parameters` that
    get none because of it. `zeros`: the weights whose zeros close the way, () where something else does. `operation`:
    the name of the operation that gives zeros, where it has no site.
    """

    place: str
    lost_by: GradientLoss
    parameters: tuple[Parameter, ...]
    zeros: tuple[str, ...] = ()
    operation: str = ""

    @property
    def for_good(self) -> bool:
        """Whether no parameter behind it ever gets a gradient, as far as the pass shows."""
        return all(parameter.gradient_outlook == "never" for parameter in self.parameters)


def lost_gradients(evidence: Evidence) -> Iterator[Finding]:
    """Find each place where gradients are lost that gradient descent does not open, and say what stands there.

    A parameter that gets its gradient after a step or two, as behind zero weights that learn, is no finding. Broken
    where no weight matrix ever learns, or where the values at the place are the same for all samples and all that
    reaches the output passes it; else strained. A note for a module that is skipped at random, an expert that got no
    sample, a parameter that took no part in this pass, and a target network behind `no_grad`.
    """
    yield from evidence.once(_known_losses)


def stopped_sites(evidence: Evidence) -> frozenset[str]:
    """Return the sites of which `lost_gradients` says that no gradient passes them."""
    return frozenset(name for finding in lost_gradients(evidence) for name in finding.sites)


def _known_losses(evidence: Evidence) -> list[Finding]:
    return [*_found(evidence, [stop for stop in stops_of(evidence) if stop.lost_by])]


def stagnant(evidence: Evidence) -> Iterator[Finding]:
    """Find parameters without a gradient of which the place is not known; what is frozen is a note."""
    yield from _found(evidence, [stop for stop in stops_of(evidence) if not stop.lost_by])
    reasons = {note.name: note.reason for note in evidence.members[0].coverage if note.what == "parameter"}
    if _has_gradient(evidence) and (frozen := [p for p in _still(evidence) if _is_frozen(p, reasons)]):
        yield _of_frozen(evidence, frozen)


def _found(evidence: Evidence, stops: list[Stop]) -> Iterator[Finding]:
    nothing_learns = bool(stops) and _nothing_learns(evidence)
    for alike in _alike(evidence, stops):
        # Of a network of the grid, zeros are what its initializer draws everywhere: all its units are equal.
        if not alike[0].zeros or evidence.subject == "model":
            yield _finding(evidence, alike, nothing_learns=nothing_learns)


def _has_gradient(evidence: Evidence) -> bool:
    return any(site.backward is not None and site.backward.count for m in evidence.members for site in m.sites)


def stops_of(evidence: Evidence) -> list[Stop]:
    """Return the places where gradients are lost for good, or as far as can be told, in the order of execution."""
    return evidence.once(_stops)


def _stops(evidence: Evidence) -> list[Stop]:
    if not _has_gradient(evidence):
        return []
    first = evidence.members[0]
    reasons = {note.name: note.reason for note in first.coverage if note.what == "parameter"}
    roots = _Roots(first)
    still = [
        parameter
        for parameter in _still(evidence)
        if not _is_frozen(parameter, reasons)
        and parameter.gradient_outlook not in ("now", "later")
        and not roots.opens(parameter)
    ]
    found: dict[tuple[str, GradientLoss, frozenset[str]], list[Parameter]] = defaultdict(list)
    operations: dict[tuple[str, GradientLoss, frozenset[str]], str] = {}
    for parameter in still:
        key, operation = roots.of(parameter)
        found[key].append(parameter)
        operations[key] = operations.get(key) or operation
    stops = [
        Stop(place, lost_by, tuple(parameters), tuple(sorted(zeros)), operations[place, lost_by, zeros])
        for (place, lost_by, zeros), parameters in found.items()
    ]
    positions = {site.name: index for index, site in enumerate(first.sites)}
    joined = _joined([stop for stop in stops if not roots.underflows(stop)])
    return sorted(joined, key=lambda stop: positions.get(stop.place, len(positions)))


def _still(evidence: Evidence) -> list[Parameter]:
    """Return the parameters of the first member that no member gave a gradient other than zeros."""
    first = evidence.members[0]
    hidden = unrecorded(first)
    everywhere = frozenset.intersection(*map(_still_of, evidence.members))
    return [p for p in first.parameters if p.name in everywhere and p.name not in hidden]


def _still_of(profile: NetworkProfile) -> frozenset[str]:
    return frozenset(parameter.name for parameter in profile.parameters if _is_still(parameter))


def _still_of_first(evidence: Evidence) -> frozenset[str]:
    return _still_of(evidence.members[0])


def _is_still(parameter: Parameter) -> bool:
    gradient = parameter.gradient
    return gradient is None or (gradient.count > 0 and gradient.rms == 0)


def _is_frozen(parameter: Parameter, reasons: dict[str, str]) -> bool:
    return parameter.gradient_lost_by == "frozen" or reasons.get(parameter.name, "").startswith(_FROZEN)


def _nothing_learns(evidence: Evidence) -> bool:
    """Return whether no trainable matrix ever gets a gradient; no trainable parameter, where none is a matrix."""
    first = evidence.members[0]
    reasons = {note.name: note.reason for note in first.coverage if note.what == "parameter"}
    trainable = [p for p in first.parameters if not _is_frozen(p, reasons)]
    still = {p.name for p in _still(evidence) if p.gradient_outlook not in ("now", "later")}
    matrices = [p for p in trainable if len(p.shape) > 1] or trainable
    return bool(matrices) and all(p.name in still for p in matrices)


# The place


class _Roots:
    """Follows a loss of gradient to where it comes from; zeros are followed to the first value that is zero."""

    def __init__(self, profile: NetworkProfile) -> None:
        self._sites = {site.name: site for site in profile.sites}
        self._parameters = {parameter.name: parameter for parameter in profile.parameters}
        self._empty = _ran_on_nothing(profile)

    def of(self, parameter: Parameter) -> tuple[tuple[str, GradientLoss, frozenset[str]], str]:
        """Return the place with how the gradient is lost there and the zero weights, and the operation in words."""
        place, lost_by, factor = parameter.gradient_lost_at, parameter.gradient_lost_by, parameter.gradient_zero_factor
        none: frozenset[str] = frozenset()
        if (module := _owner(parameter)) in self._empty:
            return (module, "not run", none), ""
        if lost_by == "zero factor" and factor in self._parameters:
            return (place, lost_by, frozenset({factor})), ""
        if lost_by == "zero factor" and factor in self._sites:
            origin, zeros = self._origin(self._sites[factor])
            return ((place, lost_by, zeros) if zeros else (origin, "zero slope", none)), ""
        if lost_by == "zero slope" and place in self._sites and (zeros := self._zeros_before(self._sites[place])):
            return (place, lost_by, zeros), ""
        if lost_by == "zero slope" and (of_zero := [p for p in self._parents_of(place) if is_zero(p.forward)]):
            return (self._origin(of_zero[0])[0], lost_by, none), ""
        if lost_by == "detached" and place in self._sites and not self._waits(self._sites[place]):
            return (self._cut_at(self._sites[place]) or place, lost_by, none), ""
        return (place, "zero slope" if lost_by == "zero factor" else lost_by, none), factor

    def opens(self, parameter: Parameter) -> bool:
        """Return whether the way is closed by a zero weight that moves in the first step, whatever is behind it."""
        factor = self._parameters.get(parameter.gradient_zero_factor)
        return parameter.gradient_lost_by == "zero factor" and factor is not None and not _is_still(factor)

    def underflows(self, stop: Stop) -> bool:
        """Return whether a gradient is too small at the place for its dtype, by itself or times the values."""
        site = self._sites.get(stop.place)
        if site is None or stop.lost_by != "zero slope":
            return False
        seen = [parent.forward.rms for parent in self._parents_of(site.name) if parent.forward is not None]
        if site.backward is not None:
            # The gradient of a weight is that at its site, times what enters.
            seen += [site.backward.rms, *(site.backward.rms * rms for rms in seen)]
        return any(0 < rms < limits.smallest(site.dtype) for rms in seen)

    def _cut_at(self, site: Site) -> str:
        """Return where a gradient is cut off that is lost on the way to this site.

        Back over the ways without a gradient, that is the first site with parameters that could learn, whose value has
        no graph, or the one that is computed past the graph, as by `detach`.
        """
        seen, waiting = {site.name}, [site]
        while waiting:
            site = waiting.pop()
            for edge in site.parents or ():
                before = self._sites.get(edge.name)
                if before is None or edge.gradient or before.name in seen:
                    continue
                if any(p.gradient for p in before.parents or ()):
                    return site.name
                if not _PASSING.issuperset(name.rstrip("_") for name in edge.operations[:-1]):
                    return site.name
                if self._waits(before):
                    return before.name
                seen.add(before.name)
                waiting.append(before)
        return ""

    def _waits(self, site: Site) -> bool:
        """Return whether a site has parameters of its own that could learn and get no gradient."""
        own = (self._parameters[name] for name in site.parameters if name in self._parameters)
        return any(_is_still(parameter) and parameter.gradient_lost_by != "frozen" for parameter in own)

    def _origin(self, site: Site) -> tuple[str, frozenset[str]]:
        """Return the first site on the way to this one whose values are zero, and the zero weights that made it so."""
        while True:
            zeros, before = self._zero_weights(site), self._parents_of(site.name)
            if not zeros and (of_zero := [parent for parent in before if is_zero(parent.forward)]):
                site = of_zero[0]
                continue
            # A norm gives zero where its input is the same for all samples.
            return site.name, zeros or frozenset().union(*map(self._zero_weights, before))

    def _zeros_before(self, site: Site) -> frozenset[str]:
        """Return the zero weights because of which a site has no slope: they make a value constant that enters it."""
        for parent in self._parents_of(site.name):
            zeros = self._origin(parent)[1] if is_zero(parent.forward) else self._zero_weights(parent)
            if zeros:
                return zeros
        return frozenset()

    def _zero_weights(self, site: Site) -> frozenset[str]:
        """Return the zero weights that make a site constant: any, where it is zero, else those of its own module."""
        own = site.parameters if is_zero(site.forward) else (f"{module_of(site.name)}.weight",)
        return frozenset(name for name in own if name in site.parameters and self._is_zero_weight(name))

    def _is_zero_weight(self, name: str) -> bool:
        # What gets a gradient itself does not stay zero.
        parameter = self._parameters.get(name)
        weighs = parameter is not None and "bias" not in name.rpartition(".")[2] and is_zero(parameter.value)
        return weighs and _is_still(self._parameters[name])

    def _parents_of(self, name: str) -> list[Site]:
        parents = self._sites[name].parents if name in self._sites else ()
        return [self._sites[parent.name] for parent in parents or () if parent.name in self._sites]


def is_zero(summary: TensorSummary | None) -> bool:
    """Return whether every element that was seen is zero."""
    return summary is not None and summary.count > 0 and not summary.nonfinite_count and summary.rms == 0


def _joined(stops: list[Stop]) -> list[Stop]:
    """Return the stops with those together that share a place or a zero weight, as the factors of one product do."""
    joined: dict[int, Stop] = {}
    holders: dict[object, int] = {}
    for position, stop in enumerate(stops):
        of_same = {holders[shared] for shared in _shared(stop) if holders.get(shared) in joined}
        for other in [joined.pop(holder) for holder in sorted(of_same)]:
            stop = replace(
                other,
                parameters=other.parameters + stop.parameters,
                zeros=tuple(sorted({*other.zeros, *stop.zeros})),
                operation=other.operation or stop.operation,
            )
        joined[position] = stop
        holders |= dict.fromkeys(_shared(stop), position)
    return [*joined.values()]


def _shared(stop: Stop) -> list[object]:
    """Return what stops that are one have in common: the place, or a zero weight."""
    return [(bool(stop.zeros), stop.place, stop.lost_by), *stop.zeros]


def _alike(evidence: Evidence, stops: list[Stop]) -> list[list[Stop]]:
    """Return the stops in groups of which one thing can be said: the same kind of loss in the same place of blocks."""
    sites = evidence.once(sites_by_name)
    groups: dict[tuple[object, ...], list[Stop]] = defaultdict(list)
    for stop in stops:
        kind = sites[stop.place].kind if stop.place in sites else ""
        by_chance = _reason(evidence, stop).by_chance
        key: tuple[object, ...] = (stop.lost_by, kind, bool(stop.zeros), name_pattern(stop.place), by_chance)
        if stop.lost_by == "not run":
            key = (stop.lost_by, _why_not_run(evidence, stop))
        groups[key].append(stop)
    return list(groups.values())


# What stands there


@dataclass(frozen=True, slots=True)
class _Reason:
    """What is said of a place: the kind of the finding and its site, what was seen, why, and what to change.

    `note`: it may be meant; `by_chance`: it may be so by chance, and pass once what is before it has learned.
    `factors`: by which parameters are multiplied to change it, as in `Remedy`.
    """

    kind: Kind
    site: str
    seen: str
    cause: str
    change: str
    mark: str = "stops"
    note: bool = False
    by_chance: bool = False
    numbers: Mapping[str, float] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)


def _finding(evidence: Evidence, stops: list[Stop], *, nothing_learns: bool) -> Finding:
    reasons = [_reason(evidence, stop) for stop in stops]
    reason = reasons[0]
    behind = list(dict.fromkeys(_owner(p) for stop in stops for p in stop.parameters))
    count = sum(len(stop.parameters) for stop in stops)
    cut = any(_cuts(evidence, stop) for stop in stops)
    by_chance = reason.by_chance and not all(stop.for_good for stop in stops)
    severity: Severity = "note" if reason.note else "broken" if nothing_learns or cut else "strained"
    severity = "note" if by_chance and severity == "strained" else severity
    places = list(
        dict.fromkeys(name for stop, each in zip(stops, reasons, strict=True) for name in _at(evidence, stop, each))
    )
    more = f", and so at {counted(len(stops) - 1, 'more place')}" if len(stops) > 1 else ""
    said = _counted(count, behind)
    return Finding(
        kind=reason.kind,
        severity=severity,
        direction=_DIRECTION.get(reason.kind, "backward"),
        sites=tuple(places),
        message=f"{reason.seen}{more}; {said}",
        cause=reason.cause,
        evidence={"parameters": float(count), "places": float(len(stops)), **reason.numbers},
        remedy=Remedy("repair", reason.change, factors=reason.factors),
        confidence=evidence.shown_by_all,
        marks=dict.fromkeys(places, reason.mark),
    )


# The directions in which other rules find the same kinds.
_DIRECTION: dict[Kind, Direction | None] = {"inactive": None, "vanishing": "forward"}


def _at(evidence: Evidence, stop: Stop, reason: _Reason) -> list[str]:
    """Return the places of a stop; of what gives only zeros, as a dropout may, all calls that do."""
    if stop.zeros:
        return list(dict.fromkeys(map(_module_of_parameter, stop.zeros)))
    site = evidence.once(sites_by_name).get(reason.site)
    if site is None or site.parameters or not is_zero(site.forward):
        return [reason.site]
    calls = [each for each in evidence.sites if module_of(each.name) == module_of(site.name) and is_zero(each.forward)]
    return [each.name for each in calls if each.kind == site.kind]


def _module_of_parameter(name: str) -> str:
    return name.rpartition(".")[0]


def _owner(parameter: Parameter) -> str:
    return _module_of_parameter(parameter.name)


def _counted(count: int, modules: list[str]) -> str:
    """Return how many parameters get no gradient, with the first modules that they are of."""
    named = [name or "(model)" for name in modules[:_LISTED]]
    more = f" and {len(modules) - _LISTED} more" if len(modules) > _LISTED else ""
    parameters = f"{count} parameters get" if count > 1 else "1 parameter gets"
    return f"{parameters} no gradient ({', '.join(named)}{more})"


def _reason(evidence: Evidence, stop: Stop) -> _Reason:
    if stop.zeros:
        return _of_zeros(evidence, stop)
    if stop.lost_by == "not run":
        return _of_idle(evidence, stop)
    if stop.lost_by == "zero slope":
        return _of_flat(evidence, stop)
    place = stop.place or "(model)"
    if stop.lost_by == "unused" and not _has_site(evidence, stop):
        return _of_idle(evidence, replace(stop, place=_owner(stop.parameters[0])))
    if stop.lost_by == "unused":
        return _Reason(
            "stagnant",
            stop.place,
            f"{place}: nothing of its output reaches the loss",
            "the output is not used, or it is copied to a new tensor (torch.tensor, .item(), .tolist())",
            f"use the output of {place} in the loss, or remove it",
        )
    if stop.lost_by == "detached":
        return _of_detached(evidence, stop)
    last = [site for site in evidence.sites if site.backward is not None and site.backward.count]
    if all(is_zero(site.backward) for site in last):
        return _Reason(
            "stagnant",
            last[-1].name,
            f"{last[-1].name or '(model)'}: the gradient of the loss is exactly zero",
            "the loss does not depend on the output: it is multiplied by zero, has reached its minimum, or is a "
            "softmax over one class",
            "print the loss for two different outputs: it has to differ",
            note=evidence.stage != "initialized",
        )
    return _Reason(
        "stagnant",
        _owner(stop.parameters[0]),
        f"{stop.parameters[0].name}: the loss does not depend on it",
        "where the gradient is lost was not recorded: the output is not used, cut off by detach(), or multiplied by "
        "zero, or the module did not run",
        "profile the model again, which shows the place",
        mark="no gradient",
    )


def _has_site(evidence: Evidence, stop: Stop) -> bool:
    """Return whether a site was computed from one of the parameters."""
    names = {parameter.name for parameter in stop.parameters}
    return any(not names.isdisjoint(site.parameters) for site in evidence.sites)


def _of_zeros(evidence: Evidence, stop: Stop) -> _Reason:
    zeros = " and ".join(stop.zeros[:2]) + (f" and {len(stop.zeros) - 2} more" if len(stop.zeros) > 2 else "")
    first = stop.zeros[0]
    if len(stop.zeros) > 1:
        cause = "each is multiplied by the zeros of the other, so that neither gets a gradient: a product of two zeros"
        change = f"draw one of them at random, such as {first}"
    else:
        at = next((site.kind for site in evidence.sites if site.name == stop.place), "the function")
        cause = f"it makes the output constant, and {at} at {stop.place} has no slope there: no step ever moves it"
        change = f"draw {first} at random"
    site = _module_of_parameter(first)
    said = f"{zeros}: all zero, and they stay zero"
    return _Reason("vanishing", site, said, cause, change, mark="zero weights", numbers={"weight_scale": 0.0})


def _of_detached(evidence: Evidence, stop: Stop) -> _Reason:
    place = stop.place or "(model)"
    operations = _operations(evidence, stop.place)
    cutting = [name for name in operations if name.rstrip("_") not in _PASSING]
    through = f" (through {', '.join(operations)})" if cutting else ""
    if ("sub", "detach") in pairwise(operations):
        return _Reason(
            "stagnant", stop.place, f"{place}: the gradient passes around what is detached here (straight-through)",
            "x + (q - x).detach() passes the gradient around q on purpose; q learns by a part of the loss of its own",
            "give the loss that it is trained with", mark="no gradient", note=True,
        )  # fmt: skip
    if (twin := _twin(evidence, stop)) is not None:
        return _Reason(
            "stagnant",
            stop.place,
            f"{place}: the gradient is cut off here on purpose, as it seems{through}",
            f"a target network: {twin} has the same layers and learns",
            "change nothing if its weights are copied or averaged from those that learn",
            mark="no gradient",
            note=True,
        )
    return _Reason(
        "stagnant",
        stop.place,
        f"{place}: the gradient is cut off here{through}",
        f"the value is used without its graph: {_DETACHING}",
        f"let the gradient pass at {place}, or freeze what lies before it (requires_grad=False) if that is meant",
    )


def _twin(evidence: Evidence, stop: Stop) -> str | None:
    """Return a module beside what is cut off that has the same parameters and learns; None unless all have one."""
    cut = _cut_modules(evidence, stop)
    twins = [_twins_of(evidence, module) for module in cut]
    return twins[0][0] if all(twins) and len({twin for found in twins for twin in found}) >= len(cut) else None


_Shapes = dict[str, tuple[int, ...]]


def _inside(evidence: Evidence) -> dict[str, _Shapes]:
    """Return for each module the shapes of the parameters in it, by their names there."""
    found: dict[str, _Shapes] = defaultdict(dict)
    for parameter in evidence.members[0].parameters:
        for path in _around(_owner(parameter)):
            found[path][parameter.name.removeprefix(f"{path}.")] = parameter.shape
    return found


def _beside(evidence: Evidence) -> dict[str, list[str]]:
    """Return the modules in each module, by their paths."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in evidence.once(_inside):
        found[_module_of_parameter(path)].append(path)
    return found


def _cut_modules(evidence: Evidence, stop: Stop) -> list[str]:
    """Return the outermost modules all of whose parameters get no gradient because of a stop."""
    inside = evidence.once(_inside)
    cut = Counter(path for parameter in stop.parameters for path in _around(_owner(parameter)))
    ways = (_around(_owner(parameter)) for parameter in stop.parameters)
    return sorted({next((path for path in way if cut[path] == len(inside[path])), "") for way in ways})


def _twins_of(evidence: Evidence, module: str) -> list[str]:
    """Return the modules beside one that have the same parameters, learn, and are neither before nor behind it.

    A single layer has none: two layers side by side, as those of keys and values, are often alike.
    """
    above, _, own = module.rpartition(".")
    inside = evidence.once(_inside)
    if own.isdecimal() or not any("." in name for name in inside.get(module, ())):
        return []
    still = evidence.once(_still_of_first)
    return [
        path
        for path in evidence.once(_beside)[above]
        if path != module
        and inside[path] == inside[module]
        and not any(f"{path}.{name}" in still for name in inside[path])
        and not _feeds(evidence.members[0], module, path)
    ]


def _feeds(profile: NetworkProfile, module: str, other: str) -> bool:
    """Return whether a site of one module feeds a site of another."""

    def sites_of(path: str) -> list[int]:
        return [i for i, site in enumerate(profile.sites) if f"{module_of(site.name)}.".startswith(f"{path}.")]

    return any(profile.graph.feeds(one, another) for one in sites_of(module) for another in sites_of(other))


def _idle_reasons(evidence: Evidence) -> dict[str, str]:
    """Return the reasons that the coverage gives of modules that did not run, by their names."""
    return {note.name: note.reason for note in evidence.members[0].coverage if note.what == "module"}


def _routed(evidence: Evidence) -> frozenset[str]:
    """Return the patterns of the names of modules to which samples are routed."""
    sites = evidence.members[0].sites
    return frozenset(name_pattern(module_of(site.name)) for site in sites if site.token_share is not None)


def _ran_on_nothing(profile: NetworkProfile) -> frozenset[str]:
    """Return the modules all of whose values were empty, as those of an expert that is called without a row."""
    seen = {module_of(site.name) for site in profile.sites if site.forward is None or site.forward.count}
    return frozenset(module_of(site.name) for site in profile.sites) - seen


def _empty(evidence: Evidence) -> frozenset[str]:
    return _ran_on_nothing(evidence.members[0])


def _why_not_run(evidence: Evidence, stop: Stop) -> str:
    name = stop.place
    reasons = evidence.once(_idle_reasons)
    reason = reasons.get(name, "")
    # A layer whose weights a function takes is never called itself, whether the block around it runs or not.
    if any(_AT_RANDOM in reasons.get(path, "") for path in _around(name)):
        return "at random"
    if name_pattern(name) in evidence.once(_routed) or name in evidence.once(_empty):
        return "routed"
    if not name or name in evidence.once(_ran):
        return "took no part"
    return "elsewhere" if _ELSEWHERE in reason else "never"


def _outermost(evidence: Evidence, name: str) -> str:
    """Return the outermost module around one that did not run of which no part ran."""
    ran = evidence.once(_ran)
    return next((path for path in _around(name) if path not in ran), name)


def _ran(evidence: Evidence) -> frozenset[str]:
    """Return the modules of which some part ran."""
    return frozenset(path for site in evidence.sites for path in _around(module_of(site.name)))


def _around(name: str) -> Iterator[str]:
    """Yield the paths of the modules around a module and its own, the outermost first."""
    parts = name.split(".")
    return (".".join(parts[: level + 1]) for level in range(len(parts)))


def _of_idle(evidence: Evidence, stop: Stop) -> _Reason:
    why, name = _why_not_run(evidence, stop), stop.place or "(model)"
    passes = evidence.members[0].provenance.batches
    when = f"in {passes} passes" if passes > 1 else "in this pass"
    outer = _outermost(evidence, stop.place)
    if why == "at random":
        return _Reason(
            "stagnant", outer, f"{outer} was skipped in this pass",
            "it runs with other random numbers, as with stochastic depth or LayerDrop",
            "change nothing: it learns in the passes in which it runs", note=True,
        )  # fmt: skip
    if why == "elsewhere":
        return _Reason(
            "stagnant", outer, f"{outer} did not run {when}",
            "the code calls it in other cases: with other inputs or options, or for another task",
            "change nothing if it has its part there; else call it, or remove it", mark="unused", note=True,
        )  # fmt: skip
    if why == "routed":
        return _Reason(
            "stagnant", stop.place, f"{name} got no sample {when}",
            "samples are routed, and none was sent here, while others of its kind got some",
            "profile a larger batch, or several", note=True,
        )  # fmt: skip
    if why == "took no part":
        parameter = stop.parameters[0].name
        return _Reason(
            "stagnant", stop.place, f"{parameter} took no part {when}",
            "its module ran without it, as without a mask or without an option that it belongs to",
            f"use {parameter} in the forward pass, if it should learn from such batches", note=True,
        )  # fmt: skip
    return _Reason(
        "stagnant", outer, f"{outer} did not run {when}",
        "the forward pass does not call it, or calls something else in its place",
        f"use {outer} in the forward pass, or remove it", mark="unused",
    )  # fmt: skip


def _of_flat(evidence: Evidence, stop: Stop) -> _Reason:
    """Return what is said of a place that passes no gradient on although one arrives there."""
    site = next((site for site in evidence.sites if site.name == stop.place), None)
    place = stop.place or "(model)"
    if all(parameter.gradient is None for parameter in stop.parameters):
        # A function without a slope would have left zeros.
        return _Reason(
            "stagnant", stop.place, f"{place}: a gradient passes here, and its parameters were given none",
            "other tensors ran in their place, as with functional_call, or the gradient was taken by autograd.grad",
            "change nothing if that is meant; the gradients at the sites are judged", mark="no gradient", note=True,
        )  # fmt: skip
    operations = _operations(evidence, stop.place)
    own = all(_owner(parameter) == module_of(stop.place) for parameter in stop.parameters)
    if site is not None and own and not stop.for_good and not is_zero(site.forward):
        return _Reason(
            "stagnant", stop.place, f"{place}: what enters is zero wherever a gradient arrives",
            "samples or tokens that are masked and others that are not meet here, and each is zero in one direction",
            "profile a larger batch, or several", mark="no gradient", note=True,
        )  # fmt: skip
    if site is not None:
        if (entering := _entering(evidence, site)) is not None:
            return _of_activation(evidence, entering)
        if any("dropout" in name.lower() for name in (site.kind, stop.operation, *operations)):
            return _Reason(
                "stagnant", site.name, f"{place}: dropout gives only zeros, so nothing passes it in either direction",
                "its probability p is 1: the probability to keep and the probability to drop are mixed up",
                f"give the dropout at {place} the probability to drop, such as p=0.1",
            )  # fmt: skip
        single = site.kind in _ATTENTION or ("softmax" in site.kind.lower() and site.shape[-2:] == (1, 1))
        if "softmax" in site.kind.lower() and _is_constant(site) and not single:
            return _Reason(
                "stagnant", site.name,
                f"{place}: a softmax over an axis of one element gives {number(_value(site), 2)}, whatever enters",
                "the axis that sums to 1 has a single element, so the scores have no effect",
                f"take the softmax of {place} over the axis of what is chosen from, or use a sigmoid for one score",
            )  # fmt: skip
        if is_zero(site.forward) and "embedding" in site.kind.lower():
            return _Reason(
                "stagnant", site.name, f"{place}: every index leads to a row of zeros, which no gradient reaches",
                "every token is the padding index, whose row stays zero",
                f"change nothing if other batches have other tokens; else another padding_idx for {place}", note=True,
            )  # fmt: skip
        if is_zero(site.forward) and site.role != "pre-activation":
            alone = is_norm(site) and (site.features == 1 or site.shape[-1] == 1)
            return _Reason(
                "stagnant", site.name, f"{place}: {site.kind} gives zero on every sample, and passes no gradient",
                "a norm over a single value gives zero, whatever enters" if alone else
                "the values are zero, whatever enters: a mask over everything, a factor of zero, dropout with p = 1",
                f"normalize over more than one value at {place}, or leave the norm out" if alone else
                f"look at what {site.kind} at {place} is given",
            )  # fmt: skip
        if single:
            return _Reason(
                "stagnant", site.name, f"{place}: the attention weights do not depend on the scores",
                "each query has a single key to attend to, so that its weight is 1",
                "profile longer sequences; if there is always one key, queries and keys have no use",
                note=True,
            )  # fmt: skip
    stepped = [name for name in operations if name.rstrip("_") in _STEPS]
    if stepped:
        return _Reason(
            "stagnant", stop.place, f"{place}: {stepped[0]} before it passes no gradient",
            "a step function has no slope anywhere",
            f"pass the gradient around it: x + ({stepped[0]}(x) - x).detach(), the straight-through estimator",
        )  # fmt: skip
    if _is_read_in_part(evidence, stop):
        return _Reason(
            "stagnant", stop.place,
            f"{place}: only some of its positions are read, and what comes from the others gets no gradient",
            "the output reads some positions of the last block, as a class token, and nothing else follows; the same "
            "parameters of the blocks before learn",
            "change nothing if the output is meant to read these positions only", mark="no gradient", note=True,
        )  # fmt: skip
    what = ", ".join([name for name in operations if name not in _SMOOTH] or operations)
    what = what or (site.kind if site is not None else "an operation")
    factor = f", which multiplies by {stop.operation}" if stop.operation not in ("", *operations) else ""
    return _Reason(
        "stagnant", stop.place, f"{place}: no gradient passes {what}{factor}",
        "its result does not depend on what enters: a factor of zero, a mask over everything, a limit that is always "
        "reached, or a choice that always falls on another",
        f"look at what {what} at {place} is given",
    )  # fmt: skip


def _is_read_in_part(evidence: Evidence, stop: Stop) -> bool:
    """Return whether a place of several positions is in the last of blocks whose like parameters all learn."""
    first = evidence.members[0]
    site = next((site for site in evidence.sites if site.name == stop.place), None)
    if site is None or extent(site) < 2:
        return False
    still = {parameter.name for parameter in stop.parameters}
    order = {parameter.name: at for at, parameter in enumerate(first.parameters)}
    for parameter in stop.parameters:
        pattern = block_pattern(parameter.name)
        others = [p for p in first.parameters if block_pattern(p.name) == pattern and p.name not in still]
        in_blocks = "*" in block_pattern(_owner(parameter)).rpartition(".")[0]
        if not in_blocks or not others or any(_is_still(p) or order[p.name] > order[parameter.name] for p in others):
            return False
    return True


def _entering(evidence: Evidence, site: Site) -> Site | None:
    """Return the pre-activation of the activation at a site, None for a site that is no activation."""
    sites = evidence.once(sites_by_name)
    before = [sites[p.name] for p in site.parents or () if p.name in sites and len(p.operations) <= 1]
    return before[0] if len(before) == 1 and before[0].activation and site.role == "activation" else None


def _range(values: TensorSummary) -> str:
    low, high = number(values.min, 2), number(values.max, 2)
    return f"its values are all about {low}" if low == high else f"its values lie between {low} and {high}"


def _of_activation(evidence: Evidence, entering: Site) -> _Reason:
    entry = find_activation(entering.activation)
    name, values = entering.name, entering.forward
    between = "" if values is None else f": {_range(values)}"
    bias = bias_at(evidence.members[0], entering)
    biased = bias is not None and bias.share > 0.5
    zero_bias = {bias.parameter: 0.0} if bias is not None and biased else {}
    shut = biased and bias is not None and bias.rms > limits.BIAS
    if entry is not None and entry.bounded:
        return _Reason(
            "saturated", name,
            f"{name}: {entering.activation} has no slope on any sample, so no gradient passes{between}",
            "the values are far outside of where it has a slope, because of "
            + ("the bias" if biased else "the size of the input or the weights"),
            f"set the bias of {name} to zero"
            if biased
            else f"bring the values at {name} to rms 1: standardize the input, and draw the weights of {name} anew",
            mark="saturated",
            numbers={"flat_fraction": 1.0 if entering.flat_fraction is None else entering.flat_fraction},
            factors=zero_bias,
        )  # fmt: skip
    units = f"all {entering.units} units are off" if (entering.units or 0) > 1 else "it is off"
    return _Reason(
        "inactive", name,
        f"{name}: {units} on all {entering.samples} samples, so {entering.activation} passes nothing either way",
        f"what enters {entering.activation} lies where it is flat, because of "
        f"{'its bias' if biased else 'a large step, or weights with a mean that is not zero'}{between}",
        f"set the bias of {name} to zero and draw its weights with mean zero; after a step that was too large, go back "
        "and lower the learning rate", mark="dead",
        # A unit is off on samples that are alike in half of all cases.
        by_chance=(entering.units or 0) < limits.FEW_UNITS and not shut and not _leans(evidence, entering),
        numbers={"dead_share": 1.0, "flat_fraction": 1.0 if entering.flat_fraction is None else entering.flat_fraction},
        factors=zero_bias,
    )  # fmt: skip


def _leans(evidence: Evidence, site: Site) -> bool:
    """Return whether the weights of a site have a mean that is not zero: four standard errors or more from it."""
    weights = [p.value for p in evidence.members[0].parameters_of(site) if len(p.shape) > 1]
    return any(abs(value.mean) * math.sqrt(value.count) > 4 * value.std for value in weights)


def _operations(evidence: Evidence, place: str) -> list[str]:
    """Return the operations that lead to a site from what gets no gradient, without the one that made its value."""
    sites = evidence.once(sites_by_name)
    found: dict[str, None] = {}
    for parent in (sites[place].parents or ()) if place in sites else ():
        before = sites.get(parent.name)
        seen = before is not None and before.backward is not None and before.backward.rms > 0
        if not seen:
            found |= dict.fromkeys(parent.operations[:-1])
    return list(found)


def _value(site: Site) -> float:
    return site.forward.mean if site.forward is not None else 0.0


def _is_constant(site: Site) -> bool:
    """Return whether the values are the same for every sample."""
    seen = site.forward
    if seen is None or not seen.count:
        return False
    alike = site.mean_cosine is not None and 1 - site.mean_cosine < limits.COLLAPSED
    return seen.rms == 0 or seen.min == seen.max or alike


def _cuts(evidence: Evidence, stop: Stop) -> bool:
    """Return whether the output cannot depend on the input: the place gives a constant, and all ways pass it."""
    whole = evidence.whole[0] if evidence.whole else evidence.members[0]
    places = {stop.place, *map(_module_of_parameter, stop.zeros)} & evidence.once(_passed_by_all)
    return any(_is_constant(whole[place]) for place in places)


def _passed_by_all(evidence: Evidence) -> frozenset[str]:
    """Return the sites that every way from an input to what the loss is computed from passes."""
    profile = evidence.whole[0] if evidence.whole else evidence.members[0]
    sites, inputs = profile.sites, profile.graph.inputs
    if not profile.graph.known or not any(site.role == "input" for site in sites):
        return frozenset()
    starts = [site.role == "input" or any(p.name == UNKNOWN for p in site.parents or ()) for site in sites]
    fed = {source for each in inputs for source in each}
    ends = [at not in fed and s.backward is not None and s.backward.rms > 0 for at, s in enumerate(sites)]
    if not any(ends):
        return frozenset()
    reached, leads = [*starts], [*ends]
    for at, each in enumerate(inputs):
        reached[at] |= any(reached[source] for source in each)
    for at in reversed(range(len(sites))):
        for source in inputs[at]:
            leads[source] |= leads[at]
    # How many steps of the ways begin before a site and end behind it.
    beside = [0] * (len(sites) + 1)
    for at, each in enumerate(inputs):
        before = [source for source in each if reached[source]] if leads[at] else []
        for source in [*before, *([-1] if starts[at] and leads[at] else [])]:
            beside[source + 1] += 1
            beside[at] -= 1
        beside[at + 1] += ends[at] and reached[at]
    return frozenset(site.name for site, steps in zip(sites, accumulate(beside), strict=False) if not steps)


def _of_frozen(evidence: Evidence, frozen: list[Parameter]) -> Finding:
    modules = tuple(dict.fromkeys(map(_owner, frozen)))
    names = [parameter.name for parameter in frozen]
    many = f"{len(names)} parameters, starting with {names[0]}, get" if len(names) > 1 else f"{names[0]} gets"
    return Finding(
        kind="stagnant",
        severity="note",
        direction="backward",
        sites=modules,
        message=f"{many} no gradient: frozen",
        cause="requires_grad is False, perhaps on purpose: these parameters keep their initial values",
        evidence={"parameters": float(len(names))},
        remedy=Remedy("unfreeze", f"set requires_grad=True for {modules[0]} if it should learn"),
        confidence=evidence.shown_by_all,
        marks=dict.fromkeys(modules, "frozen"),
    )
