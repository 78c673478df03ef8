"""`PhaseChart`: an order-to-chaos diagram with the critical line and where initializers stand, computed elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an initializer stands: `name`, and sigma_w^2 and sigma_b^2 of a network that it fills."""

    name: str
    weight_variance: float
    bias_variance: float


@dataclass(frozen=True, slots=True, eq=False)
class PhaseChart:
    """The plane of sigma_w^2 and sigma_b^2 of an `activation`, networks of infinite width.

    Over `bias_variance` (n_b,) and `weight_variance` (n_w,), ascending, the middles of the cells that fill the plane.
    `q`, where the variance settles (infinite where it diverges), `chi`, the squared gradient's factor per layer there,
    and `correlation_depth`, xi_c in layers (infinite at criticality), have shape (n_b, n_w).

    The critical line: `line_weight`, `line_bias`, arrays of one shape, and `line_stable`, whether the variance settles
    there; empty, with the reason in `no_line`, where there is none. Where all of it is one point, that point.
    `critical`: the critical point to initialize at, or None. `standings`: the initializers, and `without_place` names
    and reasons of those that have no place in the plane.
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
    critical: Standing | None
    standings: tuple[Standing, ...]
    without_place: tuple[tuple[str, str], ...]

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
