"""How much a signal gains from site to site, and which sites can be held against each other."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from propscope.records.network import NetworkProfile, Site
from propscope.records.summary import TensorSummary

_STRETCH = 4.0


@dataclass(frozen=True, slots=True)
class Gains:
    """A site's gains: `forward` and `backward` between signal sites, `step` over the site run before; None: no gain."""

    forward: float | None = None
    backward: float | None = None
    step: float | None = None


def site_gains(profile: NetworkProfile) -> tuple[Gains, ...]:
    """Return the gains of every site, in execution order; `forward` and `backward` are None off the signal sites."""
    signal = profile.signal_sites
    forward = dict(zip(map(id, signal), [None, *profile.forward_gains.tolist()], strict=True)) if signal else {}
    backward = dict(zip(map(id, signal), [*profile.backward_gains.tolist(), None], strict=True)) if signal else {}
    return tuple(
        Gains(_known(forward.get(id(site))), _known(backward.get(id(site))), _step(profile.sites, index))
        for index, site in enumerate(profile.sites)
    )


def is_chain(site: Site, other: Site) -> bool:
    """Return whether one of two signal sites follows the other in a stack of layers, so that their rms should be alike.

    They enter the same nonlinearity, spread over as many positions within a factor of 4 (pooling changes an element's
    rms without being at fault), and belong to the same stack: encoder and decoder, say, are two.
    """
    a, b = extent(site), extent(other)
    alike = bool(a and b) and 1 / _STRETCH <= a / b <= _STRETCH
    same = site.role == other.role == "pre-activation" and site.activation.lower() == other.activation.lower()
    return alike and same and same_stack(site, other)


def same_stack(site: Site, other: Site) -> bool:
    """Return whether two sites are in the same stack of layers, by their names: encoder.0.a and decoder.3.b are not."""
    return _stack(site.name) == _stack(other.name)


def _stack(name: str) -> str:
    """Return what comes before a name's first number that is a level by itself, or before its last level."""
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.split("#")[0].isdecimal()), len(parts) - 1)
    return name_pattern(".".join(parts[:number]))


def name_pattern(name: str, *, parts: int | None = None) -> str:
    """Return a name, or its last `parts`, with numbers left open: the same place in another layer has the same."""
    return re.sub(r"(?<![#\[\d])\d+", "*", name if parts is None else ".".join(name.split(".")[-parts:]))


def extent(site: Site) -> int:
    """Return over how many positions a sample spreads."""
    return math.prod(site.shape[2:] if len(site.shape) > 3 else site.shape[1:-1])


def is_norm(site: Site) -> bool:
    """Return whether the site is the output of a norm."""
    # A norm's output that enters a nonlinearity has the role of a pre-activation.
    return site.role == "norm" or "norm" in site.kind.lower()


def is_sound(summary: TensorSummary) -> bool:
    """Return whether a summary is of values that are all finite, and not all zero."""
    return bool(summary.count) and not summary.nonfinite_count and summary.rms > 0


def _step(sites: tuple[Site, ...], index: int) -> float | None:
    here, before = sites[index].forward, sites[index - 1].forward if index else None
    if here is None or before is None or not is_sound(here) or not is_sound(before):
        return None
    return here.rms / before.rms


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
