"""Which network of a baseline is held against which, and how the seeds of the two are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from propscope.errors import InputError
from propscope.records.network import DIRECTIONS, Label, NetworkProfile
from propscope.records.profile_set import ProfileSet

_HINT = "profile two seeds or more on both sides, or the baseline's own: --seeds 5"
# Parts of a spec that say what the network is; the others say how it was measured.
_OF_THE_NETWORK = {"target", "arguments", "config", "checkpoint", "init", "network", "seed", "seeds", "device"}
_SHOWN = 3

_Key = tuple[tuple[str, Label], ...]


@dataclass(frozen=True, slots=True)
class Match:
    """One network then and now, a profile a seed: `paired` ones have the same seeds in the same order.

    `labels`: those that the network carries now, without the seed; `method`: how seeds are compared, in words.
    """

    before: tuple[NetworkProfile, ...]
    after: tuple[NetworkProfile, ...]
    paired: bool
    method: str
    labels: Mapping[str, Label]


def matched(profiles: ProfileSet, baseline: ProfileSet) -> tuple[tuple[Match, ...], tuple[str, ...]]:
    """Return the networks that both sets have, and in words what stays out of the comparison or was taken otherwise.

    Labels tell networks apart. Where each set holds one, its label `model` does not count, since it is what was typed.
    Raises `InputError` where either is empty, and where no network, no site or no seeds can be held together.
    """
    for held, what in ((profiles, "the set"), (baseline, "the baseline")):
        if not any(profile.sites for profile in held):
            raise InputError(f"{what} holds no site to compare")
    after, before = _networks(profiles), _networks(baseline)
    if len(after) == len(before) == 1:
        after, before = ({_unnamed(key): members for key, members in side.items()} for side in (after, before))
    common = [key for key in after if key in before]
    if not common:
        raise InputError(
            f"no network is in both: the baseline has {_spelled(before)}, what is checked has {_spelled(after)}",
            hint="give the baseline of this network",
        )
    matches = tuple(_match(before[key], after[key]) for key in common)
    notes = [
        f"{len(keys)} of {len(side)} networks {where}: {_spelled(keys)}"
        for side, other, where in ((after, before, "are new"), (before, after, "are in the baseline alone"))
        if (keys := {key: side[key] for key in side if key not in other})
    ]
    notes += dict.fromkeys(note for match in matches for note in _otherwise(match))
    return matches, tuple(notes)


def _networks(profiles: ProfileSet) -> dict[_Key, tuple[NetworkProfile, ...]]:
    groups: dict[_Key, tuple[NetworkProfile, ...]] = {}
    for key, members in profiles.groups("seed").items():
        ordered = tuple(sorted(key))
        groups[ordered] = groups.get(ordered, ()) + members.profiles
    return groups


def _unnamed(key: _Key) -> _Key:
    return tuple((name, value) for name, value in key if name != "model")


def _match(before: tuple[NetworkProfile, ...], after: tuple[NetworkProfile, ...]) -> Match:
    names = [{site.name for member in side for site in member.sites} for side in (before, after)]
    if not names[0] & names[1]:
        raise InputError(
            f"no site is in both: the baseline has {_few(names[0])}, what is checked has {_few(names[1])}",
            hint="give the baseline of this model",
        )
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
            f"{len(common)} seeds, each against itself"
            if len(common) > 1
            else f"seed {common[0]} alone, without an interval"
        )
        return Match(*pairs, paired=True, method=method, labels=labels)
    if min(len(before), len(after)) < 2:
        raise InputError(f"no interval can be formed: {_alone(before, after)}", hint=_HINT)
    method = f"{len(after)} seeds against {len(before)} others"
    return Match(before, after, paired=False, method=method, labels=labels)


def _alone(before: tuple[NetworkProfile, ...], after: tuple[NetworkProfile, ...]) -> str:
    def spelled(members: tuple[NetworkProfile, ...]) -> str:
        seeds = [member.labels.get("seed") for member in members]
        if None in seeds:
            return "one profile without a seed" if len(seeds) == 1 else f"{len(seeds)} profiles without seeds"
        return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {_few({str(seed) for seed in seeds})}"

    return f"the baseline has {spelled(before)}, what is checked has {spelled(after)}"


def _otherwise(match: Match) -> Iterator[str]:
    """Yield how the two were measured otherwise, which may be all that has moved."""
    old, new = match.before[0], match.after[0]
    then, now = _spec(old), _spec(new)
    # Files of another origin say nothing of how they were taken.
    for name in sorted(then.keys() | now.keys() if then and now else ()):
        if name not in _OF_THE_NETWORK and then.get(name) != now.get(name):
            yield f"measured otherwise: {name} was {then.get(name, 'not given')}, is {now.get(name, 'not given')}"
    versions = old.provenance.torch_version, new.provenance.torch_version
    if all(versions) and versions[0] != versions[1]:
        yield f"measured otherwise: torch was {versions[0]}, is {versions[1]}"
    for direction in DIRECTIONS:
        seen = [
            any(getattr(site, direction) is not None for m in side for site in m.sites)
            for side in (match.before, match.after)
        ]
        if seen == [False, True]:
            yield f"the baseline has no {direction} signal: it is not compared"


def _spec(profile: NetworkProfile) -> dict[str, object]:
    try:
        held = json.loads(profile.provenance.spec)
    except ValueError:
        return {}
    return held if isinstance(held, dict) else {}


def _spelled(keys: Mapping[_Key, object]) -> str:
    said = ["(" + (", ".join(f"{name} {value}" for name, value in key) or "no label") + ")" for key in keys]
    return ", ".join(said[:_SHOWN]) + (", ..." if len(said) > _SHOWN else "")


def _few(names: set[str]) -> str:
    said = sorted(name or "(model)" for name in names)
    return ", ".join(said[:_SHOWN]) + (", ..." if len(said) > _SHOWN else "")
