"""The sites of a file before schema 3 under the names that they have today.

Sites of functions were numbered within the module that ran them ("relu#3"); now they are named after the layer whose
weights made their value ("fc3.relu").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from propscope.records.network import NetworkProfile


def renamed(old: NetworkProfile, new: NetworkProfile) -> NetworkProfile:
    """Return an older profile of a network with the names that a newer one of it has.

    Sites whose name only one of the two has are paired by kind, by shape of a sample, and by their order among equals,
    where both have as many. A profile that knows the parents of its sites is no older one, and is returned as it is.
    """
    names = _names(old, new)
    if not names:
        return old
    return replace(old, sites=tuple(replace(site, name=names.get(site.name, site.name)) for site in old.sites))


def _names(old: NetworkProfile, new: NetworkProfile) -> Mapping[str, str]:
    if any(site.parents is not None for site in old.sites) or all(site.parents is None for site in new.sites):
        return {}
    before, after = _alike(old, new), _alike(new, old)
    pairs = (zip(before[key], after[key], strict=True) for key in before if len(before[key]) == len(after.get(key, ())))
    return {name: today for pair in pairs for name, today in pair}


def _alike(profile: NetworkProfile, other: NetworkProfile) -> Mapping[tuple[str, tuple[int, ...]], list[str]]:
    """Return the names that only the first profile has, by kind and shape of a sample."""
    known = {site.name for site in other.sites}
    found: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for site in profile.without_inputs.sites:
        if site.name not in known:
            found.setdefault((site.kind, site.shape[1:]), []).append(site.name)
    return found
