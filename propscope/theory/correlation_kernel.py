"""The correlation map of one layer: R(q, theta) at many theta by Hermite series, along many q by interpolation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from propscope.theory.elementwise import Elementwise
from propscope.theory.quadrature import decorrelation, homogeneous_decorrelation, moments, nodes

Array = NDArray[np.float64]

_TERMS = 256
_ORDER = np.arange(_TERMS)[:, None]


def hermite_weights(activation: Elementwise, q: Array, slope: Array) -> Array:
    """Return a_k^2, k = 0 to 255, of phi(sqrt(q) z) = sum_k a_k He_k(z) / sqrt(k!), shape (q.size, 256).

    Then E[phi(u1) phi(u2)] = sum_k a_k^2 c^k (Mehler 1866; Daniely et al. 2016, section 3.3), and sum_k k a_k^2 = q D,
    which is `slope`: once the sum reaches it, the remaining terms are 0 to rounding.
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
    """The function R(q, theta) of `decorrelation` at fixed q, shape (m,), and any theta; see `correlation_kernel`.

    R comes from the Hermite series where its remainder, bounded by V and q D, is below `tolerance`, and from the double
    integral elsewhere. `weights`, shape (m, 256), are a_k^2; `value` V and `slope` q D have shape (m,).
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
        if not weights.any():
            # So small that the squares of the coefficients are 0: the kernel is the slope to rounding.
            return np.full(theta.shape, slope)
        count = 1 + int(np.flatnonzero(weights > 1e-18 * weights.sum())[-1])
        own, order = weights[:count], _ORDER[:count]
        gap, c = 2 * np.sin(theta / 2) ** 2, np.cos(theta)
        with np.errstate(divide="ignore", invalid="ignore"):
            # 1 - c^k without cancellation for c > 0.
            near = -np.expm1(order * np.log1p(-np.where(c > 0, gap, 0.0)))
            series = own @ (near if (c > 0).all() else np.where(c > 0, near, 1 - c**order))
            error = np.zeros(theta.shape)
            if abs(slope - weights @ _ORDER[:, 0]) > self.tolerance * slope:
                # Of the correlation of the orders left out at most the share c^K remains.
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
    at_q = moments(activation, q)
    return CorrelationKernel(
        activation, q, hermite_weights(activation, q, q * at_q.slope), at_q.value, q * at_q.slope, tolerance
    )


_Q_ORDERS = (3, 5, 9, 17, 33)
_THETA_ORDERS = (9, 17, 33, 65, 129)


def kernel_rows(
    activation: Elementwise, q: Array, widest: float, *, tolerance: float = 1e-11, by_angle: bool = True
) -> Array:
    """Return Chebyshev coefficients of R(q, theta) / q over theta in [0, widest], shape (q.size, order), lowest first.

    The variable is theta, or without `by_angle` 1 - cos(theta), which needs fewer coefficients for a smooth phi and a
    moderate q. A single row is returned if all q have the same one. Rows are interpolated in asinh(sqrt(q)), in which R
    / q is smooth at 0 and at infinity; where that misses `tolerance`, each half of the range is interpolated
    separately.
    """
    u = np.arcsinh(np.sqrt(q))
    low, high = float(u.min()), float(u.max())

    def fitted(at: Array) -> Array:
        # Rounding must not leave the range, whose end may be next to 0.
        return _fitted(activation, np.sinh(np.clip(at, low, high)) ** 2, widest, tolerance, by_angle)

    if activation.slopes is not None or high - low <= 1e-11 * high:
        return fitted(u[:1])
    if q.size <= _Q_ORDERS[1]:
        return fitted(u)
    middle, half = (low + high) / 2, (high - low) / 2
    fit = _nested(lambda y: fitted(middle + half * y), _Q_ORDERS, tolerance)
    if fit is not None:
        return np.asarray(chebyshev.chebvander(np.clip((u - middle) / half, -1, 1), len(fit) - 1) @ fit)
    lower = u < middle
    parts = [
        kernel_rows(activation, q[side], widest, tolerance=tolerance, by_angle=by_angle) for side in (lower, ~lower)
    ]
    found = np.zeros((q.size, max(part.shape[1] for part in parts)))
    for side, part in zip((lower, ~lower), parts, strict=True):
        found[side, : part.shape[1]] = part
    return found


def _fitted(activation: Elementwise, q: Array, widest: float, tolerance: float, by_angle: bool) -> Array:
    """Return the coefficients at every q, shape (q.size, order)."""
    kernel = correlation_kernel(activation, q)

    def values(y: Array) -> Array:
        part = (1 + y) / 2
        theta = widest * part if by_angle else 2 * np.arcsin(np.sin(widest / 2) * np.sqrt(part))
        return np.stack([kernel.at(row, theta) / one for row, one in enumerate(q)], axis=1)

    fit = _nested(values, _THETA_ORDERS, tolerance)
    if fit is None:
        # The finest interpolant; its last coefficients are its error.
        fit = _nested(values, _THETA_ORDERS, np.inf, first=len(_THETA_ORDERS) - 1)
    assert fit is not None
    size = np.abs(fit).max(axis=1)
    terms = 1 + int(np.flatnonzero(size > tolerance / 100 * size.max())[-1])
    return np.asarray(fit[:terms].T)


def _nested(
    function: Callable[[Array], Array], orders: tuple[int, ...], tolerance: float, *, first: int = 0
) -> Array | None:
    """Return Chebyshev coefficients (order, ...) of `function` on [-1, 1], or None where no order resolves it.

    Every second node of an order is a node of the previous order, so its values are reused. If the values are
    coefficients of different lengths, they are padded to the longest.
    """
    values: Array | None = None
    for order in orders[first:]:
        y = -np.cos(np.linspace(0, np.pi, order))
        if values is None:
            values = function(y)
        else:
            new = function(y[1::2])
            longest = max(values.shape[1], new.shape[1])
            merged = np.zeros((order, longest))
            merged[::2, : values.shape[1]], merged[1::2, : new.shape[1]] = values, new
            values = merged
        fit = np.linalg.solve(chebyshev.chebvander(y, order - 1), values)
        if np.abs(fit[-max(1, order // 6) :]).max() <= tolerance * np.abs(fit).max():
            return np.asarray(fit)
    return None
