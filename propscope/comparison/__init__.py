"""`compare`: where two networks, or two trainings, part first, and whether they began alike."""

from propscope.comparison.compare import compare, compare_networks

__all__ = ["compare", "compare_networks"]
