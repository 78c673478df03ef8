"""Networks of one kind taken together: the sites of several seeds as if they were one, by second moments."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, TypeVar

from propscope.errors import InputError
from propscope.records.interval import geometric_interval
from propscope.records.network import Expected, NetworkProfile, Parameter, Site
from propscope.records.profile_set import ProfileSet
from propscope.records.summary import TensorSummary

_AVERAGED = (
    "flat_fraction",
    "mean_cosine",
    "effective_rank",
    "attention_entropy",
    "largest_logit",
    "branch_share",
    "jacobian_square_variance",
)
T = TypeVar("T", int, TensorSummary)


def pooled(profiles: ProfileSet) -> NetworkProfile:
    """Return one profile of several networks with the same sites: elements, samples and units of all together.

    Summaries merge exactly, so rms is the root of the mean second moment over the networks; counts of units add up;
    flat fraction, cosine and rank are averages, the Jacobian's condition a geometric one. What theory expects is pooled
    in the same way, but its log_std stays that of one network, as a root mean square. In the labels `networks`, their
    number, takes the seed's place, and the provenance is the first one's but for the seed and the sums. Raises
    `InputError` for networks whose sites differ, and for none.
    """
    members = profiles.profiles
    if not members:
        raise InputError("no profiles to take together; give at least one")
    if len(members) == 1:
        return members[0]
    names = [tuple(site.name for site in member.sites) for member in members]
    if len(set(names)) > 1:
        raise InputError("profiles with different sites cannot be taken together; select one kind of network first")
    first = members[0]
    return replace(
        first,
        sites=tuple(_site(group) for group in zip(*(member.sites for member in members), strict=True)),
        parameters=tuple(_parameter(group) for group in zip(*(member.parameters for member in members), strict=True)),
        labels={name: value for name, value in first.labels.items() if name != "seed"} | {"networks": len(members)},
        provenance=replace(
            first.provenance,
            seed=None,
            wall_seconds=sum(member.provenance.wall_seconds for member in members),
            samples=sum(member.provenance.samples for member in members),
            batches=sum(member.provenance.batches for member in members),
        ),
    )


def _site(sites: Sequence[Site]) -> Site:
    averages: dict[str, Any] = {name: _average(getattr(site, name) for site in sites) for name in _AVERAGED}
    return replace(
        sites[0],
        forward=_sum(site.forward for site in sites),
        backward=_sum(site.backward for site in sites),
        samples=sum(site.samples for site in sites),
        units=_sum(site.units for site in sites),
        dead_units=_sum(site.dead_units for site in sites),
        symmetric_units=_sum(site.symmetric_units for site in sites),
        expected=_expected([site.expected for site in sites if site.expected is not None]),
        jacobian=_sum(site.jacobian for site in sites),
        jacobian_condition=_geometric(site.jacobian_condition for site in sites),
        **averages,
    )


def _expected(members: Sequence[Expected]) -> Expected | None:
    # As text, since NaN does not equal itself.
    if len(set(map(repr, members))) < 2:
        return members[0] if members else None
    mean = _mean([member.forward_mean for member in members])
    # About the common mean: the second moment is the mean of the second moments.
    apart = 0.0 if math.isnan(mean) else _root_mean_square([member.forward_mean - mean for member in members])
    return Expected(
        forward_mean=mean,
        forward_std=math.hypot(_root_mean_square([member.forward_std for member in members]), apart),
        forward_rms=_root_mean_square([member.forward_rms for member in members]),
        forward_log_std=_root_mean_square([member.forward_log_std for member in members]),
        backward_rms=_root_mean_square([member.backward_rms for member in members]),
        backward_log_std=_root_mean_square([member.backward_log_std for member in members]),
        mean_cosine=_mean([member.mean_cosine for member in members]),
        forward_log_drift=_mean([member.forward_log_drift for member in members]),
        backward_log_drift=_mean([member.backward_log_drift for member in members]),
        forward_mean_std=_root_mean_square([member.forward_mean_std for member in members]),
        forward_std_log_std=_root_mean_square([member.forward_std_log_std for member in members]),
    )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _root_mean_square(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    # A hypotenuse does not overflow or underflow where the squares would.
    return math.hypot(*known) / math.sqrt(len(known)) if known else math.nan


def _geometric(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return geometric_interval(known).center if known else None


def _parameter(parameters: Sequence[Parameter]) -> Parameter:
    value = reduce(lambda a, b: a + b, (parameter.value for parameter in parameters))
    return replace(
        parameters[0],
        value=value,
        gradient=_sum(parameter.gradient for parameter in parameters),
        symmetric_units=_sum(parameter.symmetric_units for parameter in parameters),
        expected_gradient_norm=_rms(parameter.expected_gradient_norm for parameter in parameters),
        expected_gradient_log_std=_rms(parameter.expected_gradient_log_std for parameter in parameters),
    )


def _sum(values: Iterable[T | None]) -> T | None:
    known = [value for value in values if value is not None]
    return reduce(lambda a, b: a + b, known) if known else None


def _rms(values: Iterable[float | None]) -> float | None:
    mean = _average(None if value is None else value * value for value in values)
    return None if mean is None else math.sqrt(mean)


def _average(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
