"""What `inspect --json` prints of a profile."""

from __future__ import annotations

from typing import Any

from propscope.diagnosis import Diagnosis
from propscope.records import NetworkProfile, TensorSummary
from propscope.records.precision import FORMATS, recommended_loss_scale, summary_headroom
from propscope.report.documents import diagnosis_document, profile_document


def inspection_document(shown: NetworkProfile, diagnosis: Diagnosis) -> dict[str, Any]:
    """Return what was seen as one object: verdict and findings, the precision, the profile's row, its sites."""
    return {
        **diagnosis_document(diagnosis),
        "precision": {
            "recommended_loss_scale": recommended_loss_scale(shown),
            "sites": [
                {"name": site.name, "forward": _headroom(site.forward), "backward": _headroom(site.backward)}
                for site in shown.sites
            ],
        },
        **profile_document(shown),
    }


def _headroom(summary: TensorSummary | None) -> dict[str, Any] | None:
    shares = {entry.name: summary_headroom(summary, entry) for entry in FORMATS}
    if None in shares.values():
        return None
    return {
        name: {"overflow": part.overflow, "subnormal": part.subnormal, "zero": part.zero}
        for name, part in shares.items()
        if part is not None
    }
