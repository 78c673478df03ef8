"""By which factor the signal changes from site to site, and which sites are comparable."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from propscope.records.network import NetworkProfile, Site
from propscope.records.summary import TensorSummary

_STRETCH = 4.0


@dataclass(frozen=True, slots=True)
class Gains:
    """The gains of a site, None where it has none.

    `forward`: rms over that of the signal site before it. `backward`: rms of the gradient over that of the signal site
    after it. `step`: forward rms over that of the site that ran just before, whatever its role; an input is none.
    """

    forward: float | None = None
    backward: float | None = None
    step: float | None = None


def site_gains(profile: NetworkProfile) -> tuple[Gains, ...]:
    """Return the gains of every site, in execution order; only signal sites have `forward` and `backward`."""
    signal = profile.signal_sites
    forward = dict(zip(map(id, signal), [None, *profile.forward_gains.tolist()], strict=True)) if signal else {}
    backward = dict(zip(map(id, signal), [*profile.backward_gains.tolist(), None], strict=True)) if signal else {}
    return tuple(
        Gains(_known(forward.get(id(site))), _known(backward.get(id(site))), _step(profile.sites, index))
        for index, site in enumerate(profile.sites)
    )


def is_chain(site: Site, other: Site) -> bool:
    """Return whether two signal sites belong to one stack of layers, so that their rms should be alike.

    They must enter the same nonlinearity, have numbers of positions within a factor of 4 of each other (pooling changes
    an element's rms without being at fault), and have names of one stack: an encoder and a decoder are two stacks.
    """
    a, b = extent(site), extent(other)
    alike = bool(a and b) and 1 / _STRETCH <= a / b <= _STRETCH
    same = site.role == other.role == "pre-activation" and site.activation.lower() == other.activation.lower()
    return alike and same and same_stack(site, other)


def same_stack(site: Site, other: Site) -> bool:
    """Return whether two sites are in one stack of layers, by their names: encoder.0.a and decoder.3.b are not."""
    return stack_of(site) == stack_of(other)


def stack_of(site: Site) -> str:
    """Return the part of a site's name before its first level that is a number, or before its last without one."""
    parts = site.name.split(".")
    number = next((level for level, part in enumerate(parts) if part.split("#")[0].isdecimal()), len(parts) - 1)
    return name_pattern(".".join(parts[:number]))


def name_pattern(name: str, *, parts: int | None = None) -> str:
    """Return a name, or its last `parts` levels, with * for its numbers: one pattern for one place in all layers."""
    return re.sub(r"(?<![#\[\d])\d+", "*", name if parts is None else ".".join(name.split(".")[-parts:]))


def extent(site: Site) -> int:
    """Return the number of positions of a sample, such as the pixels of an image."""
    return math.prod(site.shape[2:] if len(site.shape) > 3 else site.shape[1:-1])


def is_norm(site: Site) -> bool:
    """Return whether the site is the output of a norm."""
    # The output of a norm that enters a nonlinearity has the role of a pre-activation.
    return site.role == "norm" or "norm" in site.kind.lower()


def is_sound(summary: TensorSummary) -> bool:
    """Return whether all values of a summary are finite and some are not zero."""
    return bool(summary.count) and not summary.nonfinite_count and summary.rms > 0


def _step(sites: tuple[Site, ...], index: int) -> float | None:
    here, before = sites[index].forward, sites[index - 1].forward if index else None
    if index and sites[index - 1].role == "input":
        return None
    if here is None or before is None or not is_sound(here) or not is_sound(before):
        return None
    return here.rms / before.rms


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
