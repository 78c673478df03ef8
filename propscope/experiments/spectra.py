"""The Jacobian of a grid's network, taken beside its profile."""

from __future__ import annotations

import json
from dataclasses import replace

import torch
from torch import Tensor

from propscope.networks import MLP
from propscope.records.network import NetworkProfile, Site
from propscope.spectra.jacobian import jacobian


def with_jacobian(profile: NetworkProfile, net: MLP, x: Tensor, *, samples: int, seed: int) -> NetworkProfile:
    """Return the profile with the Jacobian's singular values at the pre-activations and the output of `net`.

    In float64, where the device has it, with the first `samples` rows of `x`: products of many layers have singular
    values that float32 cannot tell from 0.
    """
    wide = None if x.device.type == "mps" else torch.float64
    found = jacobian(net, x, samples=samples, dtype=wide, seed=seed)
    taken = {site.name: site for site in found.sites}
    spec = json.loads(profile.provenance.spec) | json.loads(found.provenance.spec)
    return replace(
        profile,
        sites=tuple(_merged(site, taken.get(site.name)) for site in profile.sites),
        coverage=(*profile.coverage, *found.coverage),
        provenance=replace(profile.provenance, spec=json.dumps(spec)),
    )


def _merged(site: Site, taken: Site | None) -> Site:
    if taken is None:
        return site
    return replace(
        site,
        jacobian=taken.jacobian,
        jacobian_condition=taken.jacobian_condition,
        jacobian_square_variance=taken.jacobian_square_variance,
    )
