"""Networks of one kind taken together: the sites of several seeds as if they were one, by second moments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from typing import TypeVar

from propscope.errors import InputError
from propscope.results.network import NetworkProfile, Parameter, Site
from propscope.results.profile_set import ProfileSet
from propscope.results.summary import TensorSummary

T = TypeVar("T", int, TensorSummary)


def pooled(profiles: ProfileSet) -> NetworkProfile:
    """Return one profile of several networks with the same sites: elements, samples and units of all together.

    Summaries merge exactly, so rms is the root of the mean second moment over the networks; counts of units add up;
    flat fraction, cosine and rank are averages. The seed is dropped from the labels. Raises `InputError` for networks
    whose sites differ, and for none.
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
        labels={name: value for name, value in first.labels.items() if name != "seed"},
    )


def _site(sites: Sequence[Site]) -> Site:
    return replace(
        sites[0],
        forward=_sum(site.forward for site in sites),
        backward=_sum(site.backward for site in sites),
        samples=sum(site.samples for site in sites),
        units=_sum(site.units for site in sites),
        dead_units=_sum(site.dead_units for site in sites),
        symmetric_units=_sum(site.symmetric_units for site in sites),
        flat_fraction=_average(site.flat_fraction for site in sites),
        mean_cosine=_average(site.mean_cosine for site in sites),
        effective_rank=_average(site.effective_rank for site in sites),
    )


def _parameter(parameters: Sequence[Parameter]) -> Parameter:
    value = reduce(lambda a, b: a + b, (parameter.value for parameter in parameters))
    return replace(
        parameters[0],
        value=value,
        gradient=_sum(parameter.gradient for parameter in parameters),
        symmetric_units=_sum(parameter.symmetric_units for parameter in parameters),
    )


def _sum(values: Iterable[T | None]) -> T | None:
    known = [value for value in values if value is not None]
    return reduce(lambda a, b: a + b, known) if known else None


def _average(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
