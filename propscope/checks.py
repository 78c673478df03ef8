"""The checks of arguments: each error names the parameter, what it must be, and what it got.

A number of Python's or numpy's own types passes; True, False and text do not, even where they would convert.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from propscope.errors import InputError


def number(
    name: str,
    value: Any,
    *,
    low: float = 0.0,
    above: bool = False,
    high: float = math.inf,
    below: bool = False,
    what: str = "a finite number",
    hint: str = "",
) -> float:
    """Return a finite float of at least `low` and at most `high`; `above` and `below` exclude these ends.

    `what` is the noun of the error. Raises `InputError`.
    """
    try:
        found = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    inside = (low < found if above else low <= found) and (found < high if below else found <= high)
    if not (math.isfinite(found) and inside):
        lower = f"{'above' if above else 'of at least'} {low:g}" if math.isfinite(low) else ""
        upper = f"{'below' if below else 'at most'} {high:g}" if math.isfinite(high) else ""
        bounds = " and ".join(filter(None, (lower, upper)))
        raise InputError(f"{name} must be {f'{what} {bounds}'.strip()}, got {shown(value)}", hint=hint)
    return found


def numbers(name: str, values: Any) -> NDArray[np.float64]:
    """Return an array of finite numbers of at least 0; raises `InputError` with the first that is not."""
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be finite numbers of at least 0, got {shown(values)}") from None
    bad = ~(np.isfinite(found) & (found >= 0))
    if bad.any():
        raise InputError(f"{name} must be finite numbers of at least 0, got {found[bad].flat[0]:g}")
    return found


def count(name: str, value: Any, *, least: int = 1, also: str = "", hint: str = "") -> int:
    """Return a whole number of at least `least`; `also` adds to the error what else is valid. Raises `InputError`."""
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None or found < least:
        raise InputError(f"{name} must be a whole number of at least {least}{also}, got {shown(value)}", hint=hint)
    return found


def one_of(name: str, value: Any, choices: Collection[str], *, hint: str = "") -> str:
    """Return `value` where it is one of `choices`; raises `InputError` with all of them otherwise."""
    if not isinstance(value, str) or value not in choices:
        *others, last = (f'"{choice}"' for choice in choices)
        valid = f"{', '.join(others)} or {last}" if others else last
        raise InputError(f"{name} must be {valid}, got {shown(value)}", hint=hint)
    return value


def shown(value: Any) -> str:
    """Return a value as an error quotes it, text in double quotes."""
    if isinstance(value, str):
        return f'"{value}"'
    return repr(float(value)) if isinstance(value, float) else repr(value)


def counts(name: str, values: Iterable[Any]) -> tuple[int, ...]:
    """Return one or more whole numbers of at least 1; raises `InputError`."""
    try:
        given = tuple(values)
    except TypeError:
        given = ()
    if not given or isinstance(values, (str, bytes)):
        raise InputError(f"{name} must be one or more whole numbers of at least 1, got {shown(values)}")
    return tuple(count(name, value) for value in given)
