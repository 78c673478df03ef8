"""Networks of one kind taken together: the sites of several seeds as if they were one. `records.figures` says how."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

from propscope.errors import InputError
from propscope.records.figures import (
    EXPECTED_FIELDS,
    PARAMETER_FIELDS,
    PROVENANCE_FIELDS,
    SITE_FIELDS,
    SUMMARIES,
    Field,
    Pool,
)
from propscope.records.interval import geometric_interval
from propscope.records.network import CoverageNote, Expected, NetworkProfile, Parameter, Site
from propscope.records.profile_set import ProfileSet
from propscope.records.time_course import pooled_courses


def pooled(profiles: ProfileSet) -> NetworkProfile:
    """Return one profile of several networks that have the same sites, each quantity pooled as `Field.seeds` says.

    Summaries merge exactly, so rms is the root of the mean second moment over the networks. Counts of units, samples
    and batches add up. An expected log_std stays that of one network: it is the root of the mean square. A quantity
    that some networks lack is pooled over the others. The label `networks`, their number, replaces the label `seed`.
    The provenance is that of the first network, without a seed and with summed counts; a digest is what all of them
    have, or empty. Raises `InputError` for networks whose sites or parameters differ, and for an empty set.
    """
    members = profiles.profiles
    if not members:
        raise InputError("the set holds no profile to pool", hint="give at least one")
    if len(members) == 1:
        return members[0]
    if any(_names(member) != _names(members[0]) for member in members):
        raise InputError(
            "profiles with different sites or parameters cannot be pooled", hint="select one kind of network first"
        )
    first = members[0]
    origin = _pooled([member.provenance for member in members], PROVENANCE_FIELDS)
    return replace(
        first,
        sites=tuple(_site(group) for group in zip(*(member.sites for member in members), strict=True)),
        parameters=tuple(_parameter(group) for group in zip(*(member.parameters for member in members), strict=True)),
        labels={name: value for name, value in first.labels.items() if name != "seed"} | {"networks": len(members)},
        provenance=replace(first.provenance, seed=None, **origin),
        time_courses=pooled_courses([member.time_courses for member in members]),
        batch_digest=_shared(member.batch_digest for member in members),
        weights_digest=_shared(member.weights_digest for member in members),
    )


def pooled_seeds(profiles: ProfileSet) -> NetworkProfile:
    """Return what `pooled` makes of the seeds of one network that have the sites and parameters of the first seed.

    A seed may run other sites, as a mixture of experts does. Such a seed is left out, and the coverage names it.
    """
    if not len(profiles):
        return pooled(profiles)
    first = profiles[0]
    alike: list[NetworkProfile] = []
    notes: list[CoverageNote] = []
    reason = f"left out: the sites or parameters differ from those of seed {first.labels.get('seed', 0)}"
    for position, member in enumerate(profiles):
        if _names(member) == _names(first):
            alike.append(member)
        else:
            notes.append(CoverageNote(str(member.labels.get("seed", position)), "seed", reason))
    one = pooled(ProfileSet.of(alike))
    return replace(one, coverage=(*one.coverage, *notes)) if notes else one


def _shared(digests: Iterable[str]) -> str:
    """Return the digest that all networks have, "" where they differ."""
    found = set(digests)
    return found.pop() if len(found) == 1 else ""


def _names(profile: NetworkProfile) -> tuple[list[str], list[str]]:
    return [site.name for site in profile.sites], [parameter.name for parameter in profile.parameters]


def _site(sites: Sequence[Site]) -> Site:
    own = [field for field in SITE_FIELDS if not field.part]
    return replace(
        sites[0],
        expected=_expected([site.expected for site in sites if site.expected is not None]),
        **_pooled(sites, own),
        **_merged(sites, SUMMARIES["site"]),
    )


def _parameter(parameters: Sequence[Parameter]) -> Parameter:
    own = [field for field in PARAMETER_FIELDS if not field.part]
    return replace(parameters[0], **_pooled(parameters, own), **_merged(parameters, SUMMARIES["parameter"]))


def _expected(members: Sequence[Expected]) -> Expected | None:
    # As text, since NaN does not equal itself.
    if len(set(map(repr, members))) < 2:
        return members[0] if members else None
    found = {name: math.nan if value is None else value for name, value in _pooled(members, EXPECTED_FIELDS).items()}
    # About the common mean: the second moment is the mean of the second moments.
    mean = found["forward_mean"]
    apart = 0.0 if math.isnan(mean) else _root_mean_square([m.forward_mean - mean for m in members]) or 0.0
    within = _root_mean_square([member.forward_std for member in members])
    return Expected(forward_std=math.nan if within is None else math.hypot(within, apart), **found)


def _pooled(records: Sequence[Any], fields: Sequence[Field]) -> dict[str, Any]:
    """Return the fields of the records that have a rule of their own, pooled over seeds, by attribute."""
    found = {}
    for field in fields:
        if (rule := _RULES.get(field.seeds)) is not None:
            present = [value for record in records if (value := getattr(record, field.attribute)) is not None]
            found[field.attribute] = rule(present) if present else None
    return found


def _merged(records: Sequence[Any], parts: Sequence[str]) -> dict[str, Any]:
    values = {part: [value for record in records if (value := getattr(record, part)) is not None] for part in parts}
    return {part: reduce(operator.add, present) if present else None for part, present in values.items()}


def _largest(values: Sequence[float]) -> float | None:
    return max((value for value in values if not math.isnan(value)), default=None)


def _mean(values: Sequence[float]) -> float | None:
    numbers = [value for value in values if not math.isnan(value)]
    try:
        return math.fsum(numbers) / len(numbers) if numbers else None
    except OverflowError:
        # The sum leaves float64, though the mean does not.
        return math.fsum(value / len(numbers) for value in numbers)


def _root_mean_square(values: Sequence[float]) -> float | None:
    numbers = [value for value in values if not math.isnan(value)]
    # A hypotenuse does not overflow or underflow where the squares would.
    return math.hypot(*numbers) / math.sqrt(len(numbers)) if numbers else None


_RULES: dict[Pool, Callable[[Sequence[Any]], Any]] = {
    "sum": sum,
    "max": _largest,
    "mean": _mean,
    "rms": _root_mean_square,
    "geometric": lambda values: geometric_interval(values).center,
}
