"""The correlation kernel along many q: Chebyshev coefficients in theta, interpolated between few q."""

from __future__ import annotations

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from propscope.theory.elementwise import Elementwise
from propscope.theory.hermite import CorrelationKernel, correlation_kernel

Array = NDArray[np.float64]

_ORDERS = (9, 17, 33, 65, 129)
_COUNTS = (3, 5, 9, 17)


def kernel_rows(activation: Elementwise, q: Array, widest: float, *, tolerance: float = 1e-11) -> Array:
    """Return Chebyshev coefficients of R(q, theta) / q over theta in [0, widest], shape (q.size, order), lowest first.

    A single row when it is the same for every q. Interpolated in asinh(sqrt(q)), in which R / q is smooth at 0 and at
    infinity; where that does not resolve it to `tolerance`, half of the q at a time. q is monotone, or nearly.
    """
    u = np.arcsinh(np.sqrt(q))
    low, high = float(u.min()), float(u.max())
    if activation.slopes is not None or high - low <= 1e-11 * high:
        return _fitted(correlation_kernel(activation, q[:1]), widest, tolerance)
    if q.size <= 6:
        return _fitted(correlation_kernel(activation, q), widest, tolerance)
    y = np.clip((2 * u - low - high) / (high - low), -1, 1)
    for count in _COUNTS:
        nodes = chebyshev_nodes(count)
        at = np.sinh((low + high) / 2 + (high - low) / 2 * nodes) ** 2
        fit = _fitted(correlation_kernel(activation, at), widest, tolerance)
        fit = np.linalg.solve(chebyshev.chebvander(nodes, count - 1), fit)
        if np.abs(fit[-max(1, count // 4) :]).max() <= tolerance * np.abs(fit).max():
            return np.asarray(chebyshev.chebvander(y, count - 1) @ fit)
    half = q.size // 2
    halves = [kernel_rows(activation, part, widest, tolerance=tolerance) for part in (q[:half], q[half:])]
    order = max(rows.shape[1] for rows in halves)
    sizes = (half, q.size - half)
    padded = [
        np.broadcast_to(np.pad(rows, ((0, 0), (0, order - rows.shape[1]))), (size, order))
        for rows, size in zip(halves, sizes, strict=True)
    ]
    return np.concatenate(padded)


def _fitted(kernel: CorrelationKernel, widest: float, tolerance: float) -> Array:
    fit = np.empty((0, 0))
    for count in _ORDERS:
        nodes = chebyshev_nodes(count)
        theta = widest * (1 + nodes) / 2
        values = np.stack([kernel.at(row, theta) / q for row, q in enumerate(kernel.q)])
        fit = np.linalg.solve(chebyshev.chebvander(nodes, count - 1), values.T).T
        if np.abs(fit[:, -3:]).max() <= tolerance * np.abs(fit).max():
            break
    return fit


def chebyshev_nodes(count: int) -> Array:
    """Return the zeros of the Chebyshev polynomial of this order, ascending."""
    return np.asarray(-np.cos((np.arange(count) + 0.5) * np.pi / count))
