"""What the rules of a training look at: numbers by quantity and place, from a sample or a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from propscope.records.network import NetworkProfile, Parameter, Site

# The number at each place, by quantity.
Readings = Mapping[str, Mapping[str, float]]
# Collapse is judged at so many of the last sites that have so many features: fewer become alike by chance.
_LAST = 3
_FEATURES = 4
# The steps between two samples change a parameter's norm by no more than so many times the larger update of the two.
_SLACK = 3.0
# Parameters of fewer elements have no update ratio.
_ELEMENTS = 8


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number of a site or a parameter; `read_site` or `read_parameter` returns it, None where there is none.

    `absent`: what stands for a parameter without a number where others have one. `last_sites`: whether it is read at
    the last sites only. `steady`: whether it says nothing of a parameter that is used for a part of the samples.
    """

    name: str
    read_site: Callable[[Site], float | None] | None = None
    read_parameter: Callable[[Parameter], float | None] | None = None
    absent: float | None = None
    last_sites: bool = False
    steady: bool = False


def update_ratio(parameter: Parameter) -> float | None:
    """Return the update ratio of a parameter of so many elements that it means something."""
    # The norm of a few numbers passes near zero, as that of a bias of one output does.
    return parameter.update_ratio if math.prod(parameter.shape) >= _ELEMENTS else None


def _routed(site: Site) -> bool:
    """Return whether a site ran on a part of the samples, as an expert does: on others each time, or on few."""
    return site.token_share is not None and site.token_share < 1


def _gradient_zeros(parameter: Parameter) -> float | None:
    # Without a gradient there is no underflow.
    some = parameter.gradient is not None and parameter.gradient.count
    return parameter.gradient.zero_fraction if some and parameter.gradient is not None else None


def _nonfinite(site: Site) -> float | None:
    return None if site.forward is None else float(site.forward.nonfinite_count)


def _input_rms(site: Site) -> float | None:
    # Numbers of tokens have no scale, and a time or a temperature may go anywhere.
    scaled = site.role == "input" and "float" in site.dtype and math.prod(site.shape[1:]) > 1
    return site.forward.rms if scaled and site.forward is not None else None


def _told_apart(site: Site) -> bool:
    # A gate may be open, or a unit off, for all samples alike.
    return site.role != "activation" and not _routed(site)


QUANTITIES = (
    Quantity("update_ratio", read_parameter=update_ratio, steady=True),
    # A parameter that is detached has none.
    Quantity("step_gradient_norm", read_parameter=lambda parameter: parameter.step_gradient_norm, absent=0.0),
    Quantity("gradient_zeros", read_parameter=_gradient_zeros),
    Quantity("largest_logit", lambda site: site.largest_logit),
    Quantity("attention_entropy", lambda site: site.attention_entropy),
    Quantity("dead_share", lambda site: None if _routed(site) else site.dead_share),
    Quantity("nonfinite_values", _nonfinite),
    Quantity("rank_anywhere", lambda site: site.effective_rank if _told_apart(site) else None),
    Quantity("cosine_anywhere", lambda site: site.mean_cosine if _told_apart(site) else None),
    Quantity("input_rms", _input_rms),
    Quantity("forward_rms", lambda site: None if site.forward is None else site.forward.rms),
    Quantity("effective_rank", lambda site: site.effective_rank, last_sites=True),
    Quantity("mean_cosine", lambda site: site.mean_cosine, last_sites=True),
)


def last_sites(profile: NetworkProfile) -> list[Site]:
    """Return the last sites at which collapse is judged, in execution order."""
    wide = [site for site in profile.without_inputs.sites if (site.features or 0) >= _FEATURES and not _routed(site)]
    return [site for site in wide if site.effective_rank is not None][-_LAST:]


def readings_of(profile: NetworkProfile) -> Readings:
    """Return what a sample shows, by quantity and by the name of the site or parameter; what is NaN is left out."""
    last = last_sites(profile)
    # How much a parameter of an expert learns depends on how many samples it got.
    routed = {name for site in profile.sites if _routed(site) or not site.samples for name in site.parameters}
    found: dict[str, dict[str, float]] = {}
    for quantity in QUANTITIES:
        numbers: dict[str, float | None] = {}
        if quantity.read_site is not None:
            for site in last if quantity.last_sites else profile.sites:
                numbers[site.name] = quantity.read_site(site)
        if quantity.read_parameter is not None:
            steady = [each for each in profile.parameters if not quantity.steady or each.name not in routed]
            # Who froze a parameter knows that it has no gradient.
            trained = [each for each in steady if each.gradient_lost_by != "frozen"]
            read = [(parameter.name, quantity.read_parameter(parameter)) for parameter in trained]
            absent = quantity.absent if any(value is not None for _, value in read) else None
            numbers |= {name: absent if value is None else value for name, value in read}
        found[quantity.name] = {
            name: value for name, value in numbers.items() if value is not None and not math.isnan(value)
        }
    return found


@dataclass(frozen=True, slots=True)
class OptimizerFound:
    """What the optimizer found at the parameters in the step `step`: to be held against the sample before.

    `norms`: of the values before its step. `updates`: of what it changed. `moments`: of Adam's mean of the squared
    gradient.
    """

    step: int = -1
    norms: Mapping[str, float] = field(default_factory=dict)
    updates: Mapping[str, float] = field(default_factory=dict)
    moments: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, step: int, profile: NetworkProfile) -> OptimizerFound:
        """Return those of a sample; parameters that its step did not change are left out."""
        seen = ((one.name, one.update_norm or 0.0, one) for one in profile.parameters)
        moved = [each for each in seen if 0 < each[1] < math.inf]
        return cls(
            step,
            # A parameter that was zero has no ratio.
            {name: norm / one.update_ratio if one.update_ratio else 0.0 for name, norm, one in moved},
            {name: norm for name, norm, _ in moved},
            {name: one.second_moment_norm for name, _, one in moved if one.second_moment_norm},
        )

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> OptimizerFound:
        """Return what was written as a mapping."""
        numbers = ({name: float(one) for name, one in state[part].items()} for part in ("norms", "updates", "moments"))
        return cls(int(state["step"]), *numbers)

    def outside_change(self, last: OptimizerFound) -> dict[str, float]:
        """Return by which share each norm changed since the last sample beyond what the optimizer's steps explain."""
        steps = max(self.step - last.step, 1)
        found: dict[str, float] = {}
        for name, norm in self.norms.items():
            if last.norms.get(name):
                explained = _SLACK * steps * max(self.updates[name], last.updates[name])
                found[name] = max(abs(norm - last.norms[name]) - explained, 0.0) / last.norms[name]
        return found

    def update_per_gradient(self, rate: float, gradients: Mapping[str, float]) -> dict[str, float]:
        """Return what the step changed at each parameter, over the learning rate and the norm of the gradient."""
        pairs = ((name, rate * gradients.get(name, 0.0)) for name in self.updates)
        return {name: self.updates[name] / size for name, size in pairs if 0 < size < math.inf}

    def moment_left(self, last: OptimizerFound, decay: float) -> dict[str, float]:
        """Return each norm of Adam's mean of the squared gradient, over what is left of that of the last sample.

        `decay`: the share that the optimizer's steps since then leave, at least.
        """
        left = {name: decay * norm for name, norm in last.moments.items()}
        return {name: norm / left[name] for name, norm in self.moments.items() if left.get(name, 0.0) > 0}
