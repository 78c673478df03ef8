"""Where the variance of a pre-activation settles: every fixed point of the variance map, and what happens at its ends.

Fixed points are zeros of h(s) = ln(sigma_w^2 V(q) + sigma_b^2) - s, s = ln q, and are found by bracketing. Iterating
the map until it changes little would stop anywhere near a critical point.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from propscope.errors import InputError
from propscope.records.theory import FixedPoint, Law
from propscope.theory.elementwise import Elementwise
from propscope.theory.moment_tables import moment_table
from propscope.theory.quadrature import moments

Array = NDArray[np.float64]

# No round q lies on the grid.
_RANGE, _STEP = 28.0123, 0.05
_NOISE = 1e-12


@dataclass(frozen=True, slots=True)
class VarianceMap:
    """q' = weight_variance V(q) + bias_variance (Poole et al. 2016, eq. 3), through logarithms."""

    activation: Elementwise
    weight_variance: float
    bias_variance: float

    def growth(self, s: float) -> float:
        """Return h(s) = ln q' - ln q at s = ln q."""
        value = float(moments(self.activation, math.exp(s)).value)
        return math.log(self.weight_variance * value + self.bias_variance) - s

    def growths(self, s: Array) -> Array:
        """Return h at every s, interpolated."""
        value, _ = moment_table(self.activation).log_moments(s)
        return np.asarray(np.log(self.weight_variance * np.exp(value) + self.bias_variance) - s)

    def bend(self, s: float) -> float:
        """Return h'(s) = d ln q' / d ln q - 1."""
        q = math.exp(s)
        at_q = moments(self.activation, q)
        mapped = self.weight_variance * float(at_q.value) + self.bias_variance
        return self.weight_variance * q * float(at_q.growth) / mapped - 1

    def at(self, q: float) -> tuple[float, float]:
        """Return chi_1 and chi_parallel at q."""
        at_q = moments(self.activation, q)
        return self.weight_variance * float(at_q.slope), self.weight_variance * float(at_q.growth)

    @property
    def keeps_zero(self) -> bool:
        """Whether q = 0 is a fixed point."""
        return self.bias_variance == 0 and float(self.activation.value(np.zeros(1))[0]) == 0


def fixed_points(variance_map: VarianceMap) -> tuple[FixedPoint, ...]:
    """Return every fixed point, ascending, with q = 0 where it is one and q = inf where the variance diverges.

    The search covers q from about 1e-12 to 1e12, and more if the variances require it. If every q is fixed, q = 1 is
    returned.
    """
    if variance_map.activation.slopes is not None:
        return _homogeneous(variance_map)
    s = search_range(variance_map)
    h = variance_map.growths(s)
    signs, inner = _signs(h, variance_map)
    crossings = np.flatnonzero(signs[:-1] * signs[1:] < 0)
    # Next to the end the bracket is all of the part where the interpolant cannot tell the sign.
    roots = [(_root(variance_map.growth, s[i if i >= inner[0] else 0], s[i + 1]), int(signs[i])) for i in crossings]
    found = [_transversal(variance_map, math.exp(root), sign) for root, sign in roots]
    found += _tangential(variance_map, s[slice(*inner)], h[slice(*inner)], signs[slice(*inner)])
    found.sort(key=lambda point: point.q)
    return (*_at_zero(variance_map, s, h, int(signs[0])), *found, *_at_infinity(variance_map, s, h, int(signs[-1])))


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    ends = function(low), function(high)
    # The interpolant that found the bracket is right to 1e-12, and a root that close to an end may lie beyond it.
    if ends[0] * ends[1] >= 0:
        return low if abs(ends[0]) < abs(ends[1]) else high
    # Its import takes 0.3 s, and most grids need no root.
    from scipy.optimize import brentq

    return float(brentq(function, low, high, xtol=1e-15, rtol=1e-15))


def search_range(variance_map: VarianceMap) -> Array:
    """Return the values s = ln q between which fixed points are searched, as far as the activation can be resolved."""
    bias = variance_map.bias_variance
    low = max(min(-_RANGE, math.log(bias) - 2) if bias > 0 else -_RANGE, -600.0)
    most = max(_RANGE, math.log(variance_map.weight_variance + bias) + 8)
    problem: InputError | None = None
    for high in (most, 20.0, 14.0, 9.0, 6.0):
        s = np.linspace(low, high, 1 + math.ceil((high - low) / _STEP))
        try:
            h = variance_map.growths(s)
        except InputError as error:
            problem = problem or error
            continue
        if problem and h[-1] > 0:
            break
        return s
    assert problem is not None
    raise problem


