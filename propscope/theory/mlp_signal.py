"""A multilayer perceptron at infinite width: its variances, and its signal layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from propscope.errors import InputError
from propscope.networks.mlp import MLPSpec, Norm
from propscope.theory.correlation_kernel import correlation_kernel
from propscope.theory.elementwise import Elementwise
from propscope.theory.initialization import LayerVariances, critical_initializer, layer_variances
from propscope.theory.moment_tables import moment_table
from propscope.theory.propagation import LEAST, MOST, CorrelationSteps, decorrelations
from propscope.theory.quadrature import moments, nodes

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MLPVariances:
    """An `MLPSpec` as theory needs it: numbers of units, and variances of weights and biases.

    `units`: of the input and of each layer. `layers`: the variances of each layer. `readout`: those of the readout, or
    None, and `outputs` its units. `dropout_factor`: 1 / (1 - dropout), the factor of second moments. `flat_biases`:
    whether the biases have a uniform distribution, as torch's default does. `branch_scale`: the factor s of a residual
    branch, whose square the variances of all layers but the first contain: z' = z + s (W h + b).
    """

    activation: Elementwise
    units: tuple[int, ...]
    layers: tuple[LayerVariances, ...]
    readout: LayerVariances | None
    outputs: int
    norm: Norm
    residual: bool
    dropout_factor: float
    flat_biases: bool
    branch_scale: float = 1.0

    @property
    def widths(self) -> NDArray[np.int_]:
        """The number of units of each layer, shape (layers,)."""
        return np.array(self.units[1:])

    def weight_variances(self) -> Array:
        """Return sigma_w^2 of each layer, shape (layers,)."""
        return np.array([layer.weight_variance for layer in self.layers])

    def bias_variances(self) -> Array:
        """Return sigma_b^2 of each layer, shape (layers,)."""
        return np.array([layer.bias_variance for layer in self.layers])


def mlp_variances(spec: MLPSpec, *, mean_square: float) -> MLPVariances:
    """Return the variances of a spec; the numbers of `critical` are those for inputs of this mean square.

    Raises `InputError` for an initializer, an activation or alpha dropout that mean field does not cover.
    """
    if spec.alpha_dropout:
        raise InputError("theory does not cover alpha_dropout", hint="leave it out, or use dropout")
    activation = Elementwise.of(spec.activation)
    initializer = critical_initializer(spec.initializer, activation, bias=spec.bias_std, mean_square=mean_square)
    by_shape: dict[Any, LayerVariances] = {}

    def variances(fan_in: int, fan_out: int, first: bool) -> LayerVariances:
        key = fan_in, fan_out, first
        if key not in by_shape:
            which = initializer.first_layer if first else initializer
            gain = spec.gain_of(which, fan_in, fan_out)
            by_shape[key] = layer_variances(which, fan_in=fan_in, fan_out=fan_out, bias=spec.bias_std, gain=gain)
        return by_shape[key]

    def branch(layer: LayerVariances) -> LayerVariances:
        weight, bias = (spec.branch_scale**2 * one for one in (layer.weight_variance, layer.bias_variance))
        return replace(layer, weight_variance=weight, bias_variance=bias)

    units = (spec.input_size or spec.widths[0], *spec.widths)
    return MLPVariances(
        activation=activation,
        units=units,
        layers=tuple(
            branch(variances(*fans, False)) if layer else variances(*fans, True)
            for layer, fans in enumerate(pairwise(units))
        ),
        readout=variances(units[-1], spec.output_size, False) if spec.output_size else None,
        outputs=spec.output_size or 0,
        norm=spec.norm,
        residual=bool(spec.residual),
        branch_scale=spec.branch_scale,
        dropout_factor=1 / (1 - spec.dropout),
        flat_biases=spec.bias_std is None and spec.initializer.name == "default",
    )


# What torch's norms add to the variance that they divide by; RMSNorm takes it from the dtype, here float32.
_EPSILON = {"none": 0.0, "batch": 1e-5, "layer": 1e-5, "rms": 1.1920929e-07}


@dataclass(frozen=True, slots=True)
class MLPSignal:
    """The signal of an MLP at infinite width, arrays of shape (layers,).

    `q` and `c`: the variance of z, before a norm, and its correlation between two samples; z is the stream in a
    residual network. `divisor`: the number by which a norm divides the variance, else 1. `at` and `at_c`: variance and
    correlation where z enters phi. `value` V, `slope` D and `mean` E[phi] at that variance; `product` E[phi(u) phi(v)]
    of two samples. `branch` and `branch_c`: variance and correlation of the linear layer's own output.
    """

    q: Array
    c: Array
    divisor: Array
    at: Array
    at_c: Array
    value: Array
    slope: Array
    mean: Array
    product: Array
    branch: Array
    branch_c: Array

    @property
    def factor(self) -> Array:
        """D / divisor: the factor of the gradient's mean square from dL/dh to dL/dz."""
        return np.asarray(self.slope / self.divisor)


