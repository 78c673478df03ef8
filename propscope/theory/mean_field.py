"""`MeanField`: a fully connected network of infinite width, one activation, one weight and bias variance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from propscope.checks import count, fits_memory, number, numbers
from propscope.errors import InputError
from propscope.records.theory import DepthScales, FixedPoint
from propscope.theory.correlation_kernel import correlation_kernel
from propscope.theory.depth_scales import depth_scales
from propscope.theory.elementwise import ActivationLike, Elementwise
from propscope.theory.fixed_points import VarianceMap, fixed_points
from propscope.theory.moment_tables import moment_table
from propscope.theory.propagation import Propagation, propagate
from propscope.theory.quadrature import moments

# The numbers of a layer: variances, correlations and angles.
_LAYER_BYTES = 64

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, init=False)
class MeanField:
    """z_l = W_l phi(z_{l-1}) + b_l at infinite width: weight_variance = fan_in Var[W], bias_variance = Var[b].

    q is E[z^2] over units and networks, c the correlation of two samples' z (Poole et al. 2016; Schoenholz et al.
    2017). `activation` is whatever `Elementwise.of` takes; its second moment at q = 1 must be finite.

    Raises `InputError` for a weight variance that is not above 0 or a bias variance below 0, or not finite.
    """

    activation: Elementwise
    weight_variance: float
    bias_variance: float

    def __init__(self, activation: ActivationLike, *, weight_variance: float, bias_variance: float = 0.0) -> None:
        elementwise = Elementwise.of(activation)
        moments(elementwise, 1.0)
        object.__setattr__(self, "activation", elementwise)
        object.__setattr__(self, "weight_variance", number("weight_variance", weight_variance, above=True))
        object.__setattr__(self, "bias_variance", number("bias_variance", bias_variance))

    def variance_map(self, q: ArrayLike) -> Any:
        """Return q' = sigma_w^2 V(q) + sigma_b^2 (Poole et al. 2016, eq. 3): a float, or an array of q's shape."""
        return _like(q, self.weight_variance * moments(self.activation, numbers("q", q)).value + self.bias_variance)

    def chi(self, q: ArrayLike) -> Any:
        """Return chi_1(q) = sigma_w^2 E[phi'^2] (Schoenholz et al. 2017, eq. 7): a float, or an array of q's shape."""
        return _like(q, self.weight_variance * moments(self.activation, numbers("q", q)).slope)

    def chi_parallel(self, q: ArrayLike) -> Any:
        """Return dq'/dq at q (Schoenholz et al. 2017, section 3.1): a float, or an array of q's shape."""
        return _like(q, self.weight_variance * moments(self.activation, numbers("q", q)).growth)

    def correlation_map(self, c: ArrayLike, q: float | None = None) -> Any:
        """Return c', the next layer's correlation of two samples of variance q and correlation c in [-1, 1].

        c' = 1 - sigma_w^2 R (1 - c) / q', the map of Poole et al. 2016, eq. 5, without its cancellation. q is the
        fixed point that q = 1 tends to unless given; where that is 0 or infinite, the limit: q = 1e-30 or 1e12.
        A float, or an array of c's shape. Raises `InputError` for a c outside of [-1, 1].
        """
        cosine = np.asarray(c, dtype=np.float64)
        if not ((cosine >= -1) & (cosine <= 1)).all():
            raise InputError(f"c must be a correlation from -1 to 1, got {c!r}")
        settled = self.fixed_point().q if q is None else number("q", q)
        at = min(max(settled, 1e-30), 1e12)
        gap = 1 - cosine.ravel()
        theta = 2 * np.arcsin(np.sqrt(gap / 2))
        ratio = correlation_kernel(self.activation, np.array([at])).at(0, theta)
        mapped = 1 - self.weight_variance * ratio * gap / float(self.variance_map(at))
        return _like(c, mapped.reshape(cosine.shape))

    def fixed_points(self) -> tuple[FixedPoint, ...]:
        """Return every fixed point of the variance map, ascending, with 0 and infinity where q decays and diverges."""
        return fixed_points(VarianceMap(self.activation, self.weight_variance, self.bias_variance))

    def fixed_point(self, q0: float = 1.0) -> FixedPoint:
        """Return where q tends to from q0: a fixed point, a decay or a divergence; q0 itself if it is fixed.

        Where every q is fixed (ReLU at 2, 0) that is q0 itself. Raises `InputError` where q tends to none, which only a
        variance map that is not monotone allows.
        """
        start = number("q0", q0)
        points = self.fixed_points()
        if points[0].stability == "line":
            return FixedPoint(start, "line", points[0].chi, points[0].chi_parallel)
        for point in points:
            if math.isfinite(point.q) and abs(start - point.q) <= 1e-9 * point.q:
                return point
        mapped = float(self.variance_map(start))
        ahead = [point for point in points if (point.q > start) == (mapped > start)]
        if not ahead:
            raise InputError(f"q tends to no fixed point from q0 = {start:g}; the variance map is not monotone")
        nearest = min(ahead, key=lambda point: abs(math.log(max(point.q, 1e-300) / max(start, 1e-300))))
        if nearest.stability == "unstable" and len(points) > 1 and not self._increasing(start, nearest.q):
            return min((p for p in points if p.stability != "unstable"), key=lambda p: abs(p.q - start))
        return nearest

    def depth_scales(self, q0: float = 1.0) -> DepthScales:
        """Return the depth scales at the fixed point that q0 tends to, and the depth to which a network can train."""
        return depth_scales(self.activation, self.weight_variance, self.fixed_point(q0))

    def propagate(self, q0: float, depth: int = 50, *, c0: float = 0.0) -> Propagation:
        """Return `depth` layers after one of variance q0, in which two samples correlate by c0.

        For inputs x of mean square m the first layer has q = sigma_w^2 m + sigma_b^2. Raises `InputError` for a q0
        that is negative or not finite, a depth below 1 and a c0 outside [-1, 1].
        """
        start = number("q0", q0)
        layers = count("depth", depth)
        fits_memory(f"depth {layers}", layers * _LAYER_BYTES, hint="choose a smaller depth")
        cosine = number("c0", c0, low=-1.0, high=1.0)
        return propagate(VarianceMap(self.activation, self.weight_variance, self.bias_variance), start, layers, cosine)

    def _increasing(self, low: float, high: float) -> bool:
        ends = sorted((max(low, 1e-12), min(max(high, 1e-12), 1e12)))
        value, _ = moment_table(self.activation).log_moments(np.linspace(math.log(ends[0]), math.log(ends[1]), 64))
        return bool((np.diff(value) >= -1e-10).all())


def _like(given: ArrayLike, found: Array) -> Any:
    return float(found) if np.ndim(given) == 0 else np.asarray(found)
