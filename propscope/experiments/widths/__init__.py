"""Networks of several widths: how the sizes in them, and what training changes, grow with the width."""

from propscope.experiments.widths.check import width_check

__all__ = ["width_check"]
