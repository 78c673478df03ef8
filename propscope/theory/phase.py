"""The phase diagram of an activation, and the chart of it that a picture shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray

from propscope.checks import count, fits_memory, known_arguments, number, numbers
from propscope.errors import InputError
from propscope.networks.initializers import parse_initializer
from propscope.records.phase import PhaseChart, PhasePoint
from propscope.records.theory import CriticalPoint
from propscope.theory.correlation_kernel import kernel_rows
from propscope.theory.critical import NoCriticalPoint
from propscope.theory.depth_scales import RESOLUTION
from propscope.theory.elementwise import ActivationLike, Elementwise
from propscope.theory.fixed_points import VarianceMap, search_range
from propscope.theory.initialization import critical_initializer, layer_variances, nearest_critical_point
from propscope.theory.moment_tables import moment_table
from propscope.theory.quadrature import moments

Array = NDArray[np.float64]

# The maps are interpolated to this, relative; the depth scale follows to this over |1 - chi|.
_TOLERANCE = 1e-9
# Interpolated moments are right to 1e-12 or better.
_DOUBT = 1e-11
# What a point of a diagram takes: the series of its correlation map.
_CELL_BYTES = 1024


@dataclass(frozen=True, slots=True)
class PhaseDiagram:
    """Over `bias_variance` (rows, n_b) and `weight_variance` (columns, n_w); the other arrays have shape (n_b, n_w).

    `q` is what the variance tends to from q = 1 (0 where it decays, infinity where it diverges), `chi` chi_1 there,
    `correlation_depth` xi_c, `phase` the words "ordered", "critical" and "chaotic". xi_c is right to about 1e-9 xi_c
    relative; infinite where chi_c cannot be distinguished from 1, and where q decays or diverges.
    """

    weight_variance: Array
    bias_variance: Array
    q: Array
    chi: Array
    correlation_depth: Array
    phase: NDArray[np.str_]


@known_arguments
def phase_diagram(
    activation: ActivationLike, *, weight_variance: ArrayLike, bias_variance: ArrayLike, q0: float = 1.0
) -> PhaseDiagram:
    """Return the phase diagram over the weight variances (n_w,), above 0, and bias variances (n_b,) given.

    `q0` is where the variance starts, for activations with several fixed points. Schoenholz et al. 2017, figure 1, and
    Poole et al. 2016, figure 1. Raises `InputError` for a variance that is not valid.
    """
    elementwise = Elementwise.of(activation)
    weight, bias = (
        np.atleast_1d(numbers("weight_variance", weight_variance)),
        np.atleast_1d(numbers("bias_variance", bias_variance)),
    )
    if not (weight.ndim == bias.ndim == 1 and weight.size and bias.size):
        raise InputError("weight_variance and bias_variance must be one or more numbers each, in one dimension")
    if (weight == 0).any():
        raise InputError("weight_variance must be finite numbers above 0, got 0")
    cells = weight.size * bias.size
    fits_memory(f"a diagram of {weight.size} x {bias.size} points", cells * _CELL_BYTES, hint="give fewer points")
    start = number("q0", q0, above=True)
    q = _settled(elementwise, weight, bias, start)
    plane = np.broadcast_to(weight, q.shape)
    chi = _chi(elementwise, plane, q)
    depth = np.full(q.shape, np.inf)
    proper = (q > 0) & np.isfinite(q)
    ordered = proper & (chi < 1 - RESOLUTION)
    with np.errstate(divide="ignore"):
        depth[ordered] = -1 / np.log(np.maximum(chi[ordered], 0.0))
    chaotic = proper & (chi > 1 + RESOLUTION)
    if chaotic.any():
        depth[chaotic] = _chaotic(elementwise, plane[chaotic], q[chaotic])
    phase = np.where(chi > 1 + RESOLUTION, "chaotic", np.where(chi < 1 - RESOLUTION, "ordered", "critical"))
    return PhaseDiagram(weight, bias, q, chi, depth, phase)


def _settled(activation: Elementwise, weight: Array, bias: Array, start: float) -> Array:
    """Return the fixed point next to `start` in the direction in which the map moves it, (n_b, n_w)."""
    if activation.slopes is not None:
        chi = np.broadcast_to(weight * float(moments(activation, 1.0).slope), (bias.size, weight.size))
        critical = np.abs(chi - 1) <= 1e-14
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.where(chi < 1, bias[:, None] / (1 - chi), np.where(bias[:, None] + chi - 1 > 0, np.inf, 0.0))
        found = np.where(critical, np.where(bias[:, None] > 0, np.inf, start), found)
        return np.asarray(found)
    s = search_range(VarianceMap(activation, float(weight.max()), float(bias.max())))
    table = moment_table(activation)
    value = np.exp(table.log_moments(s)[0])
    origin = int(np.searchsorted(s, np.log(start)))
    low, high = np.empty((2, bias.size, weight.size))
    for row, sigma in enumerate(bias):
        excess = (weight[:, None] * value + sigma) / np.exp(s) - 1
        upwards = excess[:, origin] > 0
        # To the first grid point where the map moves q the other way, beyond doubt: at criticality it tends to keep it.
        rises, falls = excess > _DOUBT, excess < -_DOUBT
        above = origin + np.argmax(falls[:, origin:], axis=1)
        below = origin - np.argmax(rises[:, origin::-1], axis=1)
        stays = ~np.where(upwards, falls[:, origin:].any(axis=1), rises[:, : origin + 1].any(axis=1))
        low[row] = np.where(upwards, s[above - 1], s[below])
        high[row] = np.where(upwards, s[above], s[np.minimum(below + 1, s.size - 1)])
        low[row][stays] = np.where(upwards, np.inf, -np.inf)[stays]
    found = low.ravel().copy()
    inside = np.flatnonzero(np.isfinite(found))
    columns = np.broadcast_to(weight, low.shape).ravel()[inside]
    rows = np.broadcast_to(bias[:, None], low.shape).ravel()[inside]

    def growth(at: Array, which: NDArray[np.int_]) -> Array:
        return np.asarray(np.log(columns[which] * np.exp(table.log_moments(at)[0]) + rows[which]) - at)

    found[inside] = roots(growth, low.ravel()[inside], high.ravel()[inside])
    return np.asarray(np.exp(found).reshape(low.shape))


def _chi(activation: Elementwise, weight: Array, q: Array) -> Array:
    if activation.slopes is not None:
        return np.asarray(weight * float(moments(activation, 1.0).slope))
    ends = np.exp(search_range(VarianceMap(activation, float(weight.max()), 1.0))[[0, -1]])
    inner = np.clip(q, *ends)
    _, slope = moment_table(activation).log_moments(np.log(inner))
    return np.asarray(weight * np.where(q == 0, float(moments(activation, 0.0).slope), np.exp(slope)))


def _chaotic(activation: Elementwise, weight: Array, q: Array) -> Array:
    """Return xi_c at the fixed point c* < 1: the root theta of sigma_w^2 R / q = 1, and the map's slope there."""
    order = np.argsort(q)
    back = np.argsort(order)
    widest = np.pi / 2
    rows = np.broadcast_to(
        fit := kernel_rows(activation, q[order], widest, tolerance=_TOLERANCE), (q.size, fit.shape[1])
    )[back]

    def excess(theta: Array, which: NDArray[np.int_]) -> Array:
        return np.asarray(weight[which] * chebyshev.chebval(2 * theta / widest - 1, rows[which].T, tensor=False) - 1)

    theta = roots(excess, np.zeros(q.size), np.full(q.size, widest))
    y = 2 * theta / widest - 1
    ratio = chebyshev.chebval(y, rows.T, tensor=False)
    bent = chebyshev.chebval(y, chebyshev.chebder(rows.T), tensor=False) * 2 / widest
    # d c' / d c, of c' = 1 - sigma_w^2 R (1 - c) / q.
    chi = weight * (ratio + np.tan(theta / 2) * bent)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(np.abs(chi - 1) <= _TOLERANCE, np.inf, 1 / np.abs(np.log(np.abs(chi)))))


