"""What to expect of an optimizer before the first step: whether it trains the network, and how near the limit that is.

A load is the logarithm of what stands in the way, over that of what the optimizer bears: 0 where nothing does, 1 at the
limit. Of several, the largest counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from propscope.diagnosis import limits
from propscope.diagnosis.evidence import Evidence
from propscope.diagnosis.propagation import borne
from propscope.records.finding import Expected, Finding, Optimizer
from propscope.records.network import DIRECTIONS


def loads(evidence: Evidence, findings: Sequence[Finding]) -> dict[Optimizer, float]:
    """Return the load of each optimizer; none where no gradient was seen.

    What the rules acquit, as growth that norms make good, is not held against Adam: without a strained or broken
    finding its load stays below that of a slow training. A broken finding is at the limit of both.
    """
    if all(site.backward is None for site in evidence.sites):
        return {}
    of_chains = [*_of_chains(evidence)]
    adam, sgd = (max((load[which] for load in of_chains), default=0.0) for which in (0, 1))
    # No optimizer tells apart what has become alike.
    collapsed = [finding.evidence for finding in findings if finding.kind == "collapse"]
    alike = max((known.get("adam_load", 0.0) for known in collapsed), default=0.0)
    alike_of_sgd = max((known.get("sgd_load", 0.0) for known in collapsed), default=0.0)
    if not any("adam_load" in finding.evidence and finding.severity != "note" for finding in findings):
        adam = min(adam, math.nextafter(limits.SLOWED, 0))
    broken = 1.0 if any(finding.severity == "broken" for finding in findings) else 0.0
    return {"sgd": max(sgd, adam, alike_of_sgd, broken), "adam": max(adam, alike, broken)}


def expected(load: Mapping[Optimizer, float]) -> dict[Optimizer, Expected]:
    """Return the words for loads: "fails" from 1 on, "slow" from 0.6 on, else "trains"."""
    return {
        optimizer: "fails" if value >= 1 else "slow" if value >= limits.SLOWED else "trains"
        for optimizer, value in load.items()
    }


def _of_chains(evidence: Evidence) -> Iterator[tuple[float, float]]:
    """Yield the loads of Adam and SGD that each change of size over the depth is."""
    for chain in evidence.chains:
        for direction in DIRECTIONS:
            for rising in (True, False):
                stretch = chain.worst(direction, rising=rising)
                if stretch is None or (stretch.mean > 0) is not rising:
                    continue
                size = abs(stretch.mean)
                adam = size / borne(evidence, chain, "exploding" if rising else "vanishing", direction, stretch)
                yield adam, size / (limits.SGD_EXPLODED if rising else limits.SGD_VANISHED)
