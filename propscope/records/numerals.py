"""How messages and tables write numbers and lists: significant digits, percentages, numbers of things, names."""

from __future__ import annotations

import math
from collections.abc import Sequence


def number(value: float | int | None, digits: int = 3) -> str:
    """Return a number to `digits` significant digits, with an exponent outside 0.001 to 10^5; "-" for None, NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, int) or value == 0 or math.isinf(value):
        return str(value) if isinstance(value, int) else ("0" if value == 0 else ("inf" if value > 0 else "-inf"))
    if 1e-3 <= abs(value) < 1e5:
        rounded = float(f"{value:.{digits - 1}e}")
        places = max(digits - 1 - math.floor(math.log10(abs(rounded))), 0)
        return f"{value:.{places}f}"
    mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def counted(count: int, noun: str) -> str:
    """Return a number of things in words, such as 1 profile or 2 profiles."""
    return f"{count} {noun}{'s' * (count != 1)}"


def listed(names: Sequence[str], most: int) -> str:
    """Return the first `most` names with commas between them; dots stand for the others."""
    return ", ".join([*names[:most], *["..."] * (len(names) > most)])


def percent(share: float | None) -> str:
    """Return a share (0 to 1) in percent; "-" for None and NaN."""
    if share is None or math.isnan(share):
        return "-"
    if 0 < share < 0.01 or 0.99 < share < 1:
        return "<1%" if share < 0.5 else ">99%"
    return f"{100 * share:.0f}%"
