"""The signal of a chain at infinite width, layer by layer: variances, moments of phi, correlations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from propscope.theory.correlation_path import CorrelationSteps, follow
from propscope.theory.elementwise import Elementwise
from propscope.theory.hermite import correlation_kernel
from propscope.theory.mlp_chain import Chain
from propscope.theory.propagation import LEAST, MOST
from propscope.theory.quadrature import moments, nodes
from propscope.theory.tables import moment_table

Array = NDArray[np.float64]

# What torch's norms add to the variance that they divide by; RMSNorm takes it from the dtype, here float32.
_EPSILON = {"none": 0.0, "batch": 1e-5, "layer": 1e-5, "rms": 1.1920929e-07}


@dataclass(frozen=True, slots=True)
class Path:
    """The signal of a chain at infinite width, arrays (layers,).

    `q`: variance of z, the stream where there is one, before a norm; `c` its correlation between samples; `divisor`:
    what a norm divides the variance by, else 1; `at`: variance of what enters phi, `at_c` its correlation. `value` V,
    `slope` D, `mean` E[phi] there; `product` E[phi phi'] of two samples. `branch` and `branch_c`: variance and
    correlation of the linear layer's own output. `factor`: of the mean square of the gradient from dL/dh to dL/dz.
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
        """D over what a norm divides by."""
        return np.asarray(self.slope / self.divisor)


def path_of(chain: Chain, *, mean_square: float, cosine: float, batch: int | None) -> Path:
    """Return the path of inputs of this mean square and mean cosine; `batch` matters to batch norm alone.

    Infinite variances beyond 1e300, and NaN what depends on them.
    """
    weights, biases = chain.weight_variances(), chain.bias_variances()
    first = weights[0] * mean_square + biases[0]
    first_c = (weights[0] * mean_square * cosine + biases[0]) / first if first else 1.0
    if chain.norm == "batch":
        return _through_batch_norm(chain, first, first_c, batch)
    q, divisor = _variances(chain, first)
    at = q / divisor
    value, slope, mean = _moments(chain.activation, at)
    # These hardly depend on the inputs' mean square, and so they are worked out once for many batches of one kind.
    c, ratio = _correlations(chain, nearly(mean_square), 0.002 * round(cosine / 0.002))
    product = ratio * value
    branch, branch_c = q.copy(), c.copy()
    if chain.residual:
        branch[1:] = weights[1:] * chain.kept * value[:-1] + biases[1:]
        with np.errstate(invalid="ignore", divide="ignore"):
            branch_c[1:] = (weights[1:] * product[:-1] + biases[1:]) / branch[1:]
    return Path(q, c, divisor, at, c, value, slope, mean, product, branch, branch_c)


def nearly(mean_square: float) -> float:
    """Return the number rounded to two digits."""
    return float(f"{mean_square:.1e}")


def _variances(chain: Chain, q: float) -> tuple[Array, Array]:
    """Return q and the divisor of each layer."""
    slopes, table = chain.activation.slopes, moment_table(chain.activation)
    at_zero = float(chain.activation.value(np.zeros(1))[0]) ** 2
    epsilon, normed = _EPSILON[chain.norm], chain.norm != "none"
    found, divisors = [q], []
    for layer in chain.layers[1:]:
        divisor = q + epsilon if normed else 1.0
        divisors.append(divisor)
        at = q / divisor if divisor else math.nan
        if slopes is not None:
            value = (slopes[0] ** 2 + slopes[1] ** 2) / 2 * at
        else:
            value = math.exp(table.log_value(math.log(at))) if at > LEAST else at_zero
        q = q * chain.residual + layer.weight_variance * chain.kept * value + layer.bias_variance
        if not q <= MOST:
            missing = len(chain.layers) - len(found)
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
    known = moments(activation, distinct)
    z, weight, _ = nodes(activation, np.maximum(distinct, 1e-300))
    mean = (activation.value(np.sqrt(distinct)[:, None, None] * z) * weight).sum(axis=(1, 2))
    found[:, usable] = np.stack([known.value, known.slope, mean])[:, which.ravel()]
    return found[0], found[1], found[2]


@lru_cache(maxsize=512)
def _correlations(chain: Chain, mean_square: float, cosine: float) -> tuple[Array, Array]:
    """Return c of each layer and E[phi phi'] / V behind it."""
    weights, biases = chain.weight_variances(), chain.bias_variances()
    start = weights[0] * mean_square + biases[0]
    first = (weights[0] * mean_square * cosine + biases[0]) / start if start else 1.0
    q, divisor = _variances(chain, start)
    value, _, _ = _moments(chain.activation, q / divisor)
    at = q / divisor
    usable = np.isfinite(q) & (at > LEAST)
    end = q.size if usable.all() else max(int(np.argmin(usable)), 1)
    # R (1 - c) of the last layer too, for its activation: as if another layer without bias and stream followed.
    weight = np.append(weights[1:end], 1.0)
    following = np.append(q[1:end], value[end - 1])
    carry = np.append(q[: end - 1] * chain.residual, 0.0)
    # In units of its weight variance each step has the weight variance 1.
    following, carry = following / weight, carry / weight
    # The variance that dropout adds is one sample's own.
    lost = np.append((chain.kept - 1) * value[: end - 1], 0.0)
    gap = np.full(q.size + 1, math.nan)
    if not usable[0]:
        return np.full(q.size, first), np.full(q.size, math.nan)
    if chain.kept == 1:
        settled = 0
        for array in (at[:end], carry, following):
            changes = np.flatnonzero(np.diff(array) != 0)
            settled = max(settled, int(changes[-1]) + 1 if changes.size else 0)
        gap[: end + 1] = follow(CorrelationSteps(chain.activation, 1.0, at[:end], carry, following, settled), 1 - first)
    else:
        kernel = correlation_kernel(chain.activation, at[:end])
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


def _through_batch_norm(chain: Chain, first: float, first_c: float, batch: int | None) -> Path:
    """Return the path for a large batch whose samples all correlate alike; Yang et al. 2019; De, Smith 2020."""
    weights, biases = chain.weight_variances(), chain.bias_variances()
    value, slope, mean = (float(one[0]) for one in _moments(chain.activation, np.ones(1)))
    at_c = 0.0 if batch is None else -1 / (batch - 1)
    product = mean**2 + at_c * _tangent(chain.activation) ** 2
    branch = weights * chain.kept * value + biases
    shared = weights * product + biases
    branch[0], shared[0] = first, first * first_c
    q, both = (np.cumsum(one) if chain.residual else one for one in (branch, shared))
    ones = np.ones(weights.size)
    # The variance over the batch, about the batch's own mean.
    part = 1.0 if batch is None else 1 - 1 / batch
    return Path(
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