def _signs(h: Array, variance_map: VarianceMap) -> tuple[NDArray[np.int_], tuple[int, int]]:
    """Return the sign of h at each s, and the range in which the interpolant determines it.

    Outside this range h tends to 0. There the sign is that of the limit at q = 0, if it is known, else the nearest one.
    """
    signs = np.where(h >= 0, 1, -1)
    nonzero = np.flatnonzero(np.abs(h) > 1e-10)
    if not nonzero.size:
        return signs, (0, len(h))
    first, last = int(nonzero[0]), int(nonzero[-1])
    signs[:first], signs[last:] = signs[first], signs[last]
    beyond = variance_map.at(0.0)[1] - 1 if variance_map.keeps_zero else 1.0
    signs[:first] = np.sign(beyond) if abs(beyond) > 2e-14 else signs[first]
    return signs, (first, last + 1)


def _transversal(variance_map: VarianceMap, q: float, sign_below: int) -> FixedPoint:
    chi, parallel = variance_map.at(q)
    return FixedPoint(q, "stable" if sign_below > 0 and parallel > -1 else "unstable", chi, parallel)


def _tangential(variance_map: VarianceMap, s: Array, h: Array, signs: NDArray[np.int_]) -> list[FixedPoint]:
    inner = np.abs(h[1:-1])
    near = (inner <= np.abs(h[:-2])) & (inner <= np.abs(h[2:])) & (inner < 1e-2)
    same = (signs[:-2] == signs[1:-1]) & (signs[1:-1] == signs[2:])
    found: list[FixedPoint] = []
    for i in np.flatnonzero(near & same) + 1:
        bends = variance_map.bend(s[i - 1]), variance_map.bend(s[i + 1])
        if bends[0] * bends[1] >= 0:
            continue
        lowest = _root(variance_map.bend, s[i - 1], s[i + 1])
        gap = variance_map.growth(lowest)
        if abs(gap) <= _NOISE:
            chi, parallel = variance_map.at(math.exp(lowest))
            found.append(FixedPoint(math.exp(lowest), "half-stable", chi, parallel))
        elif gap * signs[i] < 0:
            for end, sign in ((s[i - 1], signs[i]), (s[i + 1], -signs[i])):
                root = _root(variance_map.growth, *sorted((end, lowest)))
                found.append(_transversal(variance_map, math.exp(root), int(sign)))
    return found


def _at_zero(variance_map: VarianceMap, s: Array, h: Array, sign: int) -> list[FixedPoint]:
    if not variance_map.keeps_zero:
        return []
    chi, parallel = variance_map.at(0.0)
    if sign > 0:
        return [FixedPoint(0.0, "unstable", chi, parallel)]
    if parallel < 1e-12:
        law = Law("super-exponential")
    elif abs(parallel - 1) > 2e-14:
        law = Law("exponential", rate=math.log(parallel))
    else:
        law = _slow(variance_map, s, h)
    return [FixedPoint(0.0, "decay", chi, parallel, law)]


def _at_infinity(variance_map: VarianceMap, s: Array, h: Array, sign: int) -> list[FixedPoint]:
    if sign <= 0:
        return []
    q = math.exp(s[-1])
    chi, parallel = variance_map.at(q)
    if parallel > 1.001 * math.exp(h[-1]):
        law = Law("super-exponential")
    elif abs(h[-1]) > 1e-9:
        law = Law("exponential", rate=float(h[-1]))
    else:
        law = _slow(variance_map, s[::-1], h[::-1])
    return [FixedPoint(math.inf, "divergence", chi, parallel, law)]


def _slow(variance_map: VarianceMap, s: Array, h: Array) -> Law:
    """Return the law of q_l if h ~ q^m tends to 0 towards the first s: dq/dl = h q gives q_l ~ l^(-1/m)."""
    nonzero = np.flatnonzero(np.abs(h) > 3e-12)
    if not nonzero.size:
        return Law("logarithmic")
    first, second = s[nonzero[0]], s[min(nonzero[0] + round(2 / _STEP), len(s) - 1)]
    near, far = variance_map.growth(float(first)), variance_map.growth(float(second))
    if near * far <= 0 or abs(math.log(far / near)) > 8 * abs(second - first):
        return Law("logarithmic")
    order = math.log(far / near) / (second - first)
    whole = round(2 * order) / 2
    return Law("algebraic", exponent=-1 / (whole if whole and abs(order - whole) < 0.02 else order))


def _homogeneous(variance_map: VarianceMap) -> tuple[FixedPoint, ...]:
    """Return the fixed points of q' = chi q + sigma_b^2, the map of an activation with two slopes."""
    chi, bias = variance_map.at(1.0)[0], variance_map.bias_variance
    critical = abs(chi - 1) <= 1e-14
    if bias == 0 and critical:
        return (FixedPoint(1.0, "line", chi, chi),)
    if chi < 1 and not critical:
        if bias == 0:
            law = Law("exponential", rate=math.log(chi)) if chi else Law("super-exponential")
            return (FixedPoint(0.0, "decay", chi, chi, law),)
        return (FixedPoint(bias / (1 - chi), "stable", chi, chi),)
    zero = (FixedPoint(0.0, "unstable", chi, chi),) if bias == 0 else ()
    law = Law("algebraic", exponent=1.0) if critical else Law("exponential", rate=math.log(chi))
    return (*zero, FixedPoint(math.inf, "divergence", chi, chi, law))
