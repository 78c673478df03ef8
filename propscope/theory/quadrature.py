"""Gaussian expectations of an activation in one and two dimensions, in float64, split at the cuts of its pieces.

z and z' are independent standard normal variables. q is the variance of a pre-activation, and theta the angle between
two samples, whose correlation is cos(theta).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from propscope.checks import numbers
from propscope.errors import InputError
from propscope.theory.elementwise import Elementwise

Array = NDArray[np.float64]

_NEAR = np.array([0.0, 1.5, 3.0, 4.5, 6.0, 8.0, 10.0, 12.0])
# The normal density at 38 is the smallest number there is.
_FAR = np.array([*_NEAR, *np.arange(14.0, 39.0, 2.0)])
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
_PLANE = np.array([0.0, 1.0, 2.5, 4.0, 6.0, 8.75])
_PLANE_NODES, _PLANE_WEIGHTS = np.polynomial.legendre.leggauss(12)
_TAIL = 1e-13
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Moments:
    """Expectations over x = sqrt(q) z, arrays of q's shape.

    `value` V(q) = E[phi(x)^2], `slope` D(q) = E[phi'(x)^2], `growth` V'(q) = dV/dq.
    """

    value: Array
    slope: Array
    growth: Array


def moments(activation: Elementwise, q: Array | float) -> Moments:
    """Return V, D and V' at every q >= 0, to about 1e-14 relative; at q = 0 their limits.

    V and D are those of Poole et al. 2016, eq. 3, and Schoenholz et al. 2017, eq. 7, by composite Gauss-Legendre
    quadrature between the cuts of `Elementwise.pieces`. Raises `InputError` for a q that is negative or not finite, and
    where a moment is not finite.
    """
    asked = numbers("q", q)
    if activation.slopes is not None:
        falling, rising = activation.slopes
        half = np.full_like(asked, (falling**2 + rising**2) / 2)
        return Moments(half * asked, half, half)
    # A square underflows below this; the other moments have reached their limits.
    flat = np.maximum(asked.ravel(), 1e-300)
    found = np.empty((3, flat.size))
    order = np.argsort(flat)
    for part in np.array_split(order, max(1, flat.size // 64)):
        found[:, part] = _line(activation, flat[part])
    found[0, asked.ravel() < 1e-300] = float(activation.value(np.zeros(1))[0]) ** 2
    value, slope, growth = found.reshape(3, *asked.shape)
    return Moments(value, slope, growth)


def _line(activation: Elementwise, q: Array, window: Array = _NEAR) -> Array:
    z, weight, outermost = nodes(activation, q, window)
    root = np.sqrt(q)[:, None, None]
    with np.errstate(over="ignore", invalid="ignore"):
        phi, slope = activation.value(root * z), activation.derivative(root * z)
        terms = [phi * phi, slope * slope, z * phi * slope / root]
        if not activation.continuous:
            terms[2] = (z * z - 1) * phi * phi / (2 * root * root)
        sums = np.stack([(term * weight).sum(axis=2) for term in terms])
        found: Array = sums.sum(axis=2)
        edge = np.where(outermost, np.abs(sums), 0).sum(axis=2)
        heavy = ~((edge <= _TAIL * np.abs(sums).sum(axis=2)) & np.isfinite(found)).all(axis=0)
    if heavy.any():
        if window is _FAR:
            raise InputError(
                f'activation "{activation.label}" has no finite second moment at q = {q[heavy][0]:g}',
                hint="give a function that grows more slowly than exp(x^2 / (4 q))",
            )
        found[:, heavy] = _line(activation, q[heavy], _FAR)
    return found


def nodes(activation: Elementwise, q: Array, window: Array = _NEAR) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Return z and its weights, shape (q, panels, nodes), and which panels touch the window's ends."""
    reach = window[-1]
    cuts = activation.pieces.within(float(reach * np.sqrt(q.max())))
    fixed = np.concatenate([-window[:0:-1], window])
    scaled = np.clip(cuts / np.sqrt(q)[:, None], -reach, reach)
    edges = np.sort(np.concatenate([np.broadcast_to(fixed, (q.size, fixed.size)), scaled], axis=1), axis=1)
    half = np.diff(edges, axis=1)[:, :, None] / 2
    z = (edges[:, :-1] + edges[:, 1:])[:, :, None] / 2 + half * _NODES
    weight = half * _WEIGHTS * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    return z, weight, np.abs(z[:, :, 0]) > window[-2]


def _plane(
    activation: Elementwise, q: float, theta: float, function: Callable[[Array, Array], Array], cuts: Array
) -> float:
    """Return E[f(u1, u2)], f symmetric, of two normal variables of variance q whose correlation is cos(theta).

    The axes of integration are s and t with u = sqrt(q) (cos(theta/2) s +- sin(theta/2) t). The axis with the larger
    factor is the inner one, so that a cut of phi crosses every inner line; the outer axis is cut where cuts of the two
    variables meet.
    """
    wide, narrow = np.cos(theta / 2), np.sin(theta / 2)
    sign = 1.0
    if wide < narrow:
        wide, narrow, sign = narrow, wide, -1.0
    root = np.sqrt(q)
    cuts = cuts / root
    reach = _PLANE[-1]
    fixed = np.concatenate([-_PLANE[:0:-1], _PLANE])
    meets = _meetings(cuts, np.array(activation.kinks) / root, sign, 2 * reach * narrow)
    outer_edges = np.unique(np.concatenate([fixed, meets / (2 * narrow), [0.0]]))
    half = np.diff(outer_edges)[:, None] / 2
    outer = ((outer_edges[:-1, None] + half) + half * _PLANE_NODES).ravel()
    outer_weight = (half * _PLANE_WEIGHTS).ravel() * np.exp(-outer * outer / 2)
    inner_count = (fixed.size + 2 * cuts.size) * _PLANE_NODES.size
    if sign > 0:
        # Turning the outer axis exchanges u1 and u2.
        positive = outer > 0
        outer, outer_weight = outer[positive], 2 * outer_weight[positive]
    total = 0.0
    for part in np.array_split(np.arange(outer.size), 1 + outer.size * inner_count // _CHUNK):
        shift = narrow * outer[part, None]
        crossing = np.clip(np.concatenate([cuts - shift, sign * cuts + shift], axis=1) / wide, -reach, reach)
        edges = np.sort(np.concatenate([np.broadcast_to(fixed, (part.size, fixed.size)), crossing], axis=1), axis=1)
        half = np.diff(edges, axis=1)[:, :, None] / 2
        inner = (edges[:, :-1, None] + half) + half * _PLANE_NODES
        weight = half * _PLANE_WEIGHTS * np.exp(-inner * inner / 2)
        first = root * (wide * inner + shift[:, :, None])
        second = sign * root * (wide * inner - shift[:, :, None])
        total += float(((function(first, second) * weight).sum(axis=(1, 2))) @ outer_weight[part])
    return total / (2 * np.pi)


def _meetings(cuts: Array, kinks: Array, sign: float, reach: float) -> Array:
    """Return x_j - sign x_k of all pairs of cuts, within reach: where the outer integrand may bend.

    It bends there on the wider of the two scales, so that wide pieces need few cuts. For two kinks the value is exact.
    """
    if not cuts.size:
        return cuts
    gaps = np.diff(cuts, prepend=-np.inf, append=np.inf)
    width = np.minimum(np.minimum(gaps[:-1], gaps[1:]), reach)
    width[np.isin(cuts, kinks)] = 0.0
    scale = np.maximum(width[:, None], width)
    meets = cuts[:, None] - sign * cuts
    inside = (np.abs(meets) < reach) & (reach > 0)
    meets, scale = meets[inside], scale[inside]
    exact = scale == 0
    grain = 2.0 ** np.floor(np.log2(scale[~exact]) - 1)
    return np.unique(np.concatenate([meets[exact], np.round(meets[~exact] / grain) * grain]))


def decorrelation(activation: Elementwise, q: float, theta: float) -> float:
    """Return R = E[(phi(u1) - phi(u2))^2] / (2 (1 - cos theta)), so that E[phi(u1) phi(u2)] = V - (1 - c) R.

    u1 and u2 have variance q > 0 and correlation c = cos theta, theta in [0, pi]; at theta = 0 the value is the limit
    q D(q). The difference is squared before it is integrated, so that the relative error is about 1e-12 + 1e-16 /
    theta, also as c tends to 1. This is the correlation map of Poole et al. 2016, eq. 5, without its cancellation.
    """
    if activation.slopes is not None:
        return q * float(homogeneous_decorrelation(activation.slopes, np.array(theta)))
    if theta < 1e-9 and activation.continuous:
        return q * float(moments(activation, q).slope)
    cuts = activation.pieces.within(float(_PLANE[-1] * 1.5 * np.sqrt(q)))

    def squared(u: Array, v: Array) -> Array:
        return np.asarray((activation.value(u) - activation.value(v)) ** 2)

    return _plane(activation, q, theta, squared, cuts) / (4 * math.sin(theta / 2) ** 2)


def slope_product(activation: Elementwise, q: float, theta: float) -> float:
    """Return E[phi'(u1) phi'(u2)] = chi_c / sigma_w^2 (Schoenholz et al. 2017, eq. 8), u1, u2 as in `decorrelation`."""
    if activation.slopes is not None:
        falling, rising = activation.slopes
        odd, even = (falling + rising) / 2, (rising - falling) / 2
        return odd**2 + even**2 * (1 - 2 * theta / np.pi)
    if theta < 1e-9:
        return float(moments(activation, q).slope)
    cuts = activation.pieces.within(float(_PLANE[-1] * 1.5 * np.sqrt(q)))
    return _plane(activation, q, theta, lambda u, v: activation.derivative(u) * activation.derivative(v), cuts)


def homogeneous_decorrelation(slopes: tuple[float, float], theta: Array) -> Array:
    """Return R / q of phi = o x + e |x|: o^2 + e^2 (1 - (2/pi) (sin t - t cos t) / (1 - cos t)).

    Cho, Saul 2009, eq. 6, for n = 1.
    """
    falling, rising = slopes
    odd, even = (falling + rising) / 2, (rising - falling) / 2
    small = theta < 0.1
    safe = np.where(small, 1.0, theta)
    ratio = (np.sin(safe) - safe * np.cos(safe)) / (2 * np.sin(safe / 2) ** 2)
    t2 = theta * theta
    series = (
        theta * (2 / 3) * (1 - t2 / 10 * (1 - t2 / 28 * (1 - t2 / 54))) / (1 - t2 / 12 * (1 - t2 / 30 * (1 - t2 / 56)))
    )
    found: Array = odd**2 + even**2 * (1 - 2 / np.pi * np.where(small, series, ratio))
    return found