def mlp_signal(mlp: MLPVariances, *, mean_square: float, cosine: float, batch: int | None) -> MLPSignal:
    """Return the signal for inputs of this mean square and mean cosine; only batch norm depends on `batch`.

    Variances beyond 1e300 are infinite, and what depends on them is NaN.
    """
    weights, biases = mlp.weight_variances(), mlp.bias_variances()
    first = weights[0] * mean_square + biases[0]
    first_c = (weights[0] * mean_square * cosine + biases[0]) / first if first else 1.0
    if mlp.norm == "batch":
        return _through_batch_norm(mlp, first, first_c, batch)
    q, divisor = _variances(mlp, first)
    at = q / divisor
    value, slope, mean = _moments(mlp.activation, at)
    # Correlations hardly depend on the inputs' mean square: rounded, they are computed once for many batches.
    c, ratio = _correlations(mlp, nearly(mean_square), 0.002 * round(cosine / 0.002))
    product = ratio * value
    branch, branch_c = q.copy(), c.copy()
    if mlp.residual:
        branch[1:] = weights[1:] * mlp.dropout_factor * value[:-1] + biases[1:]
        with np.errstate(invalid="ignore", divide="ignore"):
            branch_c[1:] = (weights[1:] * product[:-1] + biases[1:]) / branch[1:]
    return MLPSignal(q, c, divisor, at, c, value, slope, mean, product, branch, branch_c)


def nearly(mean_square: float) -> float:
    """Return the number rounded to two digits."""
    return float(f"{mean_square:.1e}")


def _variances(mlp: MLPVariances, q: float) -> tuple[Array, Array]:
    """Return q and the divisor of each layer, from the first layer's q."""
    slopes, table = mlp.activation.slopes, moment_table(mlp.activation)
    at_zero = float(mlp.activation.value(np.zeros(1))[0]) ** 2
    epsilon, normed = _EPSILON[mlp.norm], mlp.norm != "none"
    found, divisors = [q], []
    for layer in mlp.layers[1:]:
        divisor = q + epsilon if normed else 1.0
        divisors.append(divisor)
        at = q / divisor if divisor else math.nan
        if slopes is not None:
            value = (slopes[0] ** 2 + slopes[1] ** 2) / 2 * at
        else:
            value = math.exp(table.log_value(math.log(at))) if at > LEAST else at_zero
        q = q * mlp.residual + layer.weight_variance * mlp.dropout_factor * value + layer.bias_variance
        if not q <= MOST:
            missing = len(mlp.layers) - len(found)
            return np.array(found + [math.inf] * missing), np.array(divisors + [math.nan if normed else 1.0] * missing)
        found.append(q)
    return np.array(found), np.array([*divisors, q + epsilon if normed else 1.0])


def _moments(activation: Elementwise, at: Array) -> tuple[Array, Array, Array]:
    """Return V, D and E[phi] at every variance, NaN where it is not finite."""
    found = np.full((3, at.size), math.nan)
    usable = np.isfinite(at)
    if activation.slopes is not None:
        falling, rising = activation.slopes
        half = (falling**2 + rising**2) / 2
        found[:] = half * at, np.full(at.size, half), (rising - falling) * np.sqrt(at / (2 * np.pi))
        return found[0], found[1], found[2]
    distinct, which = np.unique(at[usable], return_inverse=True)
    at_q = moments(activation, distinct)
    z, weight, _ = nodes(activation, np.maximum(distinct, 1e-300))
    mean = (activation.value(np.sqrt(distinct)[:, None, None] * z) * weight).sum(axis=(1, 2))
    found[:, usable] = np.stack([at_q.value, at_q.slope, mean])[:, which.ravel()]
    return found[0], found[1], found[2]


