"""Hand-built networks for the tests of the rules: a stack of layers whose signal, units and geometry are as given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from propscope.diagnosis.evidence import Evidence
from propscope.records import NetworkProfile, Parameter, ProfileSet, Provenance, Site, TensorSummary

UNITS, SAMPLES = 64, 128


def summary(rms: float | None, *, count: int = UNITS * SAMPLES) -> TensorSummary | None:
    """Return a summary of so many elements of this rms, without their histogram; NaN is one NaN among ones."""
    if rms is None:
        return None
    if math.isnan(rms):
        return TensorSummary(count, 0.0, 1.0, -1.0, 1.0, 0.0, nan_count=1)
    return TensorSummary(count, 0.0, rms, -rms, rms, float(rms == 0))


def network(
    forward: Sequence[float | None],
    backward: Sequence[float | None] | None = None,
    *,
    activation: str = "ReLU",
    gradients: bool = True,
    seed: int | None = None,
    labels: dict[str, Any] | None = None,
    **figures: Sequence[Any] | float,
) -> NetworkProfile:
    """Return a network of len(forward) layers; `figures` are fields of the pre-activations, one for all or one each."""
    back = [1.0] * len(forward) if backward is None else list(backward)
    sites, parameters = [], []
    for number, (values, gradient) in enumerate(zip(forward, back, strict=True)):
        place = {"samples": SAMPLES, "units": UNITS, "dead_units": 0, "symmetric_units": 0, "flat_fraction": 0.4,
                 "mean_cosine": 0.5, "effective_rank": 8.0, "shape": (SAMPLES, UNITS)}  # fmt: skip
        place |= {name: each[number] if isinstance(each, Sequence) else each for name, each in figures.items()}
        name = f"layers.{number}.linear"
        sites.append(
            Site(
                name,
                "Linear",
                "pre-activation",
                layer=number + 1,
                activation=activation,
                forward=summary(values),
                backward=summary(gradient) if gradients else None,
                **place,
            )
        )
        weight = TensorSummary.of(np.array([0.1, -0.1]))
        learned = summary(1e-3, count=4096) if gradients else None
        parameters.append(Parameter(f"{name}.weight", (UNITS, UNITS), weight, learned))
    named = dict(labels or {}) | ({} if seed is None else {"seed": seed})
    return NetworkProfile(tuple(sites), tuple(parameters), named, Provenance(seed=seed, samples=SAMPLES, batches=1))


def geometric(factor: float, layers: int = 20, *, reverse: bool = False) -> list[float]:
    """Return rms that change by `factor` over the layers, evenly; `reverse`: as a gradient does, going back."""
    curve = [factor ** (place / (layers - 1)) for place in range(layers)]
    return curve[::-1] if reverse else curve


def seeds(*members: NetworkProfile) -> ProfileSet:
    """Return networks as the seeds of one."""
    return ProfileSet.of(members)


def evidence(*members: NetworkProfile) -> Evidence:
    """Return the evidence of networks that are the seeds of one."""
    return Evidence.of(members)
