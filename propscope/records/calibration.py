"""`Calibration`: the weights that were scaled, by how much, and those that were left alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from propscope.records.display import as_html, as_text

# If less than this share of the variance lies between samples, a layer hardly distinguishes them.
ALIKE = 0.01


@dataclass(frozen=True, slots=True)
class ScaledWeight:
    """A calibrated weight: its total `factor`, and the standard deviation of its output before and after.

    `std_before` is measured when all layers before it are calibrated (and after an orthogonal start, if requested), so
    it shows what this layer does to a signal of the wanted size. `factor` is 1 and `steps` is 0 where it was within the
    tolerance already. `calls`: how often its module ran in the forward pass in which it was calibrated; only the first
    call counts. `sample_fraction`: the share of the variance afterwards that lies within units, over samples and
    positions; near 0, the layer gives all samples the same output.
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
    """A weight that was left alone, and the `reason`."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """The result of `calibrate`: scaled `layers` in execution order, `skipped` weights, number of forward `passes`.

    `reruns`: how often single layers ran again inside these passes. The record holds a copy of every weight that was
    changed, for `undo`; the copies are freed with it.
    """

    layers: tuple[ScaledWeight, ...]
    skipped: tuple[SkippedWeight, ...]
    passes: int
    reruns: int
    restore: Callable[[], None] | None = field(default=None, repr=False, compare=False)

    @property
    def left(self) -> tuple[SkippedWeight, ...]:
        """The old name of `skipped`, which goes with the next version."""
        warnings.warn("Calibration.left is now Calibration.skipped", DeprecationWarning, stacklevel=2)
        return self.skipped

    def undo(self) -> None:
        """Restore the weights bit for bit, in place.

        Raises `InputError`, and changes nothing, where a weight has changed since `calibrate`: after a training step,
        after loading a state, or after an undo.
        """
        if self.restore is not None:
            self.restore()

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    @property
    def largest_error(self) -> float:
        """The largest abs(std_after / target - 1) of all layers; NaN without layers."""
        return max((abs(layer.std_after / layer.target - 1) for layer in self.layers), default=math.nan)
