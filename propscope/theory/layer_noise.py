"""What one layer of finite width adds to the spread of the log norms over networks, to first order in 1 / n.

The log norms of a whole batch are y_l = ln(mean square of z_l) - ln q_l and the same of dL/dz_l. A layer multiplies the
deviation that reaches it by its elasticity and adds noise of its own (Hanin, Nica 2020; Roberts, Yaida, Hanin 2022),
here also with weights that vary from layer to layer, residual connections, norms and dropout.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from propscope.theory.elementwise import Elementwise
from propscope.theory.mlp_signal import MLPSignal, MLPVariances
from propscope.theory.quadrature import nodes

Array = NDArray[np.float64]

_TERMS = 32
# Indices of the four functions in `UnitMoments`.
VALUE, SQUARE, SLOPE, SLOPE_SQUARE = range(4)


@dataclass(frozen=True, slots=True)
class UnitMoments:
    """Moments of four functions at each layer's variance: phi / sqrt(V), its square, phi' / sqrt(D) and its square.

    `coefficients`, shape (4, terms, layers): those of their normalized Hermite series. `products`, shape (4, 4,
    layers): the expectations of the products of every two of them, over one sample.
    """

    coefficients: Array
    products: Array

    def over_two_samples(self, first: int, second: int, c: Array, spread: Array) -> Array:
        """Return E[f(u) g(v)] over two samples u and v whose correlation has the mean c and the variance `spread`.

        f and g are the functions with the indices `first` and `second`; the arrays have shape (layers,). The sum over k
        of b_k b'_k E[c^k] (Mehler 1866), with E[c^k] to second order; the orders beyond the last count as the next one.
        """
        products = self.coefficients[first] * self.coefficients[second]
        k = np.arange(_TERMS)[:, None]
        plain = np.abs(c) ** k * np.where(c < 0, (-1.0) ** k, 1.0)
        powers = np.concatenate([plain[:2], plain[2:] + k[2:] * (k[2:] - 1) / 2 * plain[:-2] * spread])
        rest = self.products[first, second] - products.sum(axis=0)
        return np.asarray((products * np.minimum(powers, 1)).sum(axis=0) + rest * np.abs(c) ** _TERMS)

    def over_one_sample(self, first: int, second: int) -> Array:
        """Return E[f(u) g(u)] of the functions with these indices over one sample, shape (layers,)."""
        return np.asarray(self.products[first, second])

    def derivative(self, which: int, order: int) -> Array:
        """Return q dE/dq (`order` 1) or q^2 d^2E/dq^2 (`order` 2) of a function's expectation E, shape (layers,)."""
        return np.asarray(self.coefficients[which, 2 * order] * (np.sqrt(2) / 2, np.sqrt(24) / 4)[order - 1])


def unit_moments(activation: Elementwise, at: Array) -> UnitMoments:
    """Return the moments of an activation at variances `at` > 0, shape (layers,)."""
    if activation.slopes is not None:
        one = _at_one(activation)
        return UnitMoments(np.repeat(one.coefficients, at.size, axis=2), np.repeat(one.products, at.size, axis=2))
    distinct, which = np.unique(at, return_inverse=True)
    found = _computed(activation, distinct)
    which = which.ravel()
    return UnitMoments(found.coefficients[:, :, which], found.products[:, :, which])


@lru_cache(maxsize=32)
def _at_one(activation: Elementwise) -> UnitMoments:
    return _computed(activation, np.ones(1))


