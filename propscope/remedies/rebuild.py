"""`verify`: the networks of a grid that are not healthy, built again with one remedy after another until one helps."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any

from propscope.diagnosis import diagnose
from propscope.errors import InputError, PropscopeError
from propscope.experiments import Grid, make_grid, profiled
from propscope.networks import MLPSpec, parse_input, parse_spec
from propscope.records.finding import Remedy
from propscope.records.interval import geometric_interval
from propscope.records.profile_set import ProfileSet
from propscope.records.remedy_trials import RemedyTrials, State, Trial
from propscope.records.stored_spec import read_spec
from propscope.remedies.candidates import candidates, with_options

_UNKNOWN = "its profile does not say how to build the network again: it is not a network of the grid"
_RUN = ("batch", "input", "scale", "loss", "dtype", "device")


def verify(profiles: ProfileSet, *, trust: bool = False) -> tuple[RemedyTrials, ...]:
    """Return what helps each broken or strained network of a grid: built again with a remedy, profiled and diagnosed.

    Each network is built from the provenance of its profile, with the same seeds and input. Remedies are tried in the
    order of `candidates` until the network is healthy. A remedy that does not improve the verdict, or cannot be carried
    out, is kept as a trial that did not help. Healthy networks are left out.

    The profiles may come from a stranger's file. A network whose spec names a callable to import, a file to read or a
    device other than the CPU is not built, and its `reason` says so. With `trust` it is built, after a `UserWarning`
    that lists these names: only for files of your own. Raises `InputError` for an empty set.
    """
    if trust and (names := names_outside(profiles)):
        warnings.warn(f"verify imports or opens what the profiles name: {'; '.join(names)}", stacklevel=2)
    return tuple(verified(profiles, trust=trust))


def verified(profiles: ProfileSet, *, trust: bool = False) -> Iterator[RemedyTrials]:
    """Yield what `verify` returns, network by network; it does not warn."""
    diagnose(profiles)
    # The remedies of several networks often lead to the same one, which is profiled once.
    seen: dict[str, State | PropscopeError] = {}
    for members in profiles.groups("seed").values():
        before = state_of(members)
        if before.diagnosis.verdict not in ("healthy", "not measured"):
            yield _tried_in_turn(members, before, seen, trust)


def names_outside(profiles: ProfileSet) -> tuple[str, ...]:
    """Return what `verify` with `trust` would import or open for these profiles, such as "activation my_module:swish".

    Each name stands once: callables, input files, and devices other than the CPU.
    """
    found: dict[str, None] = {}
    for members in profiles.groups("seed").values():
        asked = _arguments(members)
        found |= dict.fromkeys(() if asked is None else _outside(asked))
    return tuple(found)


def state_of(members: ProfileSet) -> State:
    """Return the state that the profiles of one network show, over all seeds."""
    forward, backward = (
        geometric_interval(profile.factor(direction) for profile in members).center
        for direction in ("forward", "backward")
    )
    return State(diagnose(members, notes=False), forward, backward)


def _tried_in_turn(
    members: ProfileSet, before: State, seen: dict[str, State | PropscopeError], trust: bool
) -> RemedyTrials:
    labels = before.diagnosis.labels
    try:
        request = request_of(members, trust=trust)
    except InputError as error:
        return RemedyTrials(before, labels=labels, reason=f"{error}{error.hint and f'; {error.hint}'}")
    if request is None:
        return RemedyTrials(before, labels=labels, reason=_UNKNOWN)
    trials: list[Trial] = []
    for remedy in candidates(before.diagnosis, request):
        trials.append(_tried(remedy, before, request, seen, trust))
        if trials[-1].healed:
            break
    return RemedyTrials(before, tuple(trials), labels)


def _tried(
    remedy: Remedy, before: State, request: Mapping[str, Any], seen: dict[str, State | PropscopeError], trust: bool
) -> Trial:
    asked = with_options(request, remedy.options)
    key = repr(sorted(asked.items()))
    if key not in seen:
        try:
            seen[key] = state_of(rebuilt(asked, trust))
        except PropscopeError as error:
            seen[key] = error
    found = seen[key]
    if isinstance(found, State):
        return Trial(remedy, before, found)
    return Trial(remedy, before, None, reason=str(found))


def request_of(members: ProfileSet, *, trust: bool = False) -> dict[str, Any] | None:
    """Return the arguments of `make_grid` for the network of these profiles, seeds included; None if unknown.

    The spec of a profile is data that may come from a stranger. Raises `InputError` where it names something to import
    or to open and `trust` is false, where it asks for what `make_grid` refuses (such as a network that does not fit
    in memory), and where it describes another network than the profile's labels do. Nothing is built.
    """
    request = _arguments(members)
    if request is None:
        return None
    grid = _grid(request, trust)
    if len(grid) != len(request["seeds"]):
        raise InputError(f"its spec describes {len(grid):,} networks, and the profiles are of {len(request['seeds'])}")
    _as_written(read_spec(members[0].provenance), json.loads(grid.spec(next(grid.cells()))))
    for cell, profile in zip(grid.cells(), members, strict=False):
        for name, value in cell.labels.items():
            if (label := profile.labels.get(name)) != value:
                raise InputError(f"the profile is labelled {name} {label}, but its spec says {name} {value}")
    return request


def _as_written(stored: Mapping[str, Any], written: Mapping[str, Any]) -> None:
    """Refuse a stored spec whose values are not those that propscope writes for the network it describes.

    The axes of a grid take text and lists too, which no file of propscope's holds. The initializer may be one whose
    numbers are computed again, and the size of the input may have come from the data.
    """
    network, run = stored["network"], {name: stored[name] for name in ("batch", "scale", "loss", "dtype", "device")}
    for name, value in (*run.items(), *network.items()):
        means = written["network"][name] if name in network else written[name]
        if value != means and name not in ("initializer", "input_size"):
            raise InputError(f"its spec says {name} {value!r}, which means {means!r}")


def _arguments(members: ProfileSet) -> dict[str, Any] | None:
    """Return what the spec of these profiles asks for, as it stands there; None where it is no network of the grid."""
    first = members[0].provenance
    spec = read_spec(first)
    try:
        network = dict(spec["network"])
        request = {name: spec[name] for name in _RUN}
        request |= {name: [network.pop(name)] for name in ("activation", "initializer", "depth")}
        width = network.pop("width")
    except (ValueError, KeyError, TypeError):
        return None
    if network.keys() - {field.name for field in fields(MLPSpec)}:
        return None
    if "input_size" not in members[0].labels:
        network["input_size"] = None
    # The variances of a critical point depend on input and activation: the label lets them be computed again.
    if str(label := members[0].labels.get("initializer", "")).startswith("critical"):
        request["initializer"] = [label]
    seeds = [read_spec(profile.provenance).get("seed", profile.provenance.seed) for profile in members]
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


def _outside(request: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a request names that propscope's own tables do not hold: callables, files, devices other than the CPU.

    A text that cannot be read at all is left to `make_grid`, which refuses it before it imports anything.
    """
    for what in ("activation", "initializer"):
        for text in request[what]:
            with suppress(InputError):
                if not isinstance(text, str) or parse_spec(text, what).custom:
                    yield f"{what} {text}"
    with suppress(InputError):
        if not isinstance(text := request["input"], str) or parse_input(text).source.takes_path:
            yield f"input {text}"
    if request["device"] != "cpu":
        yield f"device {request['device']}"


def _grid(request: Mapping[str, Any], trust: bool) -> Grid:
    """Return the grid of a request, checked before anything is imported, allocated or built."""
    if not trust and (names := ", ".join(_outside(request))):
        raise InputError(
            f"its spec names {names}: a result file is data, and what it names is not imported or opened",
            hint="if the file is your own, --trust (in Python: trust=True) allows it",
        )
    try:
        return make_grid(**request)
    except PropscopeError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        raise InputError(f"the network cannot be built again: {error}") from error


def rebuilt(request: Mapping[str, Any], trust: bool = False) -> ProfileSet:
    """Return the profiles that a request gives.

    Raises `InputError` for a network that cannot be built, and for one that names what propscope's tables do not hold
    unless `trust` is true.
    """
    grid = _grid(request, trust)
    try:
        return profiled(grid, workers=1)
    except (TypeError, RuntimeError, MemoryError) as error:
        raise InputError(f"the network cannot be built again: {error}") from error
