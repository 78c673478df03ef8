"""What stands behind a site: norms that give its signal another size, gates, or nothing but the output."""

from __future__ import annotations

import math

from propscope.diagnosis import limits
from propscope.diagnosis.evidence import Evidence
from propscope.records.gains import is_norm, is_sound, vector_length
from propscope.records.network import NetworkProfile, Site

# These hand on the size of what enters them.
_SCALING = frozenset(("relu", "leaky_relu", "leakyrelu", "identity"))

_SUMMING = frozenset(("sum", "matmul", "bmm", "einsum"))
_OPENING = ("sigmoid", "hardsigmoid")


class Behind:
    """What the sites of a profile feed; all sites by position. Nothing is known to be behind where the graph is not."""

    def __init__(self, profile: NetworkProfile) -> None:
        self._sites = profile.sites
        self._known = profile.graph.known
        self._outputs = profile.graph.outputs if self._known else ((),) * len(profile.sites)
        # Whether a site feeds no layer with weights.
        self._last = [True] * len(profile.sites)
        for index in reversed(range(len(self._last))):
            self._last[index] = all(self._last[at] and not self._sites[at].parameters for at in self._outputs[index])

    def fed(self, index: int) -> list[int]:
        """Return the sites that a site feeds directly, or past what only hands on its size, such as a dropout."""
        found, waiting = set(), [*self._outputs[index]]
        while waiting:
            at = waiting.pop()
            if self._passes(at) and self._outputs[at]:
                waiting += self._outputs[at]
            else:
                found.add(at)
        return sorted(found)

    def is_absorbed(self, index: int, *, through_sums: bool = False) -> bool:
        """Return whether all that a site feeds are norms, whose values have a size and tell samples apart.

        `through_sums`: what feeds only such norms may be a sum.
        """
        fed = self.fed(index)
        return bool(fed) and all(
            self.is_absorbed(at, through_sums=True)
            if through_sums and self._sites[at].branch_share is not None
            else self.is_sound_norm(at)
            for at in fed
        )

    def is_sound_norm(self, index: int) -> bool:
        """Return whether a site is a norm whose values have a size and tell samples apart."""
        return is_norm(self._sites[index]) and _tells_apart(self._sites[index])

    def is_gate(self, index: int) -> bool:
        """Return whether a sigmoid of the values of a site only multiplies others."""
        if self._sites[index].activation.lower() not in _OPENING:
            return False
        names = {self._sites[at].name for at in self._outputs[index]}
        fed = {at for near in self._outputs[index] for at in self._outputs[near]}
        edges = [parent for at in fed for parent in self._sites[at].parents or () if parent.name in names]
        return bool(edges) and all("mul" in parent.operations for parent in edges)

    def is_exponent(self, index: int) -> bool:
        """Return whether the values of a site are the logarithm of something, as of a variance: all feed an exp."""
        name = self._sites[index].name
        ways = [p.operations for at in self._outputs[index] for p in self._sites[at].parents or () if p.name == name]
        # A softmax that is written out takes the exponents of sums of products.
        return bool(ways) and all("exp" in way and _SUMMING.isdisjoint(way[: way.index("exp")]) for way in ways)

    def is_output(self, index: int) -> bool:
        """Return whether no layer with weights follows a site."""
        return self._last[index] if self._known else self._sites[index].role == "output"

    def ends(self, index: int) -> bool:
        """Return whether it is known that a site feeds no other one."""
        return self._known and not self._outputs[index]

    def is_branch_end(self, index: int) -> bool:
        """Return whether all that a site feeds are residual sums."""
        fed = self.fed(index)
        return bool(fed) and all(self._sites[at].branch_share is not None for at in fed)

    def _passes(self, index: int) -> bool:
        """Return whether a site hands on the size of its only input."""
        site = self._sites[index]
        if site.parameters or len(site.parents or ()) != 1 or is_norm(site) or site.role in ("attention", "embedding"):
            return False
        return site.role != "activation" or site.kind.lower() in _SCALING


def behind_of(evidence: Evidence) -> Behind:
    """Return what stands behind the sites of the first member."""
    return Behind(evidence.members[0])


def _tells_apart(site: Site) -> bool:
    if site.forward is None or not is_sound(site.forward) or site.forward.rms < math.exp(-limits.STRAINED):
        return False
    # Two vectors of so many features are not alike by chance.
    if vector_length(site) < limits.FEATURES:
        return True
    rank = math.inf if site.effective_rank is None else site.effective_rank
    cosine = 0.0 if site.mean_cosine is None else site.mean_cosine
    return min(1 - cosine, limits.share_of_rank(rank)) >= limits.OFF_CENTRE
