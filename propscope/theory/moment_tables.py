"""Moments of an activation between nodes: piecewise Chebyshev interpolants in ln q, checked against their own tails."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from propscope.theory.elementwise import Elementwise
from propscope.theory.quadrature import moments

Array = NDArray[np.float64]

_WIDTH = 2.0
_ORDER = 14
_NODES = -np.cos((np.arange(_ORDER) + 0.5) * np.pi / _ORDER)
_FIT = np.linalg.inv(chebyshev.chebvander(_NODES, _ORDER - 1))
_TO_POWERS = np.stack([np.pad(chebyshev.cheb2poly(row), (0, _ORDER))[:_ORDER] for row in np.eye(_ORDER)], axis=1)
_TOLERANCE = 2e-12
_MOST_PARTS = 16
# The smallest float64, so that a moment of 0 has a logarithm.
_FLOOR = 5e-324


class MomentTable:
    """ln V and ln D as functions of ln q, to about 1e-12, in blocks of ln q of width 2 that are fitted when needed.

    A block that polynomials on 16 parts do not fit is computed exactly each time. Made by `moment_table`.
    """

    def __init__(self, activation: Elementwise) -> None:
        self._activation = activation
        self._blocks: dict[int, tuple[int, Array, list[list[float]]] | None] = {}

    def log_value(self, s: float) -> float:
        """Return ln V at ln q = s."""
        index = math.floor(s / _WIDTH)
        if index not in self._blocks:
            self._build([index])
        block = self._blocks[index]
        if block is None:
            return math.log(max(float(moments(self._activation, math.exp(s)).value), _FLOOR))
        parts, _, powers = block
        place = (s / _WIDTH - index) * parts
        part = min(int(place), parts - 1)
        y = 2 * (place - part) - 1
        total = 0.0
        for power in powers[part]:
            total = total * y + power
        return total

    def log_moments(self, s: Array) -> tuple[Array, Array]:
        """Return ln V and ln D at every ln q = s, of s's shape."""
        flat = s.ravel()
        index = np.floor(flat / _WIDTH).astype(int)
        needed = np.unique(index)
        self._build([int(one) for one in needed if int(one) not in self._blocks])
        found = np.empty((2, flat.size))
        for one in needed:
            mask = index == one
            block = self._blocks[int(one)]
            if block is None:
                found[:, mask] = self._exact(flat[mask])
                continue
            parts, fit, _ = block
            place = (flat[mask] / _WIDTH - one) * parts
            part = np.minimum(place.astype(int), parts - 1)
            y = 2 * (place - part) - 1
            found[:, mask] = chebyshev.chebval(y, np.moveaxis(fit[part], 0, -1), tensor=False)
        value, slope = found.reshape(2, *s.shape)
        return value, slope

    def _exact(self, s: Array) -> Array:
        at_q = moments(self._activation, np.exp(s))
        return np.log(np.maximum(np.stack([at_q.value, at_q.slope]), _FLOOR))

    def _build(self, indices: list[int]) -> None:
        # One by one: no bit of a block may depend on which others were asked for with it or before.
        for index in indices:
            self._blocks[index] = self._fitted(index)

    def _fitted(self, index: int) -> tuple[int, Array, list[list[float]]] | None:
        parts = 1
        while parts <= _MOST_PARTS:
            s = _WIDTH * (index + (np.arange(parts)[:, None] + (1 + _NODES) / 2) / parts)
            values = self._exact(s.ravel()).reshape(2, *s.shape)
            # Shape (parts, order, 2).
            fit = np.einsum("kn,vpn->pkv", _FIT, values)
            if np.abs(fit[:, -3:]).max() <= _TOLERANCE * (1 + np.abs(values).max()):
                return parts, fit, (_TO_POWERS @ fit[:, :, 0].T).T[:, ::-1].tolist()
            parts *= 2
        return None


@lru_cache(maxsize=64)
def moment_table(activation: Elementwise) -> MomentTable:
    """Return the activation's table, which is cached."""
    return MomentTable(activation)
