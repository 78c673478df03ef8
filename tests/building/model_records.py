"""Hand-built models for the tests of the rules: sites that know no layer, as those of existing models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from building.diagnosis_records import SAMPLES, UNITS, summary
from propscope.diagnosis.evidence import Evidence
from propscope.records import NetworkProfile, Parameter, Site, TensorSummary


def site(name: str, kind: str = "Linear", *, rms: float = 1.0, back: float | None = 1.0, **figures: Any) -> Site:
    """Return a site whose values and gradients have this rms, and a mean of zero."""
    place = {"role": "other", "shape": (SAMPLES, UNITS), "units": UNITS, "samples": SAMPLES, "mean_cosine": 0.3}
    return Site(name, kind, forward=summary(rms), backward=summary(back), **(place | figures))


def with_mean(name: str, kind: str, varying: float, **figures: Any) -> Site:
    """Return the site of an activation of which this share of the mean square varies, and the rest is its mean."""
    mean, std = math.sqrt(1 - varying), math.sqrt(varying)
    seen = TensorSummary(UNITS * SAMPLES, mean, std, mean - std, mean + std, 0.0)
    return replace(site(name, kind, role="activation", **figures), forward=seen)


def weight(
    name: str, scale: float, shape: tuple[int, ...] = (UNITS, UNITS), *, gradient: float | None = 1e-3
) -> Parameter:
    """Return a weight with rms(W) sqrt(fan_in) of `scale`, its inputs on all axes but the first."""
    fan_in = math.prod(shape[1:])
    value = summary(scale / math.sqrt(fan_in), count=math.prod(shape))
    return Parameter(name, shape, value, summary(gradient, count=math.prod(shape)))


def model(sites: Sequence[Site], parameters: Sequence[Parameter] = ()) -> NetworkProfile:
    """Return the profile of a model with these sites, in this order."""
    return NetworkProfile(tuple(sites), tuple(parameters))


def evidence(*members: NetworkProfile) -> Evidence:
    """Return the evidence of models that are the seeds of one."""
    return Evidence.of(members)


def scaled(profile: NetworkProfile, factor: float) -> NetworkProfile:
    """Return a profile with the loss, and with it every gradient, times `factor`."""

    def times(seen: TensorSummary | None) -> TensorSummary | None:
        if seen is None:
            return None
        return replace(
            seen, mean=seen.mean * factor, std=seen.std * factor, min=seen.min * factor, max=seen.max * factor
        )

    sites = tuple(replace(each, backward=times(each.backward)) for each in profile.sites)
    return replace(
        profile, sites=sites, parameters=tuple(replace(p, gradient=times(p.gradient)) for p in profile.parameters)
    )