@lru_cache(maxsize=512)
def _correlations(mlp: MLPVariances, mean_square: float, cosine: float) -> tuple[Array, Array]:
    """Return c of each layer and E[phi(u) phi(v)] / V after it."""
    weights, biases = mlp.weight_variances(), mlp.bias_variances()
    start = weights[0] * mean_square + biases[0]
    first = (weights[0] * mean_square * cosine + biases[0]) / start if start else 1.0
    q, divisor = _variances(mlp, start)
    value, _, _ = _moments(mlp.activation, q / divisor)
    at = q / divisor
    usable = np.isfinite(q) & (at > LEAST)
    end = q.size if usable.all() else max(int(np.argmin(usable)), 1)
    # The last activation needs R (1 - c) too: as if another layer without bias and stream followed.
    weight = np.append(weights[1:end], 1.0)
    following = np.append(q[1:end], value[end - 1])
    carry = np.append(q[: end - 1] * mlp.residual, 0.0)
    # In units of its weight variance each step has the weight variance 1.
    following, carry = following / weight, carry / weight
    # The variance that dropout adds is independent between samples.
    lost = np.append((mlp.dropout_factor - 1) * value[: end - 1], 0.0)
    gap = np.full(q.size + 1, math.nan)
    if not usable[0]:
        return np.full(q.size, first), np.full(q.size, math.nan)
    if mlp.dropout_factor == 1:
        settled = 0
        for array in (at[:end], carry, following):
            changes = np.flatnonzero(np.diff(array) != 0)
            settled = max(settled, int(changes[-1]) + 1 if changes.size else 0)
        gap[: end + 1] = decorrelations(
            CorrelationSteps(mlp.activation, 1.0, at[:end], carry, following, settled), 1 - first
        )
    else:
        kernel = correlation_kernel(mlp.activation, at[:end])
        gap[0] = 1 - first
        for layer in range(end):
            here = min(max(gap[layer], 0.0), 2.0)
            theta = 2 * math.asin(math.sqrt(here / 2))
            ratio = float(kernel.at(layer, np.array([theta]))[0])
            gap[layer + 1] = ((carry[layer] + ratio) * here + lost[layer]) / following[layer]
    c = 1 - gap[:-1]
    product = np.full(q.size, math.nan)
    product[: end - 1] = value[: end - 1] - (gap[1:end] * following[:-1] - lost[:-1] - carry[:-1] * gap[: end - 1])
    product[end - 1] = value[end - 1] * (1 - gap[end])
    with np.errstate(invalid="ignore", divide="ignore"):
        return c, product / value


def _through_batch_norm(mlp: MLPVariances, first: float, first_c: float, batch: int | None) -> MLPSignal:
    """Return the signal for a large batch in which every pair of samples has one correlation.

    Yang et al. 2019; with residual connections De, Smith 2020.
    """
    weights, biases = mlp.weight_variances(), mlp.bias_variances()
    value, slope, mean = (float(one[0]) for one in _moments(mlp.activation, np.ones(1)))
    at_c = 0.0 if batch is None else -1 / (batch - 1)
    product = mean**2 + at_c * _tangent(mlp.activation) ** 2
    branch = weights * mlp.dropout_factor * value + biases
    shared = weights * product + biases
    branch[0], shared[0] = first, first * first_c
    q, both = (np.cumsum(one) if mlp.residual else one for one in (branch, shared))
    ones = np.ones(weights.size)
    # The variance over the batch, about the batch's own mean.
    part = 1.0 if batch is None else 1 - 1 / batch
    return MLPSignal(
        q=q,
        c=both / q,
        divisor=(q - both) * part + _EPSILON["batch"],
        at=ones,
        at_c=at_c * ones,
        value=value * ones,
        slope=slope * ones,
        mean=mean * ones,
        product=product * ones,
        branch=branch,
        branch_c=shared / branch,
    )


def _tangent(activation: Elementwise) -> float:
    """Return E[z phi(z)] = E[phi']."""
    z, weight, _ = nodes(activation, np.ones(1))
    return float((z * activation.value(z) * weight).sum())
