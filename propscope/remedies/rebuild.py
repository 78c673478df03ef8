"""`verify`: the networks of a grid that are not healthy, built again with one remedy after another until one helps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from propscope.diagnosis import diagnose
from propscope.errors import InputError, PropscopeError
from propscope.experiments import make_grid, run
from propscope.records.finding import Remedy
from propscope.records.interval import geometric_interval
from propscope.records.network import NetworkProfile
from propscope.records.profile_set import ProfileSet
from propscope.records.remedy_trials import RemedyTrials, State, Trial
from propscope.remedies.candidates import candidates

_UNKNOWN = "its profile does not say how to build the network again: it is not a network of the grid"
_RUN = ("batch", "input", "scale", "loss", "dtype", "device")


def verify(profiles: ProfileSet) -> tuple[RemedyTrials, ...]:
    """Return what helps each broken or strained network of a grid: built again with a remedy, profiled and diagnosed.

    Each network is built from the provenance of its profile, with the same seeds and input. Remedies are tried in the
    order of `candidates` until the network is healthy. A remedy that does not improve the verdict, or cannot be carried
    out, is kept as a trial that did not help. Healthy networks are left out. Raises `InputError` for an empty set.
    """
    return tuple(verified(profiles))


def verified(profiles: ProfileSet) -> Iterator[RemedyTrials]:
    """Yield what `verify` returns, network by network."""
    diagnose(profiles)
    # The remedies of several networks often lead to the same one, which is profiled once.
    seen: dict[str, State | PropscopeError] = {}
    for members in profiles.groups("seed").values():
        before = state_of(members)
        if before.diagnosis.verdict != "healthy":
            yield _tried_in_turn(members, before, seen)


def state_of(members: ProfileSet) -> State:
    """Return the state that the profiles of one network show, over all seeds."""
    forward, backward = (
        geometric_interval(profile.factor(direction) for profile in members).center
        for direction in ("forward", "backward")
    )
    return State(diagnose(members, notes=False), forward, backward)


def _tried_in_turn(members: ProfileSet, before: State, seen: dict[str, State | PropscopeError]) -> RemedyTrials:
    labels = before.diagnosis.labels
    request = request_of(members)
    if request is None:
        return RemedyTrials(before, labels=labels, reason=_UNKNOWN)
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
            seen[key] = state_of(rebuilt(asked))
        except PropscopeError as error:
            seen[key] = error
    found = seen[key]
    if isinstance(found, State):
        return Trial(remedy, before, found)
    return Trial(remedy, before, None, reason=str(found))


def request_of(members: ProfileSet) -> dict[str, Any] | None:
    """Return the arguments of `make_grid` for the network of these profiles, seeds included; None if unknown."""
    first = members[0].provenance
    try:
        spec = json.loads(first.spec)
        network = dict(spec["network"])
        request = {name: spec[name] for name in _RUN}
        request |= {name: [network.pop(name)] for name in ("activation", "initializer", "depth")}
        width = network.pop("width")
    except (ValueError, KeyError, TypeError):
        return None
    if "input_size" not in members[0].labels:
        network["input_size"] = None
    # The variances of a critical point depend on input and activation: the label lets them be computed again.
    if str(label := members[0].labels.get("initializer", "")).startswith("critical"):
        request["initializer"] = [label]
    seeds = [_seed(profile) for profile in members]
    if None in seeds:
        return None
    limit = {"histogram_limit": first.histogram_limit} if first.histogram_limit else {}
    return {
        **request,
        **network,
        **limit,
        "width": [tuple(width) if isinstance(width, list) else width],
        "seeds": seeds,
    }


def _seed(profile: NetworkProfile) -> int | None:
    seed: int | None = json.loads(profile.provenance.spec).get("seed", profile.provenance.seed)
    return seed


def with_options(request: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request changed by the options of a remedy."""
    axes = ("activation", "initializer")
    changed = {**request, **{name: [value] if name in axes else value for name, value in options.items()}}
    # These two set the biases themselves, so a separate standard deviation would contradict them.
    if str(options.get("initializer", "")).startswith(("critical", "default")) and "bias" not in options:
        changed["bias"] = None
    return changed


def rebuilt(request: Mapping[str, Any]) -> ProfileSet:
    """Return the profiles that a request gives; raises `InputError` for a network that cannot be built."""
    try:
        return ProfileSet.of(run(make_grid(**request)))
    except (TypeError, RuntimeError, MemoryError) as error:
        raise InputError(f"the network cannot be built again: {error}") from error
