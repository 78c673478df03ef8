"""Which findings another one explains: the cause is said once, and its effects are listed with it.

What is read from the model itself, such as the scale of its weights, is a cause: nothing else explains it. What shows
in the signal may follow from a cause or from an earlier finding, as the graph of sites tells:

- A change of size shows in the values behind it until a norm or a bounded function gives them their size back, and in
  the gradients before it. It explains changes up to its own factor times e^3, the limit of every change.
- What passes nothing on, as a dead layer does, or makes all samples alike shows in all that only it feeds, behind norms
  too, and in all whose gradient passes it.
- NaN and Inf show in everything behind them, and in every gradient.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from propscope.diagnosis import limits
from propscope.diagnosis.evidence import Evidence, module_of
from propscope.diagnosis.rules import Rule
from propscope.records.finding import SEVERITIES, Finding
from propscope.records.gains import has_own_size, is_bounded
from propscope.records.graph import ROOT, bits, nearest_common
from propscope.records.network import Site

# Of two findings at one place that could each follow from the other, the one that stands first here is the cause.
_DEPTH = ("non-finite", "input", "symmetric", "inactive", "stagnant", "saturated", "vanishing", "exploding", "collapse")
# What shows in the signal beside something else, and does not follow from it.
_OTHERWISE = {
    ("exploding", "collapse"),
    ("saturated", "exploding"),
    ("collapse", "vanishing"),
    ("collapse", "stagnant"),
}
_OF_DIFFERENCES = {("vanishing", "collapse"), ("exploding", "saturated")}
_MOST = 0.5
# What does not follow from the signal.
_APART = ("unregistered", "precision", "insufficient evidence")


def explained(evidence: Evidence, found: Iterable[tuple[Rule, Finding]]) -> list[Finding]:
    """Return the findings, worst first, without those that another one explains; that one lists them as effects.

    A cause is at least as severe as the worst of its effects. Notes explain nothing, and only those on the signal, such
    as of a collapse, are effects. The order of `found` decides nothing but the order of the notes. Of findings as
    severe, NaN and Inf come first, then causes.
    """
    ways = _Ways.of(evidence)
    distinct = _distinct(_Shown.of(ways, rule, finding) for rule, finding in found)
    shown = [one for one in distinct if one.finding.severity != "note"]
    notes = [one for one in distinct if one.finding.severity == "note"]
    touched = [_touched(ways, one) for one in shown]
    causes = [_first_cause(ways, at, shown, touched) for at in range(len(shown))]
    effects: dict[int, list[Finding]] = {}
    for at, one in enumerate(shown):
        effects.setdefault(_root(at, causes), []).append(one.finding)
    apart = [*notes]
    for note in sorted(notes, key=lambda one: one.key):
        if (cause := next((at for at, one in enumerate(shown) if _follows(ways, one, note)), None)) is not None:
            effects[_root(cause, causes)].append(note.finding)
            apart.remove(note)
    merged = [_with_effects(shown[at].finding, together) for at, together in sorted(effects.items())]
    merged.sort(key=lambda finding: (SEVERITIES.index(finding.severity), finding.kind != "non-finite"))
    return [*merged, *(note.finding for note in apart)]


_Key = tuple[bool, bool, int, int, str, str]


@dataclass(frozen=True, slots=True)
class _Shown:
    """A finding: where it starts (`at`) and shows (the bits of `where`), by position, and ln of its factor, if any.

    `cause`: it is read from the model alone. `stops`: it passes no gradient on; `mute`: it passes no values on.
    `backward`: it is of gradients.
    """

    finding: Finding
    cause: bool
    at: int
    where: int
    log: float | None
    stops: bool
    mute: bool
    backward: bool

    @classmethod
    def of(cls, ways: _Ways, rule: Rule, finding: Finding) -> _Shown:
        kind, known = finding.kind, finding.evidence
        positions = [at for name in (*finding.sites, *finding.marks) if (at := ways.position(name)) is not None]
        ratio = known.get("ratio", known.get("factor", known.get("weight_scale", math.nan)))
        off = kind == "symmetric" or known.get("dead_share") == 1 or (ratio == 0 and finding.direction != "backward")
        return cls(
            finding,
            cause=rule.cause and not known.get("by_size"),
            at=positions[0] if positions else -1,
            # A loss of gradient lists the layers behind it too, which are not at fault.
            where=_bits_of(positions[:1] if kind == "stagnant" else positions),
            log=math.log(ratio) if 0 < ratio < math.inf else None,
            stops=off or kind == "stagnant" or ratio == 0 or rule.name == "lost gradient",
            mute=off or (bool(positions) and _is_constant(ways.sites[positions[0]])),
            backward=kind == "stagnant" or (finding.direction == "backward" and kind != "saturated"),
        )

    @property
    def averages(self) -> bool:
        """Whether samples became alike by averages over them, and not by what the weights do."""
        return self.finding.evidence.get("averaged", 0.0) > _MOST

    @property
    def key(self) -> _Key:
        """What comes first as a cause: what is read from the model, then values before gradients, then the place."""
        kind = self.finding.kind
        late = self.backward and not self.stops
        depth = _DEPTH.index(kind) if kind in _DEPTH else len(_DEPTH)
        return not self.cause, late, -self.at if late else self.at, depth, kind, self.finding.message


def _explains(ways: _Ways, cause: _Shown, effect: _Shown) -> bool:
    kinds = {cause.finding.kind, effect.finding.kind}
    if cause is effect or effect.cause or not (effect.where and cause.where) or kinds & {*_APART}:
        return False
    if cause.finding.kind == "non-finite":
        return _spreads(ways, cause, effect)
    if effect.finding.kind == "non-finite":
        # What is read from the model may make values grow beyond the range of their format.
        grows = cause.cause and cause.finding.kind in ("exploding", "input")
        # Norms enlarge a gradient wherever they are given the same for any input.
        grows |= cause.mute and effect.backward
        return grows and bool((cause.where | ways.behind(cause.where)) & 1 << effect.at)
    pair = (cause.finding.kind, effect.finding.kind)
    # Of two faults of one layer, that no gradient passes it is said first.
    stopped = cause.stops and cause.at == effect.at
    averaged = cause.averages and pair == ("collapse", "vanishing")
    if not cause.cause and pair in _OTHERWISE and not (averaged or stopped):
        return False
    if cause.finding.kind == "stagnant" and effect.backward and effect.log is not None:
        # What gets no gradient does not make another gradient small.
        return False
    if cause.backward and not effect.backward:
        # The weights that change a gradient over some layers, and not the values, change the differences of these.
        same = pair in _OF_DIFFERENCES and not effect.averages
        if not cause.mute:
            return same and bool(effect.where & cause.where)
    if cause.backward and not cause.stops:
        return _shrinks_or_grows_before(ways, cause, effect)
    if effect.stops and not (
        cause.stops or (cause.cause and cause.where & 1 << effect.at) or _turns_off(ways, cause, effect)
    ):
        return False
    shows = effect.where if effect.backward else 1 << effect.at
    return bool(shows & (cause.where | _reach(ways, cause, effect)))


def _spreads(ways: _Ways, cause: _Shown, effect: _Shown) -> bool:
    if effect.backward:
        around = ways.before(cause.where) | (ways.behind(cause.where) if cause.mute else 0)
        return not cause.backward or bool(effect.where & (cause.where | around))
    # What grew over several layers on the way there has overflowed there.
    over_layers = effect.finding.kind == "exploding" and len(effect.finding.sites) > 1
    grew = over_layers and bool(ways.behind(effect.where) & 1 << cause.at)
    return not cause.backward and (grew or bool((cause.where | ways.behind(cause.where)) & 1 << effect.at))


def _shrinks_or_grows_before(ways: _Ways, cause: _Shown, effect: _Shown) -> bool:
    """Return whether the size of a gradient explains that of another one, or its zeros."""
    if effect.stops and cause.finding.kind != "vanishing":
        return False
    return bool(effect.where & (cause.where | ways.before(cause.where))) and _is_large_enough(cause, effect)


def _reach(ways: _Ways, cause: _Shown, effect: _Shown) -> int:
    """Return, as bits, where an effect of this kind shows the cause, beside the place of the cause itself."""
    if effect.finding.kind == "stagnant":
        near = ways.only_before(cause.where) | ways.next(cause.where)
        return near if cause.stops else near | ways.sized(cause.where)
    if cause.stops and effect.backward:
        return ways.only_before(cause.where) | (ways.only_behind(cause.where) if cause.mute else 0)
    if cause.stops:
        # A zero also passes the products with what comes by other ways.
        if effect.finding.kind == "symmetric":
            return ways.behind(cause.where)
        return ways.only_behind(cause.where) | (ways.alike_behind(cause.where) if cause.mute else 0)
    if not _is_large_enough(cause, effect):
        return 0
    if "collapse" in (cause.finding.kind, effect.finding.kind):
        # A norm gives values their size back, and does not tell them apart again.
        return ways.only_before(cause.where) if effect.backward else ways.only_behind(cause.where)
    sized = ways.sized(cause.where)
    return sized | ways.before(cause.where) if effect.backward else sized


def _turns_off(ways: _Ways, cause: _Shown, effect: _Shown) -> bool:
    """Return whether values that are too large or too small can turn off what stands where the effect starts.

    A bounded function is flat for large values. A rectifier is not: weights that are too large keep the signs of what
    enters it. It gives nothing once all that enters it is zero.
    """
    if cause.finding.kind in ("input", "collapse"):
        return True
    site = ways.sites[effect.at]
    if cause.finding.kind == "vanishing":
        return site.forward is None or site.forward.rms == 0
    return is_bounded(site.activation) or has_own_size(site)


def _is_large_enough(cause: _Shown, effect: _Shown) -> bool:
    if cause.log is None or effect.log is None:
        return True
    return abs(effect.log) <= abs(cause.log) + limits.STRAINED


def _touched(ways: _Ways, cause: _Shown) -> int:
    """Return, as bits, where all shows that a finding may explain."""
    if cause.stops and cause.finding.kind not in ("non-finite", "symmetric"):
        around = ways.next(cause.where) | ways.only_before(cause.where) | ways.only_behind(cause.where)
        return cause.where | around | ways.alike_behind(cause.where)
    return cause.where | ways.behind(cause.where) | ways.before(cause.where)


def _first_cause(ways: _Ways, at: int, shown: Sequence[_Shown], touched: Sequence[int]) -> int | None:
    """Return the first of the findings, ordered by their keys, that explains the one at this place among them."""
    one = shown[at]
    if one.cause or not one.where:
        return None
    where = one.where | 1 << one.at
    near = [place for place, around in enumerate(touched) if around & where or one.finding.kind == "symmetric"]
    # Of two that explain each other, the one with the lower key is the cause.
    found = (
        place
        for place in near
        if _explains(ways, shown[place], one) and (place < at or not _explains(ways, one, shown[place]))
    )
    return next(found, None)


def _follows(ways: _Ways, cause: _Shown, note: _Shown) -> bool:
    """Return whether a note is on the signal, as one on a collapse is, and follows from a cause."""
    return not note.cause and (note.finding.kind == "collapse" or note.log is not None) and _explains(ways, cause, note)


def _root(at: int, causes: Sequence[int | None]) -> int:
    """Return where the first causes lead, one after the other; where they lead in a circle, the first of that."""
    passed: dict[int, None] = {}
    while (cause := causes[at]) is not None:
        if at in passed:
            circle = [*passed]
            return min(circle[circle.index(at) :])
        passed[at] = None
        at = cause
    return at


def _with_effects(cause: Finding, together: Sequence[Finding]) -> Finding:
    effects = [each for each in together if each is not cause]
    marks: dict[str, str] = {}
    for each in (cause, *effects):
        marks = {**each.marks, **marks}
    messages = [*cause.effects, *(text for each in effects for text in (each.message, *each.effects))]
    # What the message says already is not said again.
    messages = [text for text in messages if text.partition(" (")[0] not in cause.message]
    severity = min((each.severity for each in (cause, *effects)), key=SEVERITIES.index)
    return replace(cause, severity=severity, marks=marks, effects=tuple(dict.fromkeys(messages)))


def _distinct(found: Iterable[_Shown]) -> list[_Shown]:
    """Return the findings by their keys, then the notes, without what another covers: same kind, direction, sites."""
    ordered = [*found]
    ordered.sort(
        key=lambda one: (SEVERITIES.index(one.finding.severity), *(one.key if one.finding.severity != "note" else ()))
    )
    kept: list[_Shown] = []
    covering: dict[tuple[object, ...], list[_Shown]] = defaultdict(list)
    for one in ordered:
        of, sites = (one.finding.kind, one.finding.direction), frozenset(one.finding.sites)
        # What only shows in the signal does not stand for its cause.
        covers = (other for other in covering[(*of, one.finding.first)] if other.cause or not one.cause)
        if sites and any(sites <= {*other.finding.sites} for other in covers):
            continue
        kept.append(one)
        for name in sites:
            covering[(*of, name)].append(one)
    return sorted(kept, key=lambda one: one.key if one.finding.severity != "note" else ())


@dataclass(frozen=True)
class _Ways:
    """Where the signal comes from and goes to, by the position of a site; the inputs of the model are sites too.

    Sets of sites are the bits of a number. Those that each site leads to are found once, in execution order, which is a
    topological one, and not walked again for each finding.
    """

    sites: tuple[Site, ...]
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, evidence: Evidence) -> _Ways:
        first = (evidence.whole or evidence.members)[0]
        return cls(first.sites, first.graph.inputs, first.graph.outputs)

    def position(self, name: str) -> int | None:
        """Return the position of a site, or of a module's first site; None where it has none."""
        return self._positions.get(name)

    def next(self, places: int) -> int:
        """Return what is computed from these sites directly."""
        return _bits_of(index for place in bits(places) for index in self.outputs[place])

    def behind(self, places: int) -> int:
        """Return what these sites feed."""
        return self._of(places, self._behind)

    def before(self, places: int) -> int:
        """Return what feeds these sites."""
        return self._of(places, self._before)

    def sized(self, places: int) -> int:
        """Return what has its size from these sites: what they feed, up to the first that has a size of its own."""
        return self._of(places, self._sized)

    def alike_behind(self, places: int) -> int:
        """Return what these sites feed through sites that give the same for all samples, and does so itself."""
        return self._of(places, self._alike)

    def only_behind(self, places: int) -> int:
        """Return what these sites feed and nothing else does: every way from an input to it passes one of them."""
        if places & places - 1:
            return self._once("only behind", places, lambda: _all_through(places, self.inputs, range(len(self.inputs))))
        return self._of(places, self._only_behind)

    def only_before(self, places: int) -> int:
        """Return what feeds these sites and nothing else: every way from it to an output passes one of them."""
        if places & places - 1:
            back = range(len(self.outputs) - 1, -1, -1)
            return self._once("only before", places, lambda: _all_through(places, self.outputs, back))
        return self._of(places, self._only_before)

    def _of(self, places: int, reached: Sequence[int]) -> int:
        """Return all that is reached from some of these places."""
        found = 0
        for place in bits(places):
            found |= reached[place]
        return found

    def _once(self, what: str, places: int, walk: Callable[[], int]) -> int:
        """Return what a walk finds, which is gone once for all findings that are compared with a cause."""
        if (what, places) not in self._walked:
            self._walked[what, places] = walk()
        return self._walked[what, places]

    @cached_property
    def _walked(self) -> dict[tuple[str, int], int]:
        return {}

    @cached_property
    def _behind(self) -> list[int]:
        return _reached(self.outputs, range(len(self.outputs) - 1, -1, -1))

    @cached_property
    def _before(self) -> list[int]:
        return _reached(self.inputs, range(len(self.inputs)))

    @cached_property
    def _sized(self) -> list[int]:
        own = [has_own_size(site) for site in self.sites]
        return _reached(self.outputs, range(len(self.outputs) - 1, -1, -1), ends=own)

    @cached_property
    def _alike(self) -> list[int]:
        among = [_is_alike(site) for site in self.sites]
        return _reached(self.outputs, range(len(self.outputs) - 1, -1, -1), among=among)

    @cached_property
    def _only_behind(self) -> list[int]:
        return _through(self.inputs, range(len(self.inputs)))

    @cached_property
    def _only_before(self) -> list[int]:
        return _through(self.outputs, range(len(self.outputs) - 1, -1, -1))

    @cached_property
    def _positions(self) -> dict[str, int]:
        found = {site.name: index for index, site in enumerate(self.sites)}
        for index, site in enumerate(self.sites):
            found.setdefault(module_of(site.name), index)
        return found


