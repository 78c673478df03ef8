"""Hand-built profiles for the tests of the results: a network whose signal has a given rms at each layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from propscope.records import Expected, NetworkProfile, Parameter, Provenance, Site, TensorSummary


def signal(rms: float | None) -> TensorSummary | None:
    """Return a summary of four elements of this rms: Inf and NaN are elements among finite ones, None is not seen."""
    if rms is None:
        return None
    return TensorSummary.of([1.0, -1.0, rms, -rms] if not math.isfinite(rms) else [rms, -rms, rms, -rms])


def layered(
    forward: Sequence[float | None],
    backward: Sequence[float | None] | None = None,
    *,
    activations: bool = True,
    expected: Sequence[Expected | None] = (),
    figures: Mapping[str, Any] | None = None,
    **labels: Any,
) -> NetworkProfile:
    """Return a network with one pre-activation a layer, and its activation at half the rms, all numbers as given.

    `expected`: of each site in execution order; the sites after the last one given have none.
    """
    sites: list[Site] = []
    for number, rms in enumerate(forward):
        place = {"shape": (2, 2), "layer": number + 1, "samples": 2, "units": 2}
        back = None if backward is None else backward[number]
        sites.append(
            Site(
                f"layers.{number}.linear",
                "Linear",
                "pre-activation",
                activation="ReLU",
                forward=signal(rms),
                backward=signal(back),
                **place,
                **(figures or {}),
            )
        )
        if activations:
            half = None if rms is None else rms / 2
            name = f"layers.{number}.activation"
            sites.append(Site(name, "ReLU", "activation", forward=signal(half), mean_cosine=0.25, **place))
    for number, expectation in enumerate(expected):
        sites[number] = dataclasses.replace(sites[number], expected=expectation)
    weight = Parameter("layers.0.linear.weight", (2, 2), TensorSummary.of([1.0, 2.0, 2.0, 4.0]))
    return NetworkProfile(tuple(sites), (weight,), labels, Provenance(seed=labels.get("seed"), samples=2, batches=1))


def with_gradient(profile: NetworkProfile, values: Sequence[float]) -> NetworkProfile:
    """Return the profile with this gradient at its one parameter."""
    parameter = dataclasses.replace(profile.parameters[0], gradient=TensorSummary.of(values))
    return dataclasses.replace(profile, parameters=(parameter,))
