"""Which numbers of a sample a sink gets, and under which keys."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from propscope.monitoring.readings import last_sites, update_ratio
from propscope.monitoring.sinks.sink import Sites
from propscope.records.network import NetworkProfile, Parameter, Site

Entry = TypeVar("Entry", Site, Parameter)


@dataclass(frozen=True, slots=True)
class Series(Generic[Entry]):
    """A number of each site or parameter: its `key`, with {} for the name; `read` returns it, None where there is none.

    `totals`: what the numbers of all of them give, by key. A total stands for the same thing throughout a run, while
    the site that is worst changes.
    """

    key: str
    read: Callable[[Entry], float | None]
    totals: Mapping[str, Callable[[Sequence[float]], float]] = field(default_factory=dict)


SITE_SERIES: tuple[Series[Site], ...] = (
    Series(
        "activation/{}/rms",
        lambda site: None if site.forward is None else site.forward.rms,
        {"activation/max_rms": max, "activation/min_rms": min},
    ),
    Series(
        "activation/{}/nonfinite",
        lambda site: None if site.forward is None else float(site.forward.nonfinite_count),
        {"activation/nonfinite": sum},
    ),
    Series(
        "gradient/{}/rms",
        lambda site: None if site.backward is None else site.backward.rms,
        {"gradient/max_rms": max, "gradient/min_rms": min},
    ),
    Series("activation/{}/dead_share", lambda site: site.dead_share, {"activation/max_dead_share": max}),
    Series("activation/{}/mean_cosine", lambda site: site.mean_cosine),
    Series("activation/{}/effective_rank", lambda site: site.effective_rank),
    Series("attention/{}/largest_logit", lambda site: site.largest_logit, {"attention/largest_logit": max}),
    Series("attention/{}/entropy", lambda site: site.attention_entropy, {"attention/min_entropy": min}),
)
PARAMETER_SERIES: tuple[Series[Parameter], ...] = (
    Series("update_ratio/{}", update_ratio, {"update_ratio/max": max, "update_ratio/median": statistics.median}),
    Series("weight/{}/norm", lambda parameter: parameter.value_norm),
    Series("gradient/{}/norm", lambda parameter: parameter.step_gradient_norm),
)
# Of the step that was sampled. The rank of the last site is the one of a single site that a healthy network keeps up.
STEP_SERIES = ("loss", "gradient_norm", "clip_factor", "learning_rate", "loss_scale")
# The keys of the numbers of one site or parameter, with {} for its name. MLflow keeps a key as a path of folders, so
# none may begin as another one with a slash behind it.
KEYS = tuple(each.key for each in SITE_SERIES) + tuple(each.key for each in PARAMETER_SERIES)
_RANK = "activation/{}/effective_rank"


def series_of(profile: NetworkProfile, row: Mapping[str, Any], sites: Sites) -> dict[str, float]:
    """Return the numbers of a sample and of its step, a row of `STEP_FIELDS`, by their keys.

    `sites`: "worst" for some ten totals, "all" for those and the numbers of every site and parameter. A number that was
    not seen is left out; one that is not finite stays.
    """
    found = {name: float(row[name]) for name in STEP_SERIES if not math.isnan(row[name])}
    if row["loss_given"]:
        found["loss"] = float(row["loss"])
    inner = profile.without_inputs.sites
    for each in SITE_SERIES:
        _add(found, each, inner, sites)
    for one in PARAMETER_SERIES:
        _add(found, one, profile.parameters, sites)
    if last := last_sites(profile):
        found[_RANK.format(last[-1].name)] = last[-1].effective_rank or math.nan
    return found


def _add(found: dict[str, float], series: Series[Entry], entries: Sequence[Entry], sites: Sites) -> None:
    read = {entry.name: value for entry in entries if (value := series.read(entry)) is not None}
    if not read:
        return
    if sites == "all":
        found |= {series.key.format(name or "model"): value for name, value in read.items()}
    # What has no finite element has no rms.
    numbers = [value for value in read.values() if not math.isnan(value)] or [math.nan]
    found |= {key: float(total(numbers)) for key, total in series.totals.items()}
