"""What the margin's rules say of the limits is what the rules hold to."""

import math
import re

from propscope.diagnosis import limits
from propscope.report.verdict import GRID_NOTE, mark_rules


def numbers(word):
    """The numbers in the rule of a mark."""
    return [float(text) for text in re.findall(r"(?<!e\^)\d+(?:\.\d+)?", mark_rules([word])[0])]


def test_the_limits_of_the_marks():
    beyond, below = numbers("x98")
    assert round(math.exp(limits.ODD)) == beyond
    assert 1 / beyond == below
    assert numbers("vanishing") == [round(math.exp(limits.STRAINED))]
    assert numbers("saturated") == [100 * limits.SATURATED]
    assert numbers("inactive") == [100 * limits.INACTIVE]
    assert numbers("dead") == [100 * limits.DEAD]
    assert numbers("alike") == [round(100 * limits.COLLAPSING, 2)]


def test_the_limits_of_the_verdict():
    assert f"e^{limits.STRAINED:g} = {math.exp(limits.STRAINED):.0f}" in " ".join(GRID_NOTE)
