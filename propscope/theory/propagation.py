"""Variance, gradient and correlation layer by layer, at depths of 10,000 too."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from propscope.theory.correlation_path import CorrelationSteps, follow
from propscope.theory.fixed_points import VarianceMap
from propscope.theory.quadrature import moments
from propscope.theory.tables import moment_table

Array = NDArray[np.float64]

# So few values are computed afresh.
_FEW = 40
# Beyond these q counts as 0 and as infinite.
LEAST, MOST = 1e-290, 1e300


@dataclass(frozen=True, slots=True)
class Propagation:
    """Layer by layer, arrays of shape (depth + 1,): entry 0 is what was given, entry l is after l layers.

    `q`, variance of the pre-activations. `gradient_factor`: chi_1(q_l), so that E|delta_l|^2 = chi_1(q_l)
    (n_{l+1} / n_l) E|delta_{l+1}|^2 (Schoenholz et al. 2017, eq. 15). `correlation` c_l of two samples, and
    `decorrelation` 1 - c_l, which keeps its digits as c_l tends to 1. q is infinite once beyond 1e300, and
    correlation NaN with it.
    """

    q: Array
    gradient_factor: Array
    correlation: Array
    decorrelation: Array

    @property
    def gradient(self) -> Array:
        """E|delta_l|^2 of each layer relative to the last, for equal widths: the product of the factors from l on."""
        factors = np.append(self.gradient_factor[:-1], 1.0)
        with np.errstate(over="ignore"):
            return np.cumprod(factors[::-1])[::-1]


def propagate(variance_map: VarianceMap, q0: float, depth: int, c0: float) -> Propagation:
    """Return `depth` layers after q0 and c0; agrees with iterating the exact maps to about 1e-9 relative."""
    q, repeats = _variances(variance_map, q0, depth)
    finite = np.isfinite(q)
    factor = np.full(q.size, math.nan)
    seen = np.append(q[: repeats + 1], q[-1])
    usable = np.isfinite(seen)
    known = np.full(seen.shape, math.nan)
    known[usable] = variance_map.weight_variance * _slopes(variance_map, seen[usable])
    factor[: repeats + 1], factor[repeats + 1 :] = known[:-1], known[-1]
    # Once q repeats itself its factor does so too.
    if finite.any() and not finite.all():
        factor[~finite] = factor[finite][-1]
    gap = correlation_gaps(variance_map, q, q, np.zeros(q.size), 1 - c0)
    return Propagation(q, factor, 1 - gap, gap)


def correlation_gaps(variance_map: VarianceMap, q: Array, at: Array, carry: Array, gap: float) -> Array:
    """Return 1 - c of each layer of variance q, (layers,): NaN where q is infinite, and kept once q is 0.

    `at` and `carry`, (layers,), as in `CorrelationSteps`.
    """
    found = np.full(q.size, math.nan)
    usable = max(int((np.isfinite(q) & (q > LEAST)).sum()), 1)
    # From this layer on every q is one number, and a correlation that repeats itself stays.
    settled = int(np.flatnonzero(np.diff(q[:usable], prepend=math.nan) != 0)[-1])
    last = usable - 1
    steps = CorrelationSteps(
        variance_map.activation, variance_map.weight_variance, at[:last], carry[:last], q[1:usable], settled
    )
    found[:usable] = follow(steps, gap)
    found[usable : int(np.isfinite(q).sum())] = found[last]
    return found


def _variances(variance_map: VarianceMap, q0: float, depth: int) -> tuple[Array, int]:
    """Return q of each layer and the layer from which on it is one number, by the map of float64 itself."""
    weight, bias = variance_map.weight_variance, variance_map.bias_variance
    slopes = variance_map.activation.slopes
    at_zero = weight * float(variance_map.activation.value(np.zeros(1))[0]) ** 2 + bias
    table = moment_table(variance_map.activation)
    gain = 0.0 if slopes is None else weight * (slopes[0] ** 2 + slopes[1] ** 2) / 2
    q, before = float(q0), math.nan
    found = [q]
    for _ in range(depth):
        if slopes is not None:
            mapped = gain * q + bias
        elif q < LEAST:
            mapped = at_zero
        else:
            mapped = weight * math.exp(table.log_value(math.log(q))) + bias
        if mapped in (q, before) or mapped > MOST:
            # A fixed point of float64, or two next to each other in turn; nothing later differs.
            last = math.inf if mapped > MOST else mapped
            return np.array(found + [last] * (depth + 1 - len(found))), len(found) - 1
        before, q = q, mapped
        found.append(q)
    return np.array(found), depth


def _slopes(variance_map: VarianceMap, q: Array) -> Array:
    if variance_map.activation.slopes is not None or q.size <= _FEW or q.min(initial=1.0) < LEAST:
        return moments(variance_map.activation, q).slope
    _, slope = moment_table(variance_map.activation).log_moments(np.log(q))
    return np.asarray(np.exp(slope))
