"""The correlation map of one variance for many correlations at once, by Hermite series where they converge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from propscope.theory.elementwise import Elementwise
from propscope.theory.quadrature import decorrelation, homogeneous_decorrelation, moments, nodes

Array = NDArray[np.float64]

_TERMS = 256
_ORDER = np.arange(_TERMS)[:, None]


def hermite_weights(activation: Elementwise, q: Array, slope: Array) -> Array:
    """Return a_k^2, k = 0 to 255, of phi(sqrt(q) z) = sum_k a_k He_k(z) / sqrt(k!), shape (q.size, 256).

    Then E[phi(u1) phi(u2)] = sum_k a_k^2 c^k (Mehler 1866; Daniely et al. 2016, section 3.3), and
    sum_k k a_k^2 = q D, which is `slope`: once it is reached the rest is 0 to rounding.
    """
    found = np.zeros((q.size, _TERMS))
    for part in np.array_split(np.argsort(q), max(1, q.size // 16)):
        z, weight, _ = nodes(activation, q[part])
        weighted = (activation.value(np.sqrt(q[part])[:, None, None] * z) * weight).reshape(part.size, -1)
        z = z.reshape(part.size, -1)
        # h_k = He_k / sqrt(k!): h_{k+1} = (z h_k - sqrt(k) h_{k-1}) / sqrt(k + 1).
        before, here = np.zeros_like(z), np.ones_like(z)
        for k in range(_TERMS):
            found[part, k] = np.einsum("qn,qn->q", weighted, here)
            if k % 16 == 15 and (slope[part] - found[part] ** 2 @ _ORDER[:, 0] <= 1e-14 * slope[part]).all():
                break
            before, here = here, (z * here - np.sqrt(k) * before) / np.sqrt(k + 1)
    return found**2


@dataclass(frozen=True, slots=True)
class CorrelationKernel:
    """`decorrelation` R(q, theta) at the q of shape (m,) that it is made for, and any theta.

    By the Hermite series where the remainder, which V and q D bound, is below `tolerance`, by the double integral
    elsewhere. `weights` (m, 256), `value` V and `slope` q D (m,). Made by `correlation_kernel`.
    """

    activation: Elementwise
    q: Array
    weights: Array
    value: Array
    slope: Array
    tolerance: float

    def at(self, row: int, theta: Array) -> Array:
        """Return R at q[row] and every theta in [0, pi], of theta's shape (k,)."""
        if self.activation.slopes is not None:
            return np.asarray(self.q[row] * homogeneous_decorrelation(self.activation.slopes, theta))
        weights, slope = self.weights[row], self.slope[row]
        count = 1 + int(np.flatnonzero(weights > 1e-18 * weights.sum())[-1])
        own, order = weights[:count], _ORDER[:count]
        gap, c = 2 * np.sin(theta / 2) ** 2, np.cos(theta)
        with np.errstate(divide="ignore", invalid="ignore"):
            # 1 - c^k without cancellation for c > 0.
            near = -np.expm1(order * np.log1p(-np.where(c > 0, gap, 0.0)))
            series = own @ (near if (c > 0).all() else np.where(c > 0, near, 1 - c**order))
            error = np.zeros(theta.shape)
            if abs(slope - weights @ _ORDER[:, 0]) > self.tolerance * slope:
                # The orders left out lose all of their correlation but for c^K of it.
                rest = max(float(self.value[row] - weights.sum()), 0.0)
                series = series + rest
                error = rest * np.abs(c) ** _TERMS / series
            found: Array = np.where(gap < 1e-18, slope, series / gap)
        for column in np.flatnonzero(~(error <= self.tolerance) & (gap >= 1e-18)):
            found[column] = decorrelation(self.activation, float(self.q[row]), float(theta[column]))
        return found


def correlation_kernel(activation: Elementwise, q: Array, *, tolerance: float = 1e-12) -> CorrelationKernel:
    """Return the kernel at every q > 0, shape (m,); `tolerance` is relative."""
    if activation.slopes is not None:
        return CorrelationKernel(activation, q, np.empty((q.size, 0)), q, q, tolerance)
    known = moments(activation, q)
    return CorrelationKernel(
        activation, q, hermite_weights(activation, q, q * known.slope), known.value, q * known.slope, tolerance
    )
