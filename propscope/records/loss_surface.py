"""`LossSurface`: the loss of a network on a plane through its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from propscope.errors import InputError
from propscope.records.network import Floats


@dataclass(frozen=True, slots=True, eq=False)
class LossSurface:
    """The loss around a network's weights w, on the plane that two directions d and e span.

    `losses[row, column]` is the loss at w + steps[column] d + steps[row] e, shape (steps, steps), NaN or Inf where it
    is not finite. `steps` ascends from -reach to reach, with 0 in the middle, where the network stands. A step of 1
    moves the weights of each unit by as much as their own norm. `name` says which network it is.

    Raises `InputError` for shapes that do not fit and for steps without a middle at 0.
    """

    steps: Floats
    losses: Floats
    name: str = ""

    def __post_init__(self) -> None:
        count = len(self.steps)
        if not count % 2 or self.steps[count // 2] != 0:
            raise InputError(f"steps must be an odd number with 0 in the middle, got {self.steps.tolist()}")
        if self.losses.shape != (count, count):
            raise InputError(f"losses must have shape {(count, count)} for {count} steps, got {self.losses.shape}")

    @property
    def here(self) -> float:
        """The loss at the network's own weights."""
        middle = len(self.steps) // 2
        return float(self.losses[middle, middle])

    @property
    def lowest(self) -> float:
        """The lowest finite loss on the plane; NaN if there is none."""
        finite = self.losses[np.isfinite(self.losses)]
        return float(finite.min()) if finite.size else math.nan

    @property
    def highest(self) -> float:
        """The highest finite loss on the plane; NaN if there is none."""
        finite = self.losses[np.isfinite(self.losses)]
        return float(finite.max()) if finite.size else math.nan
