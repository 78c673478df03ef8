"""Whether enough was seen to call a network healthy."""

from __future__ import annotations

from propscope.diagnosis.evidence import Evidence


def unmeasured(evidence: Evidence) -> str:
    """Return why too little was seen to call the network healthy, "" where enough was."""
    return ""
