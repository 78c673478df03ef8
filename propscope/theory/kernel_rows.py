"""The correlation kernel along many q: Chebyshev coefficients in theta, interpolated between few q."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from propscope.theory.elementwise import Elementwise
from propscope.theory.hermite import correlation_kernel

Array = NDArray[np.float64]

_Q_ORDERS = (3, 5, 9, 17, 33)
_THETA_ORDERS = (9, 17, 33, 65, 129)


def kernel_rows(
    activation: Elementwise, q: Array, widest: float, *, tolerance: float = 1e-11, by_angle: bool = True
) -> Array:
    """Return Chebyshev coefficients of R(q, theta) / q over theta in [0, widest], shape (q.size, order), lowest first.

    Over theta itself, or else over 1 - cos(theta), in which fewer coefficients do for a smooth phi and a moderate q.
    A single row when it is the same for every q. Interpolated in asinh(sqrt(q)), in which R / q is smooth at 0 and at
    infinity; where that does not resolve it to `tolerance`, in one half of the range at a time.
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
        # The finest interpolant there is; the last coefficients are the error that is left.
        fit = _nested(values, _THETA_ORDERS, np.inf, first=len(_THETA_ORDERS) - 1)
    assert fit is not None
    size = np.abs(fit).max(axis=1)
    kept = 1 + int(np.flatnonzero(size > tolerance / 100 * size.max())[-1])
    return np.asarray(fit[:kept].T)


def _nested(
    function: Callable[[Array], Array], orders: tuple[int, ...], tolerance: float, *, first: int = 0
) -> Array | None:
    """Return Chebyshev coefficients (order, ...) of `function` on [-1, 1], or None where the orders do not resolve it.

    The nodes of an order are every other one of the next, so that values are kept. Values of several shapes, when they
    are coefficients themselves, are padded to the longest.
    """
    known: Array | None = None
    for order in orders[first:]:
        y = -np.cos(np.linspace(0, np.pi, order))
        if known is None:
            known = function(y)
        else:
            new = function(y[1::2])
            longest = max(known.shape[1], new.shape[1])
            merged = np.zeros((order, longest))
            merged[::2, : known.shape[1]], merged[1::2, : new.shape[1]] = known, new
            known = merged
        fit = np.linalg.solve(chebyshev.chebvander(y, order - 1), known)
        if np.abs(fit[-max(1, order // 6) :]).max() <= tolerance * np.abs(fit).max():
            return np.asarray(fit)
    return None
