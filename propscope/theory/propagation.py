"""The variance, the gradient and the correlation of a signal layer by layer, also at depths of 10,000."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from propscope.theory.correlation_kernel import correlation_kernel, kernel_rows
from propscope.theory.elementwise import Elementwise
from propscope.theory.fixed_points import VarianceMap
from propscope.theory.moment_tables import moment_table
from propscope.theory.quadrature import moments

Array = NDArray[np.float64]

# A transient of up to so many layers uses the kernel itself; for a longer one an interpolant is cheaper.
_ONE_BY_ONE = 24
# In asinh(sqrt(q)): a factor of e^2 in q where that is large.
_PIECE = 1.0
# Up to this q a smooth phi bends little enough for 1 - c to be the better variable.
_MODERATE = 10.0
# Where q is this large, phi is its asymptotes to 1e-8.
_FAR = 1e16


@dataclass(frozen=True, slots=True)
class CorrelationSteps:
    """Steps q' (1 - c') = (carry + sigma_w^2 R(at, theta)) (1 - c), c = cos theta, one for each layer.

    Arrays of shape (layers,): `at`, the variance that enters phi; `carry`, the variance that a residual connection
    passes on, else 0; `following`, q'. `at` and `following` are positive and finite. All three are constant from the
    layer `settled` on.
    """

    activation: Elementwise
    weight_variance: float
    at: Array
    carry: Array
    following: Array
    settled: int

    def part(self, first: int, end: int | None = None) -> CorrelationSteps:
        """Return the steps from layer `first` up to `end`."""
        at, carry, following = (array[first:end] for array in (self.at, self.carry, self.following))
        settled = max(self.settled - first, 0)
        return CorrelationSteps(self.activation, self.weight_variance, at, carry, following, settled)


def decorrelations(steps: CorrelationSteps, gap: float) -> Array:
    """Return 1 - c before the first step and after each, shape (layers + 1,), from 1 - c = `gap` in [0, 2]."""
    layers = steps.at.size
    if not layers or gap == 0:
        return np.full(layers + 1, gap)
    filled = [gap]
    while (layer := len(filled) - 1) < layers:
        rest = steps.part(layer)
        if rest.at[0] > _FAR and (slopes := _asymptotes(steps.activation)):
            rest = replace(rest, activation=replace(steps.activation, slopes=slopes))
        if rest.activation.slopes is not None:
            return np.concatenate([filled[:-1], _interpolated(rest, filled[-1])])
        # One piece: an interpolant in q needs few orders over it, and c changes little where q grows fast.
        away = np.abs(np.arcsinh(np.sqrt(rest.at)) - np.arcsinh(np.sqrt(rest.at[0]))) > _PIECE
        end = int(np.argmax(away)) if away.any() else rest.at.size
        head = min(rest.settled + 1, end)
        if head > 2 * _ONE_BY_ONE:
            head = _ONE_BY_ONE if layer == 0 else 0
        filled += _one_by_one(rest, head, filled[-1])
        if end > head:
            filled += _interpolated(rest.part(head, end), filled[-1])[1:].tolist()
    return np.array(filled)


def _asymptotes(activation: Elementwise) -> tuple[float, float] | None:
    """Return the limits of the slope of phi for large negative and positive x; None if it has none."""
    x = np.array([-1e10, -1e9, 1e9, 1e10])
    slopes = activation.value(x) / x
    steady = np.abs(slopes[[0, 3]] - slopes[[1, 2]]).max() <= 1e-7 and np.abs(slopes).max() > 1e-3
    return (float(slopes[0]), float(slopes[3])) if steady else None


def _one_by_one(steps: CorrelationSteps, count: int, gap: float) -> list[float]:
    """Return 1 - c after each of the first `count` steps, from the kernel itself."""
    filled: list[float] = []
    if not count:
        return filled
    kernel = correlation_kernel(steps.activation, steps.at[:count])
    for layer in range(count):
        ratio = float(kernel.at(layer, np.array([_angle(gap)]))[0])
        gap = _step(float((steps.carry[layer] + steps.weight_variance * ratio) / steps.following[layer]), gap)
        filled.append(gap)
    return filled


def _angle(gap: float) -> float:
    return 2 * math.asin(math.sqrt(gap / 2))


def _step(factor: float, gap: float) -> float:
    return min(max(factor * gap, 0.0), 2.0)


def _interpolated(steps: CorrelationSteps, gap: float) -> Array:
    """Return the same, from interpolants of R / at in theta with one row of coefficients per layer."""
    widest = min(2 * _angle(gap) + 1e-3, math.pi)
    by_angle = bool(steps.activation.kinks) or float(steps.at.max()) > _MODERATE
    end = widest if by_angle else 2 * math.sin(widest / 2) ** 2
    found = kernel_rows(steps.activation, steps.at[: steps.settled + 1], widest, by_angle=by_angle)
    rows: Sequence[list[float]] = found[:, ::-1].tolist()
    scales = (steps.weight_variance * steps.at / steps.following).tolist()
    carried = (steps.carry / steps.following).tolist()
    filled, here, before = [gap], gap, math.nan
    for layer, (scale, carry) in enumerate(zip(scales, carried, strict=True)):
        place = _angle(here) if by_angle else here
        if place > end:
            return np.concatenate([filled[:-1], _interpolated(steps.part(layer), here)])
        y = 2 * place / end - 1
        double, second, first = 2 * y, 0.0, 0.0
        for coefficient in rows[layer] if layer < len(rows) else rows[-1]:
            first, second = coefficient + double * first - second, first
        mapped = (carry + scale * (first - y * second)) * here
        mapped = 0.0 if mapped < 0 else 2.0 if mapped > 2 else mapped
        if layer > steps.settled and mapped in (here, before):
            # A fixed point of float64, or an alternation between two neighbouring numbers.
            filled += [mapped] * (len(scales) - layer)
            break
        before, here = here, mapped
        filled.append(mapped)
    return np.array(filled)


# Up to so many values are computed exactly.
_FEW = 40
# Below LEAST q counts as 0, above MOST as infinite.
LEAST, MOST = 1e-290, 1e300


@dataclass(frozen=True, slots=True)
class Propagation:
    """The signal layer by layer, arrays of shape (depth + 1,): entry 0 is the given one, entry l is after l layers.

    `q`: the variance of the pre-activations, infinite beyond 1e300. `gradient_factor`: chi_1(q_l), so that E|delta_l|^2
    = chi_1(q_l) (n_{l+1} / n_l) E|delta_{l+1}|^2 (Schoenholz et al. 2017, eq. 15). `correlation`: c_l of two samples,
    NaN where q is infinite. `decorrelation`: 1 - c_l, which keeps its digits as c_l tends to 1.
    """

    q: Array
    gradient_factor: Array
    correlation: Array
    decorrelation: Array

    @property
    def gradient(self) -> Array:
        """E|delta_l|^2 of each layer over that of the last, for equal widths: the product of the factors from l on."""
        factors = np.append(self.gradient_factor[:-1], 1.0)
        with np.errstate(over="ignore"):
            return np.cumprod(factors[::-1])[::-1]


def propagate(variance_map: VarianceMap, q0: float, depth: int, c0: float) -> Propagation:
    """Return the signal of `depth` layers after q0 and c0; relative errors are about 1e-9."""
    q, repeats = _variances(variance_map, q0, depth)
    finite = np.isfinite(q)
    factor = np.full(q.size, math.nan)
    distinct = np.append(q[: repeats + 1], q[-1])
    usable = np.isfinite(distinct)
    distinct_factors = np.full(distinct.shape, math.nan)
    distinct_factors[usable] = variance_map.weight_variance * _slopes(variance_map, distinct[usable])
    factor[: repeats + 1], factor[repeats + 1 :] = distinct_factors[:-1], distinct_factors[-1]
    if finite.any() and not finite.all():
        factor[~finite] = factor[finite][-1]
    gap = correlation_gaps(variance_map, q, q, np.zeros(q.size), 1 - c0)
    return Propagation(q, factor, 1 - gap, gap)


def correlation_gaps(variance_map: VarianceMap, q: Array, at: Array, carry: Array, gap: float) -> Array:
    """Return 1 - c of each layer of variance q, shape (layers,), from 1 - c = `gap` in the first.

    It is NaN where q is infinite, and constant once q is 0. `at` and `carry` are those of `CorrelationSteps`.
    """
    found = np.full(q.size, math.nan)
    usable = max(int((np.isfinite(q) & (q > LEAST)).sum()), 1)
    # From this layer on q is constant, so that a correlation that repeats itself stays.
    settled = int(np.flatnonzero(np.diff(q[:usable], prepend=math.nan) != 0)[-1])
    last = usable - 1
    steps = CorrelationSteps(
        variance_map.activation, variance_map.weight_variance, at[:last], carry[:last], q[1:usable], settled
    )
    found[:usable] = decorrelations(steps, gap)
    found[usable : int(np.isfinite(q).sum())] = found[last]
    return found


def _variances(variance_map: VarianceMap, q0: float, depth: int) -> tuple[Array, int]:
    """Return q of each layer in float64, and the layer from which on it is constant."""
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
            # A fixed point of float64, or an alternation between two neighbouring numbers: q is constant from here.
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
