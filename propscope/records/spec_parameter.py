"""`SpecParameter`: one parameter that a spec string such as `leaky_relu:negative_slope=0.2` may set."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SpecParameter:
    """A parameter by name: a number within [low, high], or one of `choices`; `above` excludes `low` itself.

    Where `default` of a number is a word, such as "auto", that word is valid too.
    """

    name: str
    default: float | str
    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    choices: tuple[str, ...] = ()

    @property
    def valid(self) -> str:
        """The valid values, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        lower = f"{'above' if self.above else 'of at least'} {self.low:g}" if math.isfinite(self.low) else ""
        upper = f"at most {self.high:g}" if math.isfinite(self.high) else ""
        number = " ".join(("a finite number", " and ".join(filter(None, (lower, upper))))).strip()
        return f"{number}, or {self.default}" if isinstance(self.default, str) else number
