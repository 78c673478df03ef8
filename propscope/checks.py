"""Numbers that a caller passed, checked: each error names the parameter, the value and what is valid."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from propscope.errors import InputError


def number(name: str, value: Any, *, low: float = 0.0, high: float = math.inf, above: bool = False) -> float:
    """Return a finite float within [low, high], or above low; raises `InputError`."""
    try:
        found = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    inside = low < found if above else low <= found
    if not (math.isfinite(found) and inside and found <= high):
        upper = f" and at most {high:g}" if math.isfinite(high) else ""
        shown = f"{found:g}" if isinstance(value, float) else repr(value)
        raise InputError(
            f"{name} is {shown}; valid is a finite number {'above' if above else 'of at least'} {low:g}{upper}"
        )
    return found


def numbers(name: str, values: Any) -> NDArray[np.float64]:
    """Return an array of finite numbers of at least 0; raises `InputError` with the first that is not."""
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} is {values!r}; valid are finite numbers of at least 0") from None
    bad = ~(np.isfinite(found) & (found >= 0))
    if bad.any():
        raise InputError(f"{name} is {found[bad].flat[0]:g}; valid is a finite number of at least 0")
    return found


def count(name: str, value: Any) -> int:
    """Return a whole number of at least 1; raises `InputError`."""
    try:
        found = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = -1
    if found < 1:
        raise InputError(f"{name} is {value!r}; valid is a whole number of at least 1")
    return found


def counts(name: str, values: Iterable[Any]) -> tuple[int, ...]:
    """Return whole numbers of at least 1, one or more; raises `InputError`."""
    try:
        given = tuple(values)
    except TypeError:
        given = ()
    if not given or isinstance(values, (str, bytes)):
        raise InputError(f"{name} is {values!r}; valid is one or more whole numbers of at least 1")
    return tuple(count(name, value) for value in given)


def one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return a value that is one of the choices; raises `InputError` that lists them."""
    valid = tuple(choices)
    if value not in valid:
        raise InputError(f"{name} must be one of {', '.join(valid)}, got {value!r}")
    return str(value)
