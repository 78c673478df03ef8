"""What one finding explains of the others: a layer at fault comes before all that it brings about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from propscope.diagnosis.evidence import Evidence, module_of
from propscope.diagnosis.rules import Rule
from propscope.records.finding import SEVERITIES, Finding


def graded(evidence: Evidence, found: Sequence[tuple[Rule, Finding]]) -> list[Finding]:
    """Return the findings, each local one at least as severe as the worst that it can have brought about.

    A layer scales what is behind it, and the gradient of what is before it. Sorted by severity, with the order of rules
    kept, the cause then stands first: that nothing passes is no worse than the zero weights that let nothing pass.
    """
    places = _places(evidence)
    graded = []
    for number, (rule, finding) in enumerate(found):
        at = _first(finding, places)
        if rule.local and finding.severity != "note" and at is not None:
            effects = [later.severity for _, later in found[number + 1 :] if _is_effect(later, at, places)]
            worst = min([finding.severity, *effects], key=SEVERITIES.index)
            finding = replace(finding, severity=worst)
        graded.append(finding)
    return graded


def _is_effect(finding: Finding, at: int, places: dict[str, int]) -> bool:
    first = _first(finding, places)
    if first is None:
        return False
    return first <= at if finding.direction == "backward" else first >= at


def _first(finding: Finding, places: dict[str, int]) -> int | None:
    """Return the position of the first of a finding's sites in the order of execution; None where it has none."""
    known = [places[name] for name in finding.sites if name in places]
    return min(known, default=None)


def _places(evidence: Evidence) -> dict[str, int]:
    """Return the position of each site by name, and of each module by its first site."""
    places = {site.name: index for index, site in enumerate(evidence.sites)}
    for index, site in enumerate(evidence.sites):
        places.setdefault(module_of(site.name), index)
    return places
