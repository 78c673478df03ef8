"""Expectations of products over one sample and over two, for the noise of a finite width: Hermite coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from propscope.theory.elementwise import Elementwise
from propscope.theory.quadrature import nodes

Array = NDArray[np.float64]

_TERMS = 32
# Places in what is kept of each activation.
VALUE, SQUARE, SLOPE, SLOPE_SQUARE = range(4)


@dataclass(frozen=True, slots=True)
class UnitMoments:
    """Of phi / sqrt(V), its square, phi' / sqrt(D) and its square at each layer's variance.

    `coefficients` of their normalized Hermite series, shape (4, terms, layers); `whole`, shape (4, 4, layers): the
    expectations of their products over one sample.
    """

    coefficients: Array
    whole: Array

    def over_two(self, first: int, second: int, c: Array, spread: Array) -> Array:
        """Return E[first second'] over two samples of correlation c, (layers,), which varies by `spread`.

        Sum over k of b_k b'_k c^k (Mehler 1866), c^k averaged to second order; the orders beyond the last are taken
        as if all were the next.
        """
        products = self.coefficients[first] * self.coefficients[second]
        k = np.arange(_TERMS)[:, None]
        plain = np.abs(c) ** k * np.where(c < 0, (-1.0) ** k, 1.0)
        powers = np.concatenate([plain[:2], plain[2:] + k[2:] * (k[2:] - 1) / 2 * plain[:-2] * spread])
        rest = self.whole[first, second] - products.sum(axis=0)
        return np.asarray((products * np.minimum(powers, 1)).sum(axis=0) + rest * np.abs(c) ** _TERMS)

    def over_one(self, first: int, second: int) -> Array:
        """Return E[first second] over one sample, (layers,)."""
        return np.asarray(self.whole[first, second])

    def derivative(self, which: int, order: int) -> Array:
        """Return q d/dq of the expectation for `order` 1, q^2 d^2/dq^2 for 2, (layers,)."""
        return np.asarray(self.coefficients[which, 2 * order] * (np.sqrt(2) / 2, np.sqrt(24) / 4)[order - 1])


def unit_moments(activation: Elementwise, at: Array) -> UnitMoments:
    """Return the moments at every variance > 0, shape (layers,)."""
    if activation.slopes is not None:
        one = _at_one(activation)
        return UnitMoments(np.repeat(one.coefficients, at.size, axis=2), np.repeat(one.whole, at.size, axis=2))
    distinct, which = np.unique(at, return_inverse=True)
    found = _computed(activation, distinct)
    which = which.ravel()
    return UnitMoments(found.coefficients[:, :, which], found.whole[:, :, which])


@lru_cache(maxsize=32)
def _at_one(activation: Elementwise) -> UnitMoments:
    return _computed(activation, np.ones(1))


def _computed(activation: Elementwise, q: Array) -> UnitMoments:
    coefficients, whole = np.empty((4, _TERMS, q.size)), np.empty((4, 4, q.size))
    for part in np.array_split(np.arange(q.size), max(1, q.size // 32)):
        z, weight, _ = nodes(activation, q[part])
        x = np.sqrt(q[part])[:, None, None] * z
        z, weight = z.reshape(part.size, -1), weight.reshape(part.size, -1)
        phi, slope = (f(x).reshape(part.size, -1) for f in (activation.value, activation.derivative))
        with np.errstate(divide="ignore", invalid="ignore"):
            phi = phi / np.sqrt((phi * phi * weight).sum(axis=1))[:, None]
            slope = slope / np.sqrt((slope * slope * weight).sum(axis=1))[:, None]
        terms = np.stack([phi, phi * phi, slope, slope * slope])
        weighted = terms * weight
        whole[:, :, part] = np.einsum("iqn,jqn->ijq", weighted, terms, optimize=True)
        hermite = np.empty((_TERMS, *z.shape))
        hermite[0], hermite[1] = 1, z
        for k in range(1, _TERMS - 1):
            hermite[k + 1] = (z * hermite[k] - np.sqrt(k) * hermite[k - 1]) / np.sqrt(k + 1)
        coefficients[:, :, part] = np.moveaxis(np.matmul(weighted.transpose(1, 0, 2), hermite.transpose(1, 2, 0)), 0, 2)
    return UnitMoments(coefficients, whole)
