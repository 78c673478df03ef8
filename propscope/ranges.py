"""Numbers written as text, the same on the command line and in Python: `10,20`, `10..50:10`, `0.5..2:16`.

A list is separated by commas, and each entry is a number or a range. A range of whole numbers is FIRST..LAST:STEP, or
FIRST..LAST for a step of 1; LAST is in it where a step ends there. A range of real numbers is FIRST..LAST:COUNT: so
many numbers, evenly spaced, both ends among them. Where both are needed, as for a residual factor, numbers are real.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

from propscope.errors import InputError

N = TypeVar("N", int, float)

# No sweep has so many values of one axis, and a list of more would cost memory before a grid refuses it.
_MOST = 1_000_000
# Significant digits, fewer than a float's 15 or 16, so that a step of 0.1 gives 0.3, not 0.30000000000000004.
_DIGITS = 12


def whole_numbers(name: str, text: str) -> tuple[int, ...]:
    """Return the whole numbers of a list of numbers and ranges FIRST..LAST:STEP; `name` begins the errors.

    Raises `InputError` for anything else, and for a range that is empty, backwards or longer than a million numbers.
    """
    return _read(name, text, int, _steps, "a list of whole numbers and ranges FIRST..LAST:STEP", "10,20 or 10..50:10")


def real_numbers(name: str, text: str) -> tuple[float, ...]:
    """Return the numbers of a list of numbers and ranges FIRST..LAST:COUNT; `name` begins the errors.

    Raises `InputError` for anything else, such as NaN, and for a range that is empty, backwards or longer than a
    million numbers.
    """
    return _read(name, text, _real, _evenly, "a list of numbers and ranges FIRST..LAST:COUNT", "0.5,1 or 0.5..2:16")


def _read(
    name: str,
    text: str,
    read: Callable[[str], N],
    fill: Callable[[N, N, str], Sequence[N]],
    valid: str,
    example: str,
) -> tuple[N, ...]:
    found: list[N] = []
    for part in text.split(","):
        first, dots, rest = part.strip().partition("..")
        last, _, detail = rest.partition(":")
        try:
            # A colon with no number after it is a mistake.
            if rest.endswith(":"):
                raise ValueError
            found += fill(read(first), read(last), detail) if dots else [read(first)]
        except (ValueError, OverflowError):
            raise InputError(f'{name} must be {valid}, got "{text}"', hint=f"for example {example}") from None
        except _RangeError as error:
            raise InputError(
                f'{name} has the range "{part.strip()}", which {error}', hint=f"for example {example}"
            ) from None
    return tuple(found)


class _RangeError(Exception):
    """A range that reads well and means nothing."""


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _steps(first: int, last: int, detail: str) -> range:
    step = int(detail) if detail else 1
    if step < 1:
        raise _RangeError(f"has a step of {step}: the step must be at least 1")
    _ascending(first, last)
    _few((last - first) // step + 1)
    return range(first, last + 1, step)


def _evenly(first: float, last: float, detail: str) -> list[float]:
    if not detail:
        raise _RangeError("says no number of values: write FIRST..LAST:COUNT")
    count = int(detail)
    if count < 2:
        raise _RangeError(f"asks for {count} values: the number must be at least 2")
    _ascending(first, last)
    _few(count)
    exact = [first * (1 - i / (count - 1)) + last * (i / (count - 1)) for i in range(count)]
    short = [first, *(float(f"{value:.{_DIGITS}g}") for value in exact[1:-1]), last]
    for values in (short, exact):
        if all(one < other for one, other in pairwise(values)):
            return values
    raise _RangeError(f"is too narrow for {count} different numbers")


def _ascending(first: float, last: float) -> None:
    if first > last:
        raise _RangeError("runs backwards: write the smaller number first")


def _few(count: int) -> None:
    if count > _MOST:
        raise _RangeError(f"has more than {_MOST:,} values")
