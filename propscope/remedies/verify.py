"""`verify`: for each network of a grid that is not healthy, remedies carried out until one helps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from propscope.diagnosis import diagnose
from propscope.errors import PropscopeError
from propscope.records.finding import Remedy
from propscope.records.interval import geometric_interval
from propscope.records.profile_set import ProfileSet
from propscope.records.remedy_trials import RemedyTrials, State, Trial
from propscope.remedies.candidates import candidates
from propscope.remedies.remake import remade, request_of, with_options

_OTHER = "not a network of the grid, which its profile tells how to make again"


def verify(profiles: ProfileSet) -> tuple[RemedyTrials, ...]:
    """Return what helps each broken or strained network of a grid: made again with a remedy, profiled, and judged.

    Each is made again from its profile's provenance with the same seeds and input. Remedies are tried in the order of
    `candidates` until it is healthy; one that left the verdict as it was, or that cannot be carried out, is kept as
    a trial that did not help. Healthy networks are left out. Raises `InputError` for an empty set.
    """
    return tuple(verified(profiles))


def verified(profiles: ProfileSet) -> Iterator[RemedyTrials]:
    """Yield what `verify` returns, network by network."""
    diagnose(profiles)
    # Many broken networks are mended into one and the same.
    seen: dict[str, State | PropscopeError] = {}
    for members in profiles.groups("seed").values():
        before = state_of(members)
        if before.diagnosis.verdict != "healthy":
            yield _mended(members, before, seen)


def state_of(members: ProfileSet) -> State:
    """Return what the profiles of one network show, its seeds taken together."""
    forward, backward = (
        geometric_interval(profile.factor(direction) for profile in members).center
        for direction in ("forward", "backward")
    )
    return State(diagnose(members, notes=False), forward, backward)


def _mended(members: ProfileSet, before: State, seen: dict[str, State | PropscopeError]) -> RemedyTrials:
    labels = before.diagnosis.labels
    request = request_of(members)
    if request is None:
        return RemedyTrials(before, labels=labels, reason=_OTHER)
    trials: list[Trial] = []
    for remedy in candidates(before.diagnosis, request):
        trials.append(_tried(remedy, before, request, seen))
        if trials[-1].healed:
            break
    return RemedyTrials(before, tuple(trials), labels)


def _tried(remedy: Remedy, before: State, request: Mapping[str, Any], seen: dict[str, State | PropscopeError]) -> Trial:
    asked = with_options(request, remedy.options)
    key = repr(sorted(asked.items()))
    if key not in seen:
        try:
            seen[key] = state_of(remade(asked))
        except PropscopeError as error:
            seen[key] = error
    found = seen[key]
    if isinstance(found, State):
        return Trial(remedy, before, found)
    return Trial(remedy, before, None, reason=str(found))
