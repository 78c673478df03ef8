"""How deep a signal reaches: the depth scales of the variance, of the correlation, and of the gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import brentq

from propscope.theory.elementwise import Elementwise
from propscope.theory.fixed_points import FixedPoint
from propscope.theory.hermite import correlation_kernel
from propscope.theory.quadrature import slope_product

Phase = Literal["ordered", "critical", "chaotic"]
# chi is right to about 1e-14; nearer to 1 than this it is not told from 1.
RESOLUTION = 2e-13


@dataclass(frozen=True, slots=True)
class DepthScales:
    """Numbers of layers, floats; infinite at criticality.

    `variance`: xi_q = -1 / ln chi_parallel at the fixed point q*. `correlation`: xi_c = -1 / ln chi_c at the fixed
    point c* = `fixed_correlation` of the correlation map, 1 in the ordered phase and below in the chaotic one.
    `gradient`: 1 / |ln chi_1|, over which the squared gradient vanishes or explodes e-fold (Schoenholz et al. 2017,
    eqs. 9, 11 and 16). `chi_correlation` is chi_c. `trainable_depth` = 6 xi_c, to which they find that networks
    train (their section 5 and figure 5); where q* is 0 or infinite, 6 times the gradient's scale.

    A scale xi is right to about 1e-14 xi relative, and infinite from 5e12 on: chi is then not told from 1. At an
    unstable q* `variance` is the scale on which q leaves it. Where q decays to 0 or diverges with phi linear in the
    limit, the correlation keeps or approaches its limit by no exponential law: `correlation` is infinite.
    """

    variance: float
    correlation: float
    gradient: float
    trainable_depth: float
    fixed_correlation: float
    chi_correlation: float
    phase: Phase


def depth_scale(chi: float) -> float:
    """Return 1 / |ln chi|: infinite for chi = 1 within its accuracy, 0 for chi = 0."""
    size = abs(chi)
    if abs(size - 1) <= RESOLUTION:
        return math.inf
    return 1 / abs(math.log(size)) if size > 0 else 0.0


def phase_of(chi: float) -> Phase:
    """Return "ordered" for chi_1 < 1, "chaotic" for chi_1 > 1, "critical" where they are not told apart."""
    if abs(chi - 1) <= RESOLUTION:
        return "critical"
    return "ordered" if chi < 1 else "chaotic"


def correlation_angle(activation: Elementwise, weight_variance: float, q: float, chi: float) -> float:
    """Return theta*, cos theta* = c*, of the fixed point of the correlation map at a fixed point q of the variance.

    0 for chi_1 <= 1. For chi_1 > 1 the root below pi/2 of sigma_w^2 R(q, theta) = q, which has one since the map is
    convex in c and maps 0 to at least 0 (Poole et al. 2016, section 2.2); bracketed, in ln theta.
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