def _bits_of(places: Iterable[int]) -> int:
    found = 0
    for place in places:
        found |= 1 << place
    return found


def _reached(
    steps: Sequence[Sequence[int]],
    order: Iterable[int],
    *,
    ends: Sequence[bool] | None = None,
    among: Sequence[bool] | None = None,
) -> list[int]:
    """Return for each place what its steps lead to, by ways that go past no end and only through some places.

    `order`: of the places, those that steps lead to first.
    """
    found = [0] * len(steps)
    for index in order:
        for at in steps[index]:
            if among is None or among[at]:
                found[index] |= 1 << at | (0 if ends is not None and ends[at] else found[at])
    return found


def _through(back: Sequence[Sequence[int]], order: Sequence[int]) -> list[int]:
    """Return for each place those that every way from an end passes it to: what it dominates.

    `back`: the steps to the ends, `order`: of the places, the ends first.
    """
    last, depth = [ROOT] * len(back), [0] * len(back)
    for index in order:
        last[index] = common = nearest_common(back[index], last, depth)
        depth[index] = 0 if common == ROOT else depth[common] + 1
    found = [0] * len(back)
    for index in reversed(order):
        if (before := last[index]) != ROOT:
            found[before] |= found[index] | 1 << index
    return found


def _all_through(places: int, back: Sequence[Sequence[int]], order: Iterable[int]) -> int:
    """Return, as bits, those that every way from an end reaches through one of several places, without these."""
    found = places
    for index in order:
        if back[index] and all(found >> at & 1 for at in back[index]):
            found |= 1 << index
    return found & ~places


def _is_alike(site: Site) -> bool:
    """Return whether all samples have the same values, as far as their precision tells."""
    return _is_constant(site) or (site.mean_cosine is not None and 1 - site.mean_cosine < limits.COLLAPSED)


def _is_constant(site: Site) -> bool:
    return site.forward is not None and site.forward.std == 0
