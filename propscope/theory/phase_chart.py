"""The phase diagram of an activation as a picture needs it: on which axes, the critical line, who stands where."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from propscope.checks import count, number
from propscope.errors import InputError
from propscope.networks.initializers import parse_initializer
from propscope.records.phase import PhaseChart, Standing
from propscope.records.theory import CriticalPoint
from propscope.theory.critical import NoCriticalPoint
from propscope.theory.elementwise import ActivationLike, Elementwise
from propscope.theory.initialization import critical_initializer, layer_variances, nearest_critical_point
from propscope.theory.phase import phase_diagram
from propscope.theory.quadrature import moments

Array = NDArray[np.float64]
Range = tuple[float, float]

_COLUMNS, _ROWS = 240, 160
_NICE = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


def phase_chart(
    activation: ActivationLike,
    *,
    initializers: Iterable[str] = (),
    weight_variance: Range | None = None,
    bias_variance: Range | None = None,
    width: int = 256,
) -> PhaseChart:
    """Return the order-to-chaos diagram of an activation (Poole et al. 2016, Schoenholz et al. 2017, figure 1).

    Over the ranges (low, high) of both variances, by default such that the critical line and He's 2 lie well within.
    `initializers` stand where they fill square layers of `width` units; those that mean field does not apply to are
    listed with the reason. Raises `InputError` for anything that is not valid.
    """
    elementwise = Elementwise.of(activation)
    width = count("width", width)
    point, no_line = _point(elementwise)
    weights, biases, stable = _line(elementwise)
    across = _range("weight_variance", weight_variance) or (
        0.0,
        _nice(max(3.0, 2 * point.weight_variance if point else 4)),
    )
    upwards = _range("bias_variance", bias_variance) or (0.0, _height(across[1], point, weights, biases))
    columns, rows = _middles(*across, _COLUMNS), _middles(*upwards, _ROWS)
    diagram = phase_diagram(elementwise, weight_variance=columns, bias_variance=rows)
    standings, without = _standings(elementwise, initializers, width)
    return PhaseChart(
        activation=elementwise.label,
        weight_variance=columns,
        bias_variance=rows,
        q=diagram.q,
        chi=diagram.chi,
        correlation_depth=diagram.correlation_depth,
        line_weight=weights,
        line_bias=biases,
        line_stable=stable,
        no_line=no_line,
        critical=None if point is None else Standing("critical", point.weight_variance, point.bias_variance),
        standings=standings,
        without_place=without,
    )


def _point(activation: Elementwise) -> tuple[CriticalPoint | None, str]:
    try:
        return nearest_critical_point(activation), ""
    except NoCriticalPoint as error:
        return None, str(error).rpartition("; ")[2] if "another activation" in error.hint else ""


def _line(activation: Elementwise) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Return sigma_w^2 and sigma_b^2 along the critical line, and whether chi_parallel is below 1 there."""
    if activation.slopes is not None:
        return np.array([1 / float(moments(activation, 1.0).slope)]), np.zeros(1), np.ones(1, dtype=bool)
    q = np.exp(np.linspace(-16.0, 9.0, 1200))
    try:
        known = moments(activation, q)
    except InputError:
        # One that grows as fast as its second moment allows.
        q = np.exp(np.linspace(-16.0, 1.0, 1200))
        known = moments(activation, q)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        weight = np.asarray(1 / known.slope)
        bias = np.asarray(q - known.value * weight)
        stable = np.asarray(known.growth * weight < 1)
    # Where phi is linear for small q the bias is a difference of equals.
    kept = np.isfinite(weight) & (bias >= -1e-9 * q)
    return weight[kept], np.maximum(bias[kept], 0.0), stable[kept]


def _height(right: float, point: CriticalPoint | None, weights: Array, biases: Array) -> float:
    """Return an upper end that the critical line meets before the right one."""
    beyond = np.flatnonzero(weights > 0.85 * right)
    after = beyond[biases[beyond] > 0.02 * right] if beyond.size else beyond
    wanted = float(biases[after[0]]) if after.size else math.inf
    least = max(0.3, 1.5 * point.bias_variance if point else 0.0)
    return _nice(max(least, min(wanted, max(1.0, right / 4))))


def _nice(value: float) -> float:
    """Return the next round number."""
    scale = 10.0 ** math.floor(math.log10(value))
    return next(digit * scale for digit in _NICE if digit * scale >= value * (1 - 1e-9))


def _range(name: str, given: Range | None) -> Range | None:
    if given is None:
        return None
    low, high = (number(name, end) for end in given)
    if not low < high:
        raise InputError(f"{name} is {low:g}:{high:g}; valid is LOW:HIGH, two numbers of at least 0, LOW < HIGH")
    return low, high


def _middles(low: float, high: float, cells: int) -> Array:
    return low + (high - low) * (np.arange(cells) + 0.5) / cells


def _standings(
    activation: Elementwise, initializers: Iterable[str], width: int
) -> tuple[tuple[Standing, ...], tuple[tuple[str, str], ...]]:
    standings, without = [], []
    for name in dict.fromkeys(parse_initializer(one).label for one in initializers):
        try:
            found = layer_variances(critical_initializer(name, activation), fan_in=width, fan_out=width)
        except InputError as error:
            without.append((name, str(error).split(": ", 1)[-1]))
            continue
        standings.append(Standing(name, found.weight_variance, found.bias_variance))
    return tuple(standings), tuple(without)
