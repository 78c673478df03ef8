"""Remedies carried out and judged: networks of the grid made again, existing models mended on a copy."""

from propscope.mending.centre import centre
from propscope.mending.model import carry_out, mend
from propscope.mending.record import Mending, State, Trial
from propscope.mending.verify import verify

__all__ = ["Mending", "State", "Trial", "carry_out", "centre", "mend", "verify"]
