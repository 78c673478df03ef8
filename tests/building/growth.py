"""How the work of a function grows, counted in lines of Python, which no other load of the machine changes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import deepcopy
from types import FrameType
from typing import Any


def growth(work: Callable[[Any], object], small: Any, large: Any) -> float:
    """Return how many times as many lines of Python `work(large)` runs as `work(small)`, when it ran before.

    It ran on a copy: what records keep of themselves, as their graph, is made anew for both.
    """
    work(deepcopy(small))
    return _lines(work, large) / _lines(work, small)


def _lines(work: Callable[[Any], object], given: Any) -> int:
    count = 0

    def step(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += 1
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        work(given)
    finally:
        sys.settrace(before)
    return count