def _computed(activation: Elementwise, q: Array) -> UnitMoments:
    coefficients, whole = np.empty((4, _TERMS, q.size)), np.empty((4, 4, q.size))
    for part in np.array_split(np.arange(q.size), max(1, q.size // 32)):
        z, weight, _ = nodes(activation, q[part])
        x = np.sqrt(q[part])[:, None, None] * z
        z, weight = z.reshape(part.size, -1), weight.reshape(part.size, -1)
        phi, slope = (f(x).reshape(part.size, -1) for f in (activation.value, activation.derivative))
        with np.errstate(divide="ignore", invalid="ignore"):
            phi = phi / np.sqrt((phi * phi * weight).sum(axis=1))[:, None]
            slope = slope / np.sqrt((slope * slope * weight).sum(axis=1))[:, None]
        terms = np.stack([phi, phi * phi, slope, slope * slope])
        weighted = terms * weight
        whole[:, :, part] = np.einsum("iqn,jqn->ijq", weighted, terms, optimize=True)
        hermite = np.empty((_TERMS, *z.shape))
        hermite[0], hermite[1] = 1, z
        for k in range(1, _TERMS - 1):
            hermite[k + 1] = (z * hermite[k] - np.sqrt(k) * hermite[k - 1]) / np.sqrt(k + 1)
        coefficients[:, :, part] = np.moveaxis(np.matmul(weighted.transpose(1, 0, 2), hermite.transpose(1, 2, 0)), 0, 2)
    return UnitMoments(coefficients, whole)


@dataclass(frozen=True, slots=True)
class BatchCorrelations:
    """How the samples of a batch correlate; arrays of shape (layers,).

    `self_pairs`: the share of the pairs of samples that are a sample with itself, 1 / (number of samples). `variance`:
    the variance over networks, E[c^2] - c^2, of the correlation c of two samples where they enter phi.
    `squared_gradient`: the mean square of the correlation of two samples' dL/dh at each layer. `first_variance`: the
    variance of c in the first layer, for given inputs.
    """

    self_pairs: float
    variance: Array
    squared_gradient: Array
    first_variance: float


@dataclass(frozen=True, slots=True)
class LayerNoise:
    """What each layer adds to the variances of logarithms over networks, and how it passes deviations on; (layers,).

    Forward: `forward` is the variance added to ln q; `elasticity` and `curvature` are the first and second derivative
    of ln q' with respect to ln q, q' being the next layer's variance. `activation` is the variance of ln of the mean
    square of phi at a given q, and `branch` the variance added to the linear layer's own output.

    Backward: `gradient` is the variance added to ln of the factor from |dL/dz'|^2 to |dL/dz|^2; `gradient_elasticity`
    and `gradient_curvature` are the first and second derivative of that logarithm with respect to ln q; `covariance` is
    its covariance with the next layer's `forward`. `outer` is the variance that the transposed weights add to
    ln |dL/dh|^2, and `inner` what they and phi' add together.
    """

    forward: Array
    elasticity: Array
    curvature: Array
    activation: Array
    branch: Array
    gradient: Array
    gradient_elasticity: Array
    gradient_curvature: Array
    covariance: Array
    outer: Array
    inner: Array


@dataclass(frozen=True, slots=True)
class LayerShares:
    """Shares of second moments in sums, which do not depend on the batch; arrays of shape (layers,).

    `forward`: of sigma_w^2 V in the next q. `branch`: of the same in the variance of the next linear layer's own
    output. `stream`: of the stream in the next q. `backward`: of the branch in the factor of the gradient.
    `preserved_forward` and `preserved_backward`: the share of a norm that orthogonal weights preserve, 0 for
    independent ones. `widths`: the units of each layer.
    """

    forward: Array
    branch: Array
    stream: Array
    backward: Array
    preserved_forward: Array
    preserved_backward: Array
    widths: Array


def layer_shares(mlp: MLPVariances, signal: MLPSignal) -> LayerShares:
    """Return the shares of an MLP with this signal; the last entry belongs to the output of the last layer."""
    weights, units = mlp.weight_variances(), np.array(mlp.units, dtype=np.float64)
    product = weights[1:] * mlp.dropout_factor * signal.value[:-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        forward = np.append(product / signal.q[1:], 1.0)
        branch = np.append(product / signal.branch[1:], 1.0)
        stream = np.append(signal.q[:-1] / signal.q[1:] * mlp.residual, 0.0)
        factor = weights[1:] * mlp.dropout_factor * signal.factor[:-1]
        backward = np.append(factor / (factor + mlp.residual), 1.0)
    orthogonal = np.array([layer.orthogonal for layer in mlp.layers])
    # A projection from m to n units keeps n / m of a norm; its variance is 1 - n / m of a Gaussian matrix's.
    preserved_forward = orthogonal * np.minimum(1.0, units[1:] / units[:-1])
    preserved_backward = orthogonal * np.minimum(1.0, units[:-1] / units[1:])
    readout = mlp.readout is not None and mlp.readout.orthogonal
    last = min(1.0, units[-1] / mlp.outputs) if readout else 0.0
    preserved_backward = np.append(preserved_backward[1:], last)
    return LayerShares(forward, branch, stream, backward, preserved_forward, preserved_backward, units[1:])


@dataclass(frozen=True, slots=True, eq=False)
class FiniteMLP:
    """An MLP of finite width, with what its noise is computed from."""

    mlp: MLPVariances
    signal: MLPSignal
    shares: LayerShares
    units: UnitMoments


def layer_noise(net: FiniteMLP, batch: BatchCorrelations) -> LayerNoise:
    """Return the noise that each layer adds, for a batch with these correlations."""
    mlp, signal, shares, units = net.mlp, net.signal, net.shares, net.units
    same, other, n, dropout = batch.self_pairs, 1 - batch.self_pairs, shares.widths, mlp.dropout_factor
    c, spread = signal.at_c, batch.variance
    normed = mlp.norm != "none"
    square_c = same + other * np.minimum(c**2 + spread, 1)
    value_slope, gradient_slope = units.derivative(SQUARE, 1), units.derivative(SLOPE_SQUARE, 1)

    def covariance(first: int, second: int) -> Array:
        return conditional_covariance(net, batch, first, second, dropout=dropout) / n

    activation = covariance(SQUARE, SQUARE)
    weight_noise, stream_covariance, branch_noise = _weight_noise(net, batch)
    free = 0.0 if normed else 1.0
    elasticity = shares.stream + free * shares.forward * value_slope
    curvature = shares.stream + free * shares.forward * (value_slope + units.derivative(SQUARE, 2)) - elasticity**2
    forward = np.empty_like(n)
    forward[0] = weight_noise[0]
    forward[1:] = shares.forward[:-1] ** 2 * activation[:-1] + weight_noise[1:] + stream_covariance[1:]
    branch = np.append(weight_noise[0], shares.branch[:-1] ** 2 * activation[:-1] + branch_noise[1:])

    square_gradient = same + other * batch.squared_gradient
    slopes = units.over_two_samples(SLOPE_SQUARE, SLOPE_SQUARE, c, spread)
    inner = same * 3 * dropout * units.over_one_sample(SLOPE_SQUARE, SLOPE_SQUARE)
    inner = inner + other * (1 + 2 * batch.squared_gradient) * slopes - 1
    inner = inner - square_c * units.coefficients[SLOPE_SQUARE, 2] ** 2
    inner = inner - 2 * square_gradient * shares.preserved_backward
    if mlp.norm == "layer":
        inner = inner - (same + other * c) * units.coefficients[SLOPE_SQUARE, 1] ** 2
    slope_pair = units.over_two_samples(SLOPE, SLOPE, c, spread)
    backward = shares.backward
    crossed = same + other * batch.squared_gradient * slope_pair / dropout
    gradient_curvature = 1.0 if normed else gradient_slope + units.derivative(SLOPE_SQUARE, 2)
    gradient_elasticity = backward * (-1.0 if normed else gradient_slope)
    return LayerNoise(
        forward=forward,
        elasticity=elasticity,
        curvature=curvature,
        activation=activation,
        branch=branch,
        gradient=(backward**2 * inner + 4 * backward * (1 - backward) * crossed) / n,
        gradient_elasticity=gradient_elasticity,
        gradient_curvature=backward * gradient_curvature - gradient_elasticity**2,
        covariance=backward * shares.forward * covariance(SQUARE, SLOPE_SQUARE),
        outer=2 * square_gradient * (1 - shares.preserved_backward) / n,
        inner=inner / n,
    )


def conditional_covariance(
    net: FiniteMLP, batch: BatchCorrelations, first: int, second: int, *, dropout: float = 1.0
) -> Array:
    """Return the covariance of two functions at given norms of z, averaged over the pairs of the batch, (layers,)."""
    mlp, signal, units = net.mlp, net.signal, net.units
    same, other, c = batch.self_pairs, 1 - batch.self_pairs, signal.at_c
    pairs = units.over_two_samples(first, second, c, batch.variance)
    products = units.coefficients[first] * units.coefficients[second]
    square_c = same + other * np.minimum(c**2 + batch.variance, 1)
    found = same * dropout * units.over_one_sample(first, second) + other * pairs
    found = found - products[0] - square_c * products[2]
    return np.asarray(found - (same + other * c) * products[1] * (mlp.norm == "layer"))


def _weight_noise(net: FiniteMLP, batch: BatchCorrelations) -> tuple[Array, Array, Array]:
    """Return what the n random numbers of a layer add to three variances over networks, each of shape (layers,).

    With k the covariance of the linear layer's outputs for two samples, and means over the pairs of the batch: the
    scatter of ln q about the layer's own variance, 2 E[k^2] / (n q^2); the cross term with a residual stream of
    variance q_s and correlation c_s, 4 q_s E[c_s k] / (n q^2), else 0; and the scatter of the branch, which has the
    branch's variance in place of q.
    """
    mlp, signal, shares, units = net.mlp, net.signal, net.shares, net.units
    same, other, n = batch.self_pairs, 1 - batch.self_pairs, shares.widths
    biases = mlp.bias_variances() * np.ones(n.size)
    variance = np.append(signal.q[0] - biases[0], signal.branch[1:] - biases[1:])
    covariance = np.append(signal.q[0] * signal.c[0] - biases[0], signal.branch[1:] * signal.branch_c[1:] - biases[1:])
    spread = np.append(batch.first_variance * signal.q[0] ** 2, _product_variance(net, batch)[:-1])
    # Orthogonal weights preserve the norm of what they act on; only the part of the biases varies.
    weighted = same * variance**2 + other * (covariance**2 + spread)
    with_biases = same * (2 * variance * biases + biases**2) + other * (2 * covariance * biases + biases**2)
    if mlp.flat_biases:
        with_biases = with_biases - 0.6 * biases**2
    square = 2 * (weighted * (1 - shares.preserved_forward) + with_biases) / n
    crossed = np.zeros(n.size)
    if mlp.residual:
        slope_pair = units.over_two_samples(SLOPE, SLOPE, signal.at_c, batch.variance)
        rise = mlp.weight_variances()[1:] * (signal.at * signal.slope * slope_pair)[:-1] * batch.variance[:-1]
        pairs = same * signal.branch[1:] + other * (signal.c[:-1] * signal.branch[1:] * signal.branch_c[1:] + rise)
        crossed[1:] = 4 * signal.q[:-1] * pairs / signal.q[1:] ** 2 / n[1:]
    return square / signal.q**2, crossed, square / signal.branch**2


def _product_variance(net: FiniteMLP, batch: BatchCorrelations) -> Array:
    """Return the variance over networks of sigma_w^2 phi(u) . phi(v) / n in the next layer, at given norms, (layers,).

    u and v are the pre-activations of two samples.
    """
    mlp, signal, units = net.mlp, net.signal, net.units
    weights = np.append(mlp.weight_variances()[1:], 1.0)
    slope_pair = signal.at * signal.slope * units.over_two_samples(SLOPE, SLOPE, signal.at_c, batch.variance)
    conditional = (
        signal.value**2 * units.over_two_samples(SQUARE, SQUARE, signal.at_c, batch.variance) - signal.product**2
    )
    # At given norms the correlation varies less the more alike the samples are.
    chance = np.maximum(conditional, 0) * (1 - signal.at_c**2) / net.shares.widths
    return np.asarray(weights**2 * (slope_pair**2 * batch.variance + chance))


def batch_correlations(net: FiniteMLP, *, samples: float, cosine: float, squared_gradient: float) -> BatchCorrelations:
    """Return how the samples of a batch and their gradients correlate, with the random deviations of a finite width.

    `cosine`: that of two inputs. `squared_gradient`: the mean square correlation of two samples' gradients at the
    output.
    """
    mlp, signal, shares, units = net.mlp, net.signal, net.shares, net.units
    depth, n = signal.q.size, shares.widths
    first_variance = float((1 - mlp.layers[0].bias_variance / signal.q[0]) ** 2 * (1 - cosine**2) ** 2 / mlp.units[0])
    spread = np.zeros(depth)
    slope_pair = units.over_two_samples(SLOPE, SLOPE, signal.at_c, spread)
    rise = shares.stream + shares.forward * signal.at * signal.slope / signal.value * slope_pair
    infinite_width = BatchCorrelations(1 / samples, spread, spread, 0.0)
    chance = _product_variance(net, infinite_width)[:-1]
    spread[0] = first_variance
    if mlp.residual:
        # The stream adds up actual correlations, not those that the layer before would give.
        spread[0] += (1 - signal.c[0] ** 2) ** 2 / n[0]
        variance, covariance = signal.branch[1:], signal.branch[1:] * signal.branch_c[1:]
        crossed = variance**2 + covariance**2 + 2 * signal.q[:-1] * (variance + signal.c[:-1] * covariance)
        chance = chance + crossed * (1 - signal.c[:-1] ** 2) / n[1:]
    for layer in range(depth - 1):
        grown = rise[layer] ** 2 * spread[layer] + chance[layer] / signal.q[layer + 1] ** 2
        spread[layer + 1] = min(grown, 1 - signal.c[layer + 1] ** 2)
    slope_pair = slope_pair / mlp.dropout_factor
    preserved = (1 - shares.backward + shares.backward * slope_pair) ** 2
    slopes = units.over_two_samples(SLOPE_SQUARE, SLOPE_SQUARE, signal.at_c, spread)
    by_chance = (shares.backward**2 * slopes + 2 * shares.backward * (1 - shares.backward)) / n
    square = squared_gradient + (1 - squared_gradient) / mlp.outputs if mlp.outputs else squared_gradient
    found = np.empty(depth)
    for layer in reversed(range(depth)):
        found[layer] = square
        square = min(preserved[layer] * square + (1 - square) * by_chance[layer], 1.0)
    return BatchCorrelations(1 / samples, spread, found, first_variance)
