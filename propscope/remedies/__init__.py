"""Remedies carried out and judged: networks of the grid made again, existing models mended on a copy."""

from propscope.records.remedy_trials import RemedyTrials, State, Trial
from propscope.remedies.apply import carry_out, mend
from propscope.remedies.centre import centre
from propscope.remedies.verify import verify

__all__ = ["RemedyTrials", "State", "Trial", "carry_out", "centre", "mend", "verify"]
