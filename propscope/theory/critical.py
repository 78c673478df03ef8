"""Variances of weights and biases that neither lose nor amplify the signal: gains, critical points, critical lines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from propscope.checks import fits_memory, known_arguments, number, numbers
from propscope.errors import InputError
from propscope.records.theory import CriticalPoint
from propscope.theory.elementwise import ActivationLike, Elementwise
from propscope.theory.quadrature import moments

# The nodes of the quadrature at a point.
_POINT_BYTES = 1024

Array = NDArray[np.float64]


class NoCriticalPoint(InputError):
    """There is no critical point with these properties; the message says why."""


@dataclass(frozen=True, slots=True)
class CriticalLine:
    """The critical points at given q, arrays of one shape; where `bias_variance` is negative there is none."""

    q: Array
    weight_variance: Array
    bias_variance: Array


@known_arguments
def gain(activation: ActivationLike) -> float:
    """Return 1 / sqrt(E[phi(z)^2]), z standard normal: weights of variance gain^2 / fan_in keep q = 1.

    sqrt 2 for ReLU (He et al. 2015, eq. 10), 1 for SELU (Klambauer et al. 2017). `torch.nn.init.calculate_gain` follows
    other conventions: 5/3 for tanh, 3/4 for SELU. For GELU, SiLU and Mish q = 1 is an unstable fixed point: see
    `MeanField.fixed_point`. Raises `InputError` as `Elementwise.of` does, and for an infinite second moment.
    """
    return 1 / math.sqrt(float(moments(Elementwise.of(activation), 1.0).value))


@known_arguments
def critical_line(activation: ActivationLike, q: ArrayLike) -> CriticalLine:
    """Return weight_variance = 1 / D(q), bias_variance = q - V(q) / D(q) at every q >= 0.

    Both chi_1 = 1 and q' = q hold there (Schoenholz et al. 2017, section 3.1). Where D = 0, the weight
    variance is infinite.
    """
    asked = numbers("q", q)
    fits_memory(f"a line of {asked.size:,} points", asked.size * _POINT_BYTES, hint="give fewer values of q")
    at_q = moments(Elementwise.of(activation), asked)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.asarray(1 / at_q.slope)
        return CriticalLine(asked, weight, np.asarray(asked - at_q.value * weight))


@known_arguments
def critical_point(activation: ActivationLike, *, bias_variance: float | None = None) -> CriticalPoint:
    """Return the critical point with this bias variance; for None, the one with chi_1 = chi_parallel = 1.

    With chi_1 = chi_parallel = 1, neither the gradient nor a small change of q grows or shrinks. For GELU, SiLU and
    Mish this is a half-stable fixed point at q > 0 (the lowest, if there are several). For tanh and similar activations
    it is the limit q = 0, to which q decays algebraically. For activations with two slopes, such as ReLU, it holds at
    every q, and q = 1 is returned. If there are several critical points with the given bias variance, the lowest one
    that is stable is returned.

    Raises `NoCriticalPoint` if there is none with a bias variance of at least 0.
    """
    elementwise = Elementwise.of(activation)
    if bias_variance is not None:
        bias_variance = number("bias_variance", bias_variance)
    if elementwise.slopes is not None:
        return _homogeneous(elementwise, bias_variance)
    scan = _scan(elementwise)
    if bias_variance is None:
        return _doubly_critical(elementwise, scan)
    if bias_variance == 0 and (limit := _limit(elementwise)):
        return limit
    candidates = _roots(scan.q, scan.bias - bias_variance, lambda q: _bias(elementwise, q) - bias_variance)
    points = [_point(elementwise, q) for q in candidates]
    if not points:
        raise NoCriticalPoint(
            f'activation "{elementwise.label}" has no critical point with bias_variance {bias_variance:g}: '
            f"{_reach(elementwise, scan)}",
            hint="choose a bias_variance in that range, or None"
            if scan.bias.max() >= 0
            else "choose another activation",
        )
    stable = [p for p in points if p.weight_variance * float(moments(elementwise, p.q).growth) < 1]
    found = (stable or points)[0]
    return CriticalPoint(found.weight_variance, bias_variance, found.q, found.note)


@dataclass(frozen=True, slots=True)
class _Scan:
    """The critical line on a grid of q: the bias variance, and chi_parallel - 1."""

    q: Array
    bias: Array
    excess: Array


@lru_cache(maxsize=64)
def _scan(activation: Elementwise) -> _Scan:
    problem: InputError | None = None
    # No round q lies on the grid.
    for high in (18.0123, 9.0123, 5.0123, 1.0123):
        q = np.exp(np.arange(-16.0123, high, 0.1))
        try:
            at_q = moments(activation, q)
        except InputError as error:
            problem = problem or error
            continue
        slope = np.maximum(at_q.slope, 1e-300)
        return _Scan(q, q - at_q.value / slope, at_q.growth / slope - 1)
    assert problem is not None
    raise problem


def _roots(q: Array, values: Array, function: object) -> list[float]:
    # Its import takes 0.3 s, and most grids need no root.
    from scipy.optimize import brentq

    signs = np.sign(values)
    crossings = np.flatnonzero(signs[:-1] * signs[1:] < 0)
    return [float(brentq(function, q[i], q[i + 1], xtol=1e-300, rtol=1e-14)) for i in crossings]  # type: ignore[call-overload]


def _bias(activation: Elementwise, q: float) -> float:
    at_q = moments(activation, q)
    return q - float(at_q.value) / max(float(at_q.slope), 1e-300)


def _excess(activation: Elementwise, q: float) -> float:
    at_q = moments(activation, q)
    return float(at_q.growth) / float(at_q.slope) - 1


def _point(activation: Elementwise, q: float) -> CriticalPoint:
    at_q = moments(activation, q)
    return CriticalPoint(1 / float(at_q.slope), q - float(at_q.value) / float(at_q.slope), q)


def _doubly_critical(activation: Elementwise, scan: _Scan) -> CriticalPoint:
    # At both ends V' and D may tend to one another, and their difference to rounding errors.
    clear = np.abs(scan.excess) > 1e-9
    roots = _roots(scan.q[clear], scan.excess[clear], lambda q: _excess(activation, q))
    points = [point for q in roots if (point := _point(activation, q)).bias_variance >= 0]
    if points:
        found = points[0]
        return CriticalPoint(found.weight_variance, found.bias_variance, found.q, "half-stable: chi_parallel = 1 too")
    if limit := _limit(activation):
        return limit
    reason = (
        f"chi_1 = chi_parallel = 1 would need bias_variance {_point(activation, roots[0]).bias_variance:.4g}"
        if roots
        else "chi_parallel is not 1 anywhere on its critical line"
    )
    raise NoCriticalPoint(
        f'activation "{activation.label}" has no point with chi_1 = chi_parallel = 1: {reason}; '
        f"{_reach(activation, scan)}",
        hint="give a bias_variance in that range" if scan.bias.max() >= 0 else "choose another activation",
    )


def _limit(activation: Elementwise) -> CriticalPoint | None:
    """Return the critical point at q = 0, if q decays to it: phi(0) = 0 and sigma_w^2 V < q for small q."""
    slope = float(moments(activation, 0.0).slope)
    if float(activation.value(np.zeros(1))[0]) != 0 or slope < 1e-12:
        return None
    small = np.array([1e-4, 1e-3, 1e-2])
    if (moments(activation, small).value / slope > small * (1 + 1e-13)).any():
        return None
    return CriticalPoint(1 / slope, 0.0, 0.0, "the limit q = 0, to which q decays more slowly than exponentially")


def _homogeneous(activation: Elementwise, bias_variance: float | None) -> CriticalPoint:
    if bias_variance:
        raise NoCriticalPoint(
            f'activation "{activation.label}" has no critical point with bias_variance {bias_variance:g}: its variance '
            "map is linear, and with chi_1 = 1 any bias makes q grow without end",
            hint="choose a bias_variance of 0",
        )
    weight = 1 / float(moments(activation, 1.0).slope)
    return CriticalPoint(weight, 0.0, 1.0, "a line of fixed points: every q is one, 1 by convention")


def _reach(activation: Elementwise, scan: _Scan) -> str:
    most = float(scan.bias.max())
    if most < 0:
        return (
            f"chi_1 = 1 needs a negative bias variance at every q (q - V/D is at most {most:.4g}), "
            "because the mean of phi^2 is too large for its slope"
        )
    # Towards q = 0 the line may tend to a bias of 0 and not reach it.
    lowest = float(scan.bias.min())
    least = "above 0" if 0 < lowest < 1e-6 else f"{max(0.0, lowest):.4g}"
    upper = "infinity" if int(scan.bias.argmax()) == scan.bias.size - 1 else f"{most:.6g}"
    return f"its critical line has bias variances from {least} to {upper}"