def roots(function: Callable[[Array, NDArray[np.int_]], Array], low: Array, high: Array) -> Array:
    """Return the root of each of many functions in its bracket, by the Illinois method.

    `function(x, which)` evaluates the functions with the indices `which`. Where both ends of a bracket have the same
    sign, the end with the smaller absolute value is returned.
    """
    every = np.arange(low.size)
    low, high = low.copy(), high.copy()
    at_low, at_high = function(low, every), function(high, every)
    found = np.where(np.abs(at_low) < np.abs(at_high), low, high)
    brackets = np.flatnonzero(at_low * at_high < 0)
    for _ in range(60):
        if not brackets.size:
            break
        a, b, fa, fb = low[brackets], high[brackets], at_low[brackets], at_high[brackets]
        x = b - fb * (b - a) / (fb - fa)
        fx = function(x, brackets)
        found[brackets] = x
        same = fx * fb > 0
        low[brackets] = np.where(same, a, b)
        at_low[brackets] = np.where(same, fa / 2, fb)
        high[brackets], at_high[brackets] = x, fx
        brackets = brackets[
            (np.abs(fx) > 1e-14) & (np.abs(high[brackets] - low[brackets]) > 1e-15 * np.maximum(1, np.abs(x)))
        ]
    return found


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

    `weight_variance` and `bias_variance` are ranges (low, high), by default wide enough for the critical line and for
    He's weight variance of 2. `initializers` are placed by the variances that they give square layers of `width` units;
    those to which mean field does not apply are listed with the reason. Raises `InputError` for an argument that is
    not valid.
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
    points, without = _initializer_points(elementwise, initializers, width)
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
        critical=None if point is None else PhasePoint("critical", point.weight_variance, point.bias_variance),
        initializers=points,
        without_point=without,
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
        at_q = moments(activation, q)
    except InputError:
        # phi grows so fast that its second moment exists only for small q.
        q = np.exp(np.linspace(-16.0, 1.0, 1200))
        at_q = moments(activation, q)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        weight = np.asarray(1 / at_q.slope)
        bias = np.asarray(q - at_q.value * weight)
        stable = np.asarray(at_q.growth * weight < 1)
    # Where phi is linear for small q the bias is a difference of equals.
    valid = np.isfinite(weight) & (bias >= -1e-9 * q)
    return weight[valid], np.maximum(bias[valid], 0.0), stable[valid]


def _height(right: float, point: CriticalPoint | None, weights: Array, biases: Array) -> float:
    """Return an upper end low enough that the critical line leaves the chart at the top, not at the right."""
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
        raise InputError(f"{name} must be LOW:HIGH with LOW below HIGH, got {low:g}:{high:g}")
    return low, high


def _middles(low: float, high: float, cells: int) -> Array:
    return low + (high - low) * (np.arange(cells) + 0.5) / cells


def _initializer_points(
    activation: Elementwise, initializers: Iterable[str], width: int
) -> tuple[tuple[PhasePoint, ...], tuple[tuple[str, str], ...]]:
    points, without = [], []
    for name in dict.fromkeys(parse_initializer(one).label for one in initializers):
        try:
            found = layer_variances(critical_initializer(name, activation), fan_in=width, fan_out=width)
        except InputError as error:
            without.append((name, str(error).split(": ", 1)[-1]))
            continue
        points.append(PhasePoint(name, found.weight_variance, found.bias_variance))
    return tuple(points), tuple(without)
