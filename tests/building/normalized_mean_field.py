"""Networks that normalize their pre-activations, and residual ones, where published theory covers them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from propscope.checks import count, number
from propscope.errors import InputError, unknown_name
from propscope.theory.elementwise import ActivationLike, Elementwise
from propscope.theory.fixed_points import VarianceMap
from propscope.theory.mean_field import MeanField
from propscope.theory.moment_tables import moment_table
from propscope.theory.propagation import MOST, Propagation, correlation_gaps
from propscope.theory.quadrature import _FAR, _NEAR, _TAIL, moments, nodes

Array = NDArray[np.float64]
Norm = Literal["none", "batch", "layer", "rms"]


@dataclass(frozen=True, slots=True, init=False)
class NormalizedMeanField:
    """z_{l+1} = z_l + W phi(norm(z_l)) + b at infinite width; without `residual` the first z_l is left out.

    The networks of `propscope.networks.MLPSpec`. `norm`: "none"; "layer" and "rms", after which every sample has
    variance 1, since over many units z has mean 0 (Ba et al. 2016; Zhang, Sennrich 2019); "batch", in training, for a
    large batch of samples that all correlate alike, which it leaves without correlation (Yang et al. 2019, the limit
    of a large batch of their fixed point; De, Smith 2020 with residual). The norms' parameters are those at
    initialization, their epsilon is neglected. `residual` without norm: Yang, Schoenholz 2017, for identity shortcuts.

    Raises `InputError` as `MeanField`, and for a norm that theory does not cover.
    """

    plain: MeanField
    norm: Norm
    residual: bool

    def __init__(
        self,
        activation: ActivationLike,
        *,
        weight_variance: float,
        bias_variance: float = 0.0,
        norm: Norm = "none",
        residual: bool = False,
    ) -> None:
        if norm not in get_args(Norm):
            raise unknown_name("norm", str(norm), get_args(Norm))
        field = MeanField(activation, weight_variance=weight_variance, bias_variance=bias_variance)
        object.__setattr__(self, "plain", field)
        object.__setattr__(self, "norm", norm)
        object.__setattr__(self, "residual", bool(residual))

    def propagate(self, q0: float, depth: int = 50, *, c0: float = 0.0) -> Propagation:
        """Return `depth` layers after one of variance q0, in which samples correlate by c0, as `MeanField.propagate`.

        `gradient_factor` is sigma_w^2 D over the variance that the norm divides by, and 1 more with a residual. Batch
        norm divides by the variance over the batch, q (1 - c): c0 must be below 1. Raises `InputError` as that.
        """
        start, layers = number("q0", q0), count("depth", depth)
        cosine = number("c0", c0, low=-1.0, high=1.0)
        if self.norm == "none" and not self.residual:
            return self.plain.propagate(start, layers, c0=cosine)
        if self.norm != "none" and start == 0:
            raise InputError("q0 is 0; valid is a variance above 0, which a norm can divide by")
        if self.norm == "batch":
            return self._batch(start, layers, 1 - cosine)
        q = self._stream(start, layers)
        finite = np.isfinite(q)
        at = q if self.norm == "none" else np.where(finite, 1.0, np.inf)
        field, carry = self.plain, q if self.residual else np.zeros(q.size)
        slope = np.full(q.size, math.nan)
        slope[finite] = field.weight_variance * moments(field.activation, at[finite]).slope
        slope[~finite] = slope[finite][-1]
        with np.errstate(invalid="ignore"):
            factor = slope * np.where(finite, at / q, 0.0 if self.norm != "none" else 1.0) + self.residual
        gap = correlation_gaps(self._map, q, at, carry, 1 - cosine)
        return Propagation(q, factor, 1 - gap, gap)

    @property
    def gradient_factor(self) -> float:
        """The gradient's factor of the squared norm per layer where it tends to a constant, else NaN.

        LayerNorm and RMSNorm: sigma_w^2 D(1) / (sigma_w^2 V(1) + sigma_b^2). BatchNorm: D(1) / Var(phi(z)), pi /
        (pi - 1) = 1.467 for ReLU and 1 for the identity (Yang et al. 2019). 1 with a residual after a norm, whose
        stream grows without end.
        """
        if self.norm == "none":
            return math.nan
        if self.residual:
            return 1.0
        field = self.plain
        known = moments(field.activation, 1.0)
        grown = field.weight_variance * float(known.value) + field.bias_variance
        if self.norm == "batch":
            return float(known.slope) / self._varies
        return field.weight_variance * float(known.slope) / grown

    @property
    def _map(self) -> VarianceMap:
        return VarianceMap(self.plain.activation, self.plain.weight_variance, self.plain.bias_variance)

    @property
    def _varies(self) -> float:
        """Var(phi(z)) of a standard normal z."""
        centre = expectation(self.plain.activation, 1.0, lambda z, phi, slope: phi)
        return float(moments(self.plain.activation, 1.0).value) - centre**2

    def _stream(self, q: float, depth: int) -> Array:
        field = self.plain
        if self.norm != "none":
            added = field.weight_variance * float(moments(field.activation, 1.0).value) + field.bias_variance
            return np.asarray(q + added * np.arange(depth + 1)) if self.residual else np.array([q] + [added] * depth)
        table, slopes = moment_table(field.activation), field.activation.slopes
        zero = float(field.activation.value(np.zeros(1))[0]) ** 2
        found = [q]
        for _ in range(depth):
            if slopes is not None:
                value = (slopes[0] ** 2 + slopes[1] ** 2) / 2 * q
            else:
                value = math.exp(table.log_value(math.log(q))) if q > 1e-290 else zero
            q = q + field.weight_variance * value + field.bias_variance
            if q > MOST:
                return np.array(found + [math.inf] * (depth + 1 - len(found)))
            found.append(q)
        return np.array(found)

    def _batch(self, q: float, depth: int, gap: float) -> Propagation:
        field = self.plain
        if gap == 0:
            raise InputError("c0 is 1, and batch norm divides by what samples differ in; valid is a c0 below 1")
        known = moments(field.activation, 1.0)
        differs = field.weight_variance * self._varies
        grown = field.weight_variance * float(known.value) + field.bias_variance
        layers = np.arange(depth + 1, dtype=np.float64)
        if self.residual:
            variance, varies = q + grown * layers, q * gap + differs * layers
        else:
            variance, varies = np.array([q] + [grown] * depth), np.array([q * gap] + [differs] * depth)
        factor = field.weight_variance * float(known.slope) / varies + self.residual
        gaps = varies / variance
        return Propagation(variance, factor, 1 - gaps, gaps)


def linear_batch_norm_factor(batch: int) -> float:
    """Return (B - 2) / (B - 3), the squared gradient's factor per layer of batch norm alone, for batches of B > 3.

    Yang et al. 2019, for the identity as activation; it tends to 1 for large batches. Raises `InputError` for B < 4, at
    which the gradient has no finite mean square.
    """
    size = count("batch", batch)
    if size < 4:
        raise InputError(f"batch is {size}; valid is at least 4, below which the gradient has no finite mean square")
    return (size - 2) / (size - 3)


def expectation(activation: Elementwise, q: float, function: Callable[[Array, Array, Array], Array]) -> float:
    """Return E[f(z, phi(x), phi'(x))], x = sqrt(q) z, for a finite q > 0 and `function` f of arrays of one shape.

    Raises `InputError` where the expectation is not finite.
    """
    for window in (_NEAR, _FAR):
        z, weight, outermost = nodes(activation, np.array([q]), window)
        x = np.sqrt(q) * z
        with np.errstate(over="ignore", invalid="ignore"):
            sums = (function(z, activation.value(x), activation.derivative(x)) * weight).sum(axis=2)
        if np.isfinite(sums).all() and np.abs(sums[outermost]).sum() <= _TAIL * np.abs(sums).sum():
            return float(sums.sum())
    raise InputError(f"activation {activation.label!r} has no finite moment of the order asked for at q = {q:g}")
