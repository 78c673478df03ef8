"""What `inspect --json` prints of a profile."""

from __future__ import annotations

from typing import Any

from propscope.cli.output import profile_document
from propscope.results import NetworkProfile, TensorSummary
from propscope.results.precision import FORMATS, recommended_loss_scale, summary_headroom
from propscope.results.problems import Problem, find_problems, first_problem


def inspection_document(shown: NetworkProfile) -> dict[str, Any]:
    """Return what was seen as one object: the problems, the precision, the profile's row, sites and parameters."""
    problems = find_problems(shown)
    first = first_problem(problems)

    def plain(problem: Problem) -> dict[str, Any]:
        return {name: getattr(problem, name) for name in problem.__dataclass_fields__}

    return {
        "first_problem": None if first is None else plain(first),
        "problems": [plain(problem) for problem in problems],
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
