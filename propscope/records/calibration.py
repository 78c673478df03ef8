"""`Calibration`: what was scaled, by how much, and what was left alone and why."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from propscope.records.display import as_html, as_text

# Below this share of the variance between samples, a layer of unit variance tells its samples hardly apart.
ALIKE = 0.01


@dataclass(frozen=True, slots=True)
class ScaledWeight:
    """A weight that is calibrated: its `factor` in all, and the standard deviation that it gives before and after.

    `std_before` is met in turn, with every layer ahead of it calibrated already (and after an orthogonal start, where
    one was asked for): it tells what this layer alone does to a signal of the wanted size. `factor` is 1 and `steps` 0
    where it was within the tolerance already. `calls`: how often its module ran in the forward pass in which it was
    calibrated, of which the first one counts. `sample_fraction`: the share of the variance after that lies within
    units, over samples and positions; near 0, the layer gives every sample the same.
    """

    name: str
    kind: str
    factor: float
    std_before: float
    std_after: float
    target: float
    steps: int
    calls: int
    sample_fraction: float


@dataclass(frozen=True, slots=True)
class SkippedWeight:
    """A weight that was left alone, and why."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """What `calibrate` did: `layers` in execution order, `left`, and the number of forward `passes` of the model.

    `reruns`: how often a single layer was run again inside such a pass. Holds a copy of every weight that was changed,
    for `undo`; the copies go with the record.
    """

    layers: tuple[ScaledWeight, ...]
    left: tuple[SkippedWeight, ...]
    passes: int
    reruns: int
    restore: Callable[[], None] | None = field(default=None, repr=False, compare=False)

    def undo(self) -> None:
        """Restore the weights bit for bit, in place.

        Raises `InputError`, and changes nothing, where a weight is no longer what `calibrate` left: after a training
        step, after loading a state, and after an undo.
        """
        if self.restore is not None:
            self.restore()

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    @property
    def largest_error(self) -> float:
        """The largest abs(std_after / target - 1) of all layers; nan without any."""
        return max((abs(layer.std_after / layer.target - 1) for layer in self.layers), default=math.nan)
