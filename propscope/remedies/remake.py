"""Networks of the grid made again from their provenance, with other options: same seeds, input, loss and size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from propscope.errors import InputError
from propscope.experiments import make_grid, run
from propscope.records.network import NetworkProfile
from propscope.records.profile_set import ProfileSet

_RUN = ("batch", "input", "scale", "loss", "dtype", "device")


def request_of(members: ProfileSet) -> dict[str, Any] | None:
    """Return what `make_grid` takes to make these profiles, one network's seeds, again; None where they do not say."""
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
    # The numbers of a critical point depend on the input and the activation: the label lets them be found again.
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
    """Return a request with a remedy's options in place; raises `InputError` for one that no grid has."""
    axes = ("activation", "initializer")
    changed = {**request, **{name: [value] if name in axes else value for name, value in options.items()}}
    # These two say how the biases are drawn themselves, which a standard deviation beside them would contradict.
    if str(options.get("initializer", "")).startswith(("critical", "default")) and "bias" not in options:
        changed["bias"] = None
    return changed


def remade(request: Mapping[str, Any]) -> ProfileSet:
    """Return the profiles that a request gives; raises `InputError` for a network that cannot be made."""
    try:
        return ProfileSet.of(run(make_grid(**request)))
    except (TypeError, RuntimeError, MemoryError) as error:
        raise InputError(f"the network cannot be made again: {error}") from error
