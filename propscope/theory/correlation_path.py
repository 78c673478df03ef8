"""The correlation of two samples layer by layer, as 1 - c, without cancellation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from propscope.theory.elementwise import Elementwise
from propscope.theory.hermite import correlation_kernel
from propscope.theory.kernel_rows import kernel_rows

Array = NDArray[np.float64]

# A transient no longer than this is followed by the kernel itself; a longer one is worth an interpolant.
_ONE_BY_ONE = 24
# In asinh(sqrt(q)): a factor of e^2 in q where that is large.
_PIECE = 1.0
# Up to this q a smooth phi bends little enough for 1 - c to be the better variable.
_MODERATE = 10.0
# Where q is this large, phi is its asymptotes to 1e-8.
_FAR = 1e16


@dataclass(frozen=True, slots=True)
class CorrelationSteps:
    """q' (1 - c') = (carry + sigma_w^2 R(at, theta)) (1 - c), c = cos theta, for each of a number of layers.

    `at`: the variance at which phi acts; `carry`: what a residual connection passes on, else 0; `following`: q'.
    Arrays (layers,), positive and finite but for carry. From the layer `settled` on all three are constant.
    """

    activation: Elementwise
    weight_variance: float
    at: Array
    carry: Array
    following: Array
    settled: int

    def part(self, first: int, end: int | None = None) -> CorrelationSteps:
        """Return the steps from layer `first` on, up to `end`."""
        at, carry, following = (array[first:end] for array in (self.at, self.carry, self.following))
        settled = max(self.settled - first, 0)
        return CorrelationSteps(self.activation, self.weight_variance, at, carry, following, settled)


def follow(steps: CorrelationSteps, gap: float) -> Array:
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
        # A piece over which an interpolant in q has few orders, and over which c changes little where q grows fast.
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
    """Return the slopes of phi for large negative and positive x, where there are any."""
    x = np.array([-1e10, -1e9, 1e9, 1e10])
    slopes = activation.value(x) / x
    steady = np.abs(slopes[[0, 3]] - slopes[[1, 2]]).max() <= 1e-7 and np.abs(slopes).max() > 1e-3
    return (float(slopes[0]), float(slopes[3])) if steady else None


def _one_by_one(steps: CorrelationSteps, count: int, gap: float) -> list[float]:
    """Return 1 - c after each of the first `count` steps, by the kernel itself."""
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
    """Return the same as `follow` from interpolants of R / at in theta, one row of coefficients a layer."""
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
            # A fixed point of float64, or two next to each other in turn.
            filled += [mapped] * (len(scales) - layer)
            break
        before, here = here, mapped
        filled.append(mapped)
    return np.array(filled)
