"""`PhaseChart`: an order-to-chaos diagram with its critical line and the places of initializers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PhasePoint:
    """The point of an initializer in the plane: its `name`, and sigma_w^2 and sigma_b^2 of a network that it fills."""

    name: str
    weight_variance: float
    bias_variance: float


@dataclass(frozen=True, slots=True)
class MeasuredDepth:
    """What networks with these variances showed: `correlation_depth`, xi_c in layers; NaN where they did not tell."""

    weight_variance: float
    bias_variance: float
    correlation_depth: float


@dataclass(frozen=True, slots=True, eq=False)
class PhaseChart:
    """The plane of sigma_w^2 and sigma_b^2 for networks of infinite width with one `activation`.

    `weight_variance` (n_w,) and `bias_variance` (n_b,) are the middles of the cells that fill the plane, ascending.
    Of shape (n_b, n_w): `q`, the variance that is reached after many layers (infinite where it diverges); `chi`, the
    factor per layer of the mean squared gradient there; `correlation_depth`, xi_c in layers (infinite at criticality).

    `line_weight` and `line_bias`, arrays of one shape, are the points of the critical line, and `line_stable` says
    whether the variance settles at each. They are empty where there is no line, with the reason in `no_line`, and hold
    one point where the line is one point. `critical`: the critical point to initialize at, or None. `initializers`:
    the points of the initializers; `without_point`: the name and the reason of each one that has none.
    """

    activation: str
    weight_variance: Floats
    bias_variance: Floats
    q: Floats
    chi: Floats
    correlation_depth: Floats
    line_weight: Floats
    line_bias: Floats
    line_stable: NDArray[np.bool_]
    no_line: str
    critical: PhasePoint | None
    initializers: tuple[PhasePoint, ...]
    without_point: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        cells = f"{self.weight_variance.size} x {self.bias_variance.size} cells"
        return f"PhaseChart({self.activation}, {cells}, {len(self.initializers)} initializers)"

    @property
    def weight_limits(self) -> tuple[float, float]:
        """The left and right ends of the plane."""
        return _ends(self.weight_variance)

    @property
    def bias_limits(self) -> tuple[float, float]:
        """The lower and upper ends of the plane."""
        return _ends(self.bias_variance)


def _ends(middles: Floats) -> tuple[float, float]:
    half = (middles[-1] - middles[0]) / (2 * (middles.size - 1))
    # Without the rounding errors of the middles, which an axis would show.
    return round(float(middles[0] - half), 12) + 0.0, round(float(middles[-1] + half), 12)
