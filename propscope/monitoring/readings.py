"""What the rules of a training look at: numbers by quantity and place, from a sample or a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from propscope.records.network import NetworkProfile, Parameter, Site

# The number at each place, by quantity.
Readings = Mapping[str, Mapping[str, float]]
# Collapse is judged at so many of the last sites that have so many features: fewer become alike by chance.
_LAST = 3
_FEATURES = 4
# Parameters of fewer elements have no update ratio.
_ELEMENTS = 8


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number of a site or a parameter; `read_site` or `read_parameter` returns it, None where there is none.

    `absent`: what stands for a parameter without a number where others have one. `last_sites`: whether it is read at
    the last sites only.
    """

    name: str
    read_site: Callable[[Site], float | None] | None = None
    read_parameter: Callable[[Parameter], float | None] | None = None
    absent: float | None = None
    last_sites: bool = False


def dead_share(site: Site) -> float | None:
    """Return the share of a site's units that are flat on every sample."""
    return None if site.dead_units is None or not site.units else site.dead_units / site.units


def update_ratio(parameter: Parameter) -> float | None:
    """Return the update ratio of a parameter of so many elements that it means something."""
    # The norm of a few numbers passes near zero, as that of a bias of one output does.
    return parameter.update_ratio if math.prod(parameter.shape) >= _ELEMENTS else None


def _nonfinite(site: Site) -> float | None:
    return None if site.forward is None else float(site.forward.nonfinite_count)


QUANTITIES = (
    Quantity("update_ratio", read_parameter=update_ratio),
    # A parameter that is frozen or detached has none.
    Quantity("step_gradient_norm", read_parameter=lambda parameter: parameter.step_gradient_norm, absent=0.0),
    Quantity("largest_logit", lambda site: site.largest_logit),
    Quantity("attention_entropy", lambda site: site.attention_entropy),
    Quantity("dead_share", dead_share),
    Quantity("nonfinite_values", _nonfinite),
    Quantity("effective_rank", lambda site: site.effective_rank, last_sites=True),
    Quantity("mean_cosine", lambda site: site.mean_cosine, last_sites=True),
)


def last_sites(profile: NetworkProfile) -> list[Site]:
    """Return the last sites at which collapse is judged, in execution order."""
    wide = [site for site in profile.without_inputs.sites if (site.features or 0) >= _FEATURES]
    return [site for site in wide if site.effective_rank is not None][-_LAST:]


def readings_of(profile: NetworkProfile) -> Readings:
    """Return what a sample shows, by quantity and by the name of the site or parameter; what is NaN is left out."""
    last = last_sites(profile)
    found: dict[str, dict[str, float]] = {}
    for quantity in QUANTITIES:
        numbers: dict[str, float | None] = {}
        if quantity.read_site is not None:
            for site in last if quantity.last_sites else profile.sites:
                numbers[site.name] = quantity.read_site(site)
        if quantity.read_parameter is not None:
            read = [(parameter.name, quantity.read_parameter(parameter)) for parameter in profile.parameters]
            absent = quantity.absent if any(value is not None for _, value in read) else None
            numbers |= {name: absent if value is None else value for name, value in read}
        found[quantity.name] = {
            name: value for name, value in numbers.items() if value is not None and not math.isnan(value)
        }
    return found
