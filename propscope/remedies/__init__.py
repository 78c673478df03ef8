"""Remedies applied and judged: on copies of existing models, and on networks of the grid built again."""

from propscope.records.remedy_trials import RemedyTrials, State, Trial
from propscope.remedies.apply import apply_remedy, try_remedies
from propscope.remedies.calibration import calibrate
from propscope.remedies.centre import centre
from propscope.remedies.rebuild import verify
from propscope.remedies.standardize import standardized

__all__ = [
    "RemedyTrials",
    "State",
    "Trial",
    "apply_remedy",
    "calibrate",
    "centre",
    "standardized",
    "try_remedies",
    "verify",
]
