"""The depth scales of the variance, of the correlation and of the gradient: how deep a signal reaches."""

from __future__ import annotations

import math

import numpy as np

from propscope.records.theory import DepthScales, FixedPoint, Phase
from propscope.theory.correlation_kernel import correlation_kernel
from propscope.theory.elementwise import Elementwise
from propscope.theory.quadrature import slope_product

# chi is right to about 1e-14; nearer to 1 than this it counts as 1.
RESOLUTION = 2e-13


def depth_scale(chi: float) -> float:
    """Return 1 / |ln chi|, which is infinite for chi = 1 within its accuracy and 0 for chi = 0."""
    size = abs(chi)
    if abs(size - 1) <= RESOLUTION:
        return math.inf
    return 1 / abs(math.log(size)) if size > 0 else 0.0


def phase_of(chi: float) -> Phase:
    """Return "ordered" for chi_1 < 1, "chaotic" for chi_1 > 1, "critical" where chi_1 is 1 within its accuracy."""
    if abs(chi - 1) <= RESOLUTION:
        return "critical"
    return "ordered" if chi < 1 else "chaotic"


def correlation_angle(activation: Elementwise, weight_variance: float, q: float, chi: float) -> float:
    """Return theta* of the fixed point c* = cos theta* of the correlation map, at a fixed point q of the variance.

    It is 0 for chi_1 <= 1. For chi_1 > 1 it is the root below pi/2 of sigma_w^2 R(q, theta) = q, which exists because
    the map is convex in c and maps 0 to at least 0 (Poole et al. 2016, section 2.2). It is bracketed in ln theta.
    """
    if chi <= 1 + RESOLUTION:
        return 0.0

    kernel = correlation_kernel(activation, np.array([q]), tolerance=1e-13)

    def excess(log_theta: float) -> float:
        return weight_variance * float(kernel.at(0, np.array([math.exp(log_theta)]))[0]) / q - 1

    right, least = math.log(math.pi / 2), math.log(1e-12)
    if excess(right) >= -1e-13:
        return math.pi / 2
    if excess(least) <= 0:
        return 0.0
    # Its import takes 0.3 s, and most grids need no root.
    from scipy.optimize import brentq

    return math.exp(brentq(excess, least, right, xtol=1e-15, rtol=1e-15))


def depth_scales(activation: Elementwise, weight_variance: float, point: FixedPoint) -> DepthScales:
    """Return the depth scales at a fixed point of the variance map."""
    gradient, variance = depth_scale(point.chi), depth_scale(point.chi_parallel)
    phase = phase_of(point.chi)
    if point.stability == "line" or not 0 < point.q < math.inf:
        return DepthScales(variance, math.inf, gradient, 6 * gradient, 1.0, 1.0, phase)
    angle = correlation_angle(activation, weight_variance, point.q, point.chi)
    chi = weight_variance * slope_product(activation, point.q, angle) if angle else point.chi
    correlation = depth_scale(chi)
    return DepthScales(variance, correlation, gradient, 6 * correlation, math.cos(angle), chi, phase)
