"""`matched`: which network of one set is which of another, and how their seeds are held against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from propscope.comparison.sites import SitePair, all_sites, paired_sites, weights_of
from propscope.errors import InputError
from propscope.printable import shortened
from propscope.records.network import DIRECTIONS, Label, NetworkProfile
from propscope.records.numerals import listed
from propscope.records.profile_set import ProfileSet
from propscope.records.stored_spec import read_spec

_HINT = "profile at least two seeds on both sides, or the seeds of the first: --seeds 5"
# Parts of a spec that describe the network; the others describe the measurement.
_OF_THE_NETWORK = {"target", "arguments", "config", "checkpoint", "init", "network", "seed", "seeds", "device"}
_SHOWN = 3
_LONGEST = 60

_Key = tuple[tuple[str, Label], ...]
_Members = tuple[NetworkProfile, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """One network before and after, one profile per seed; `paired`: both sides have the same seeds in the same order.

    `theory`: whether two other seeds, one on each side, are held against the scatter that theory expects. `method`: how
    the seeds are compared, in words. `labels`: those of the later profiles, without the seed. `pairs`: all sites.
    """

    before: tuple[NetworkProfile, ...]
    after: tuple[NetworkProfile, ...]
    paired: bool
    method: str
    labels: Mapping[str, Label]
    pairs: tuple[SitePair, ...] = ()
    theory: bool = False

    @property
    def common(self) -> list[int]:
        """The places of the pairs that both networks have."""
        return [place for place, pair in enumerate(self.pairs) if pair.in_both]

    @property
    def common_sites(self) -> int:
        """The number of sites that both networks have, inputs not counted."""
        return sum(self.pairs[place].site.role != "input" for place in self.common)


def matched(
    before: ProfileSet, after: ProfileSet, *, same_labels: bool, alone: bool
) -> tuple[tuple[Match, ...], tuple[str, ...]]:
    """Return the networks that both sets have, and notes on what is not compared or was measured differently.

    Networks are identified by their labels. Where each set holds only one, the label `model` is ignored, since it is
    the name that was typed; unless `same_labels`, so is each label that has one value in each set, and another one.
    `alone`: whether a seed may be held against another one, without an interval. Raises `InputError` where a set is
    empty, and where no network, site or seed matches.
    """
    for given, what in ((before, "the first"), (after, "the second")):
        if not any(profile.without_inputs.sites for profile in given):
            raise InputError(f"{what} holds no site to compare")
    then, now = _networks(before), _networks(after)
    notes = []
    if len(then) == len(now) == 1:
        then, now = (_without(side, {"model"}) for side in (then, now))
    if not same_labels and (others := _others(then, now)):
        old, new = (tuple(part for part in next(iter(side)) if part[0] in others) for side in (then, now))
        notes.append(f"other labels: {_spelled({old: 0})} -> {_spelled({new: 0})}")
        then, now = (_without(side, others) for side in (then, now))
    common = [key for key in now if key in then]
    if not common:
        raise InputError(
            f"no network is in both: the first has {_spelled(then)}, the second has {_spelled(now)}",
            hint="give two profiles of the same network, or sets with the same labels",
        )
    matches = tuple(_match(then[key], now[key], alone=alone) for key in common)
    notes += [
        f"{len(keys)} of {len(side)} networks only in the {where}: {_spelled(keys)}"
        for side, other, where in ((now, then, "second"), (then, now, "first"))
        if (keys := {key: side[key] for key in side if key not in other})
    ]
    notes += dict.fromkeys(note for match in matches for note in _measured_differently(match))
    return matches, tuple(notes)


def _networks(profiles: ProfileSet) -> dict[_Key, _Members]:
    groups: dict[_Key, _Members] = {}
    for key, members in profiles.groups("seed").items():
        ordered = tuple(sorted(key))
        groups[ordered] = (*groups.get(ordered, ()), *members.profiles)
    return groups


def _without(networks: Mapping[_Key, _Members], names: set[str]) -> dict[_Key, _Members]:
    return {tuple(part for part in key if part[0] not in names): members for key, members in networks.items()}


def _others(then: Mapping[_Key, _Members], now: Mapping[_Key, _Members]) -> set[str]:
    """Return the labels that have one value in each set, or in one of them none, and not the same one in both."""
    names = {name for side in (then, now) for key in side for name, _ in key}
    values = {name: [{dict(key).get(name) for key in side} for side in (then, now)] for name in names}
    return {name for name, (old, new) in values.items() if len(old) == len(new) == 1 and old != new}


def _match(before: tuple[NetworkProfile, ...], after: tuple[NetworkProfile, ...], *, alone: bool) -> Match:
    found = _seeds(before, after, alone=alone)
    sides = found.before, found.after
    pairs = paired_sites(all_sites(sides[0]), all_sites(sides[1]), (weights_of(sides[0][0]), weights_of(sides[1][0])))
    both = [pair for pair in pairs if pair.in_both and pair.site.role != "input"]
    most = max(len(members[0].without_inputs.sites) for members in (found.before, found.after))
    # Where no name is in both, a few sites that fit are chance.
    if not both or (all(pair.renamed for pair in both) and 2 * len(both) < most):
        raise InputError(
            f"no site is in both: the first has {_few(before)}, the second has {_few(after)}",
            hint="give two profiles of the same model",
        )
    return replace(found, pairs=pairs)


def _seeds(before: tuple[NetworkProfile, ...], after: tuple[NetworkProfile, ...], *, alone: bool) -> Match:
    labels = {name: value for name, value in after[0].labels.items() if name != "seed"}
    sides = [{member.labels.get("seed"): member for member in side} for side in (before, after)]
    named = all(
        None not in seeds and len(seeds) == len(side) for seeds, side in zip(sides, (before, after), strict=True)
    )
    then, now = sides
    if named and (then.keys() <= now.keys() or now.keys() <= then.keys()):
        common = [seed for seed in then if seed in now]
        pairs = tuple(then[seed] for seed in common), tuple(now[seed] for seed in common)
        method = (
            f"{len(common)} seeds, the same on both sides"
            if len(common) > 1
            else f"only seed {common[0]}, without an interval"
        )
        return Match(*pairs, paired=True, method=method, labels=labels)
    if len(before) == len(after) == 1:
        old, new = before[0], after[0]
        if None in then or None in now:
            return Match(before, after, paired=True, method="one profile each, without an interval", labels=labels)
        seeds = f"seed {old.labels['seed']} against seed {new.labels['seed']}"
        if all(_has_theory(member) for member in (old, new)):
            method = f"{seeds}, within the scatter that theory expects"
            return Match(before, after, paired=False, method=method, labels=labels, theory=True)
        if alone:
            return Match(before, after, paired=True, method=f"{seeds}, without an interval", labels=labels)
    if min(len(before), len(after)) < 2:
        raise InputError(f"no interval can be formed: {_unequal_seeds(before, after)}", hint=_HINT)
    method = f"{len(after)} seeds against {len(before)} other seeds"
    return Match(before, after, paired=False, method=method, labels=labels)


def _has_theory(profile: NetworkProfile) -> bool:
    return any(site.expected is not None and site.expected.forward_log_std > 0 for site in profile.sites)


def _unequal_seeds(before: tuple[NetworkProfile, ...], after: tuple[NetworkProfile, ...]) -> str:
    def spelled(members: tuple[NetworkProfile, ...]) -> str:
        seeds = [member.labels.get("seed") for member in members]
        if None in seeds:
            return "one profile without a seed" if len(seeds) == 1 else f"{len(seeds)} profiles without seeds"
        return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {listed(sorted(set(map(str, seeds))), _SHOWN)}"

    return f"the first has {spelled(before)}, the second has {spelled(after)}"


def _measured_differently(match: Match) -> Iterator[str]:
    """Yield each difference in how the two sides were measured, which may be the reason for a difference."""
    old, new = match.before[0], match.after[0]
    then, now = read_spec(old.provenance), read_spec(new.provenance)
    # Files from another program do not say how they were measured.
    for name in sorted(then.keys() | now.keys() if then and now else ()):
        if name not in _OF_THE_NETWORK and then.get(name) != now.get(name):
            yield f"measured differently: {name} {then.get(name, 'not given')} -> {now.get(name, 'not given')}"
    versions = old.provenance.torch_version, new.provenance.torch_version
    if all(versions) and versions[0] != versions[1]:
        yield f"measured differently: torch {versions[0]} -> {versions[1]}"
    both = [pair for pair in match.pairs if pair.before and pair.after and pair.site.role != "input"]
    places: dict[tuple[str, str], list[str]] = {}
    for pair in both:
        if pair.before and pair.after and pair.before.dtype != pair.after.dtype:
            places.setdefault((pair.before.dtype, pair.after.dtype), []).append(pair.site.name or "(model)")
    for change, names in places.items():
        where = "every site" if len(names) == len(both) else f"{len(names)} of {len(both)} sites, first at {names[0]}"
        yield f"another type: {' -> '.join(change)} at {where}"
    for direction in DIRECTIONS:
        seen = [
            any(getattr(site, direction) is not None for m in side for site in m.sites)
            for side in (match.before, match.after)
        ]
        if seen == [False, True]:
            yield f"the first has no {direction} signal, so it is not compared"


def _spelled(keys: Mapping[_Key, object]) -> str:
    return listed(
        ["(" + (", ".join(f"{name} {value}" for name, value in key) or "no label") + ")" for key in keys], _SHOWN
    )


def _few(members: tuple[NetworkProfile, ...]) -> str:
    names = {site.name for member in members for site in member.without_inputs.sites}
    return listed(sorted(shortened(name, _LONGEST) or "(model)" for name in names), _SHOWN)
