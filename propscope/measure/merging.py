"""What the recorders of several ranks saw, put together: the record of one process on the samples of all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from propscope.measure.parameters import ParameterAccumulator
from propscope.measure.parts import added, joint, largest
from propscope.measure.rank_places import Places
from propscope.measure.ranks import Origin, Share, Whole, together
from propscope.measure.shards import Sharding
from propscope.measure.sites import SiteAccumulator
from propscope.records.network import CoverageNote, Parameter

_SAME_INPUT = "all ranks were given the same samples; give each its own ones, as a DistributedSampler does"
_ONCE = "the same on all ranks, so it counts once; its gradient, which the ranks add up, and its geometry are not known"
_APART = "its {} is not the same on all ranks; that of this rank is recorded"


@dataclass(frozen=True, slots=True)
class Merged:
    """What all ranks saw: by site key what `SiteAccumulator.measured` returns, parameters, counts of passes, and notes.

    `beside`: what else was put together, by name. `origins`: where values that are not finite came up first, by site.
    """

    sites: Mapping[str, dict[str, Any]]
    parameters: tuple[Parameter, ...]
    samples: int
    batches: int
    notes: tuple[CoverageNote, ...] = ()
    beside: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, Origin] = field(default_factory=dict)


def merged(
    sites: Mapping[str, SiteAccumulator],
    parameters: Mapping[str, tuple[ParameterAccumulator, Parameter]],
    shardings: Mapping[str, Sharding | None],
    places: Places,
    *,
    samples: int,
    batches: int,
    bins: Callable[[SiteAccumulator], bool],
    given: Collection[str],
    moment: int,
    beside: Mapping[str, Share],
) -> Merged:
    """Return what all ranks saw; each of them calls this at the same `moment`.

    `parameters`: with what this rank has recorded of them. `shardings`: of the sites. `bins`: of which sites histograms
    are put together. `given`: the sites that are inputs, or were computed from one. `beside`: what else is put together
    in the same reductions.
    """
    shares = {
        f"site {key}": one.share(places, shardings[key], bins=bins(one))
        for key, one in sites.items()
        if not _is_summand(shardings[key])
    }
    shares |= {f"parameter {name}": one.share(own, places) for name, (one, own) in parameters.items()}
    brings = samples if places.brings_samples(None) else 0
    counts = Share((), joint([added([brings]), largest([batches])]))
    whole = together({"counts": counts, **shares, **beside}, places.ranks, moment=moment)
    (all_samples,), (most_batches,) = whole.found["counts"]
    seen = {key: found for key in sites if (found := whole.found.get(f"site {key}")) is not None}
    inputs = [one["alike"] for key, one in seen.items() if sites[key].role == "input"]
    copied = bool(inputs) and all(inputs)
    batch = samples // max(batches, 1)
    alike = {key for key, one in seen.items() if one["alike"] and not copied}
    once = {key for key in alike if _has_no_samples(sites[key], batch, given=key in given)}
    of_all = {name: whole.found.get(f"parameter {name}", (own, True, True)) for name, (_, own) in parameters.items()}
    notes = [*_notes(whole, sites, of_all, once)]
    return Merged(
        {key: _once(sites[key]) if key in once else one["all"] for key, one in seen.items()},
        tuple(parameter for parameter, *_ in of_all.values()),
        round(all_samples),
        round(most_batches),
        (CoverageNote("", "model", _SAME_INPUT), *notes) if copied else tuple(notes),
        {name: whole.found[name] for name in beside if name in whole.found},
        {key: origin for key, one in seen.items() if (origin := one["origin"]) is not None},
    )


def _is_summand(sharding: Sharding | None) -> bool:
    """Return whether ranks hold summands of a tensor, whose numbers say nothing of those of the sum."""
    return sharding is not None and any(split.kind == "partial" for split in sharding.splits)


def _has_no_samples(site: SiteAccumulator, batch: int, *, given: bool) -> bool:
    """Return whether a site that is the same on all ranks has no samples, as an embedding of positions.

    What is as long as a batch and comes from an input has samples, to which all ranks were given the same, as to a
    mask. So have constants of that length, which are the same for other samples too.
    """
    forward = site.measured()["forward"]
    if forward is None:
        return False
    return not site.shape or site.shape[0] != batch or (forward.std > 0 and not given)


def _once(site: SiteAccumulator) -> dict[str, Any]:
    return {**site.measured(), "backward": None, "products": None}


def _notes(
    whole: Whole,
    sites: Mapping[str, SiteAccumulator],
    parameters: Mapping[str, tuple[Parameter, bool, bool]],
    once: Collection[str],
) -> Iterator[CoverageNote]:
    for name, reason in whole.differences.items():
        kind, _, key = name.partition(" ")
        if kind in ("site", "parameter"):
            yield CoverageNote(key, "output" if kind == "site" else "parameter", reason)
    for key in sites:
        if key in once and sites[key].role != "input":
            yield CoverageNote(key, "output", _ONCE)
    for name, (_, value, gradient) in parameters.items():
        if not value:
            yield CoverageNote(name, "parameter", _APART.format("value"))
        if not gradient:
            yield CoverageNote(name, "parameter", _APART.format("gradient"))
