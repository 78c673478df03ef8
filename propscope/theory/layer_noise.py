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

    `coefficients`, shape (4, terms, layers): those of their normalized Hermite series. `whole`, shape (4, 4, layers):
    the expectations of the products of every two of them, over one sample.
    """

    coefficients: Array
    whole: Array

    def over_two(self, first: int, second: int, c: Array, spread: Array) -> Array:
        """Return E[f(u) g(v)] over two samples u and v whose correlation has the mean c and the variance `spread`.

        f and g are the functions with the indices `first` and `second`; the arrays have shape (layers,). The sum over k
        of b_k b'_k E[c^k] (Mehler 1866), with E[c^k] to second order; the orders beyond the last count as the next one.
        """
        products = self.coefficients[first] * self.coefficients[second]
        k = np.arange(_TERMS)[:, None]
        plain = np.abs(c) ** k * np.where(c < 0, (-1.0) ** k, 1.0)
        powers = np.concatenate([plain[:2], plain[2:] + k[2:] * (k[2:] - 1) / 2 * plain[:-2] * spread])
        rest = self.whole[first, second] - products.sum(axis=0)
        return np.asarray((products * np.minimum(powers, 1)).sum(axis=0) + rest * np.abs(c) ** _TERMS)

    def over_one(self, first: int, second: int) -> Array:
        """Return E[f(u) g(u)] of the functions with these indices over one sample, shape (layers,)."""
        return np.asarray(self.whole[first, second])

    def derivative(self, which: int, order: int) -> Array:
        """Return q dE/dq (`order` 1) or q^2 d^2E/dq^2 (`order` 2) of a function's expectation E, shape (layers,)."""
        return np.asarray(self.coefficients[which, 2 * order] * (np.sqrt(2) / 2, np.sqrt(24) / 4)[order - 1])


def unit_moments(activation: Elementwise, at: Array) -> UnitMoments:
    """Return the moments of an activation at variances `at` > 0, shape (layers,)."""
    if activation.slopes is not None:
        one = _at_one(activation)
        return UnitMoments(np.repeat(one.coefficients, at.size, axis=2), np.repeat(one.whole, at.size, axis=2))
    distinct, which = np.unique(at, return_inverse=True)
    found = _computed(activation, distinct)
    which = which.ravel()
    return UnitMoments(found.coefficients[:, :, which], found.whole[:, :, which])


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
class BatchLikeness:
    """How alike the samples of a batch are; arrays of shape (layers,).

    `own`: 1 / (number of samples). `spread`: the variance over networks, E[c^2] - c^2, of the correlation c of two
    samples where they enter phi. `inputs`: that variance in the first layer, for given inputs. `gradients`: the mean
    square of the correlation of two samples' dL/dh at each layer.
    """

    own: float
    spread: Array
    gradients: Array
    inputs: float


@dataclass(frozen=True, slots=True)
class LayerNoise:
    """What each layer adds to the variances of logarithms over networks, and how it passes deviations on; (layers,).

    Forward: `forward` is the variance added to ln q, `elasticity` and `bend` are the first and second derivative of
    ln q' with respect to ln q, q' being the next layer's variance. `passed` is the variance of ln of the mean square of
    phi at a given q, and `branch` the variance added to the linear layer's own output.

    Backward: `gradient` is the variance added to ln of the factor from |dL/dz'|^2 to |dL/dz|^2, `tilt` and `curve` are
    the derivatives of that logarithm with respect to ln q, and `shared` is its covariance with the next layer's
    `forward`. `returned` is the variance that the transposed weights add, and `drawn` that of them and phi' together.
    """

    forward: Array
    elasticity: Array
    bend: Array
    passed: Array
    branch: Array
    gradient: Array
    tilt: Array
    curve: Array
    shared: Array
    returned: Array
    drawn: Array


@dataclass(frozen=True, slots=True)
class LayerShares:
    """Shares of second moments in sums, which do not depend on the batch; arrays of shape (layers,).

    `share`: of sigma_w^2 V in the next q. `branch_share`: of the same in the variance of the next linear layer's own
    output. `carried`: of the stream in the next q. `back`: of the branch in the factor of the gradient. `kept_forward`
    and `kept_backward`: the share of a norm that orthogonal weights preserve, 0 for independent ones. `fan`: the units.
    """

    share: Array
    branch_share: Array
    carried: Array
    back: Array
    kept_forward: Array
    kept_backward: Array
    fan: Array


def layer_shares(mlp: MLPVariances, signal: MLPSignal) -> LayerShares:
    """Return the shares of an MLP with this signal; the last entry belongs to the output of the last layer."""
    weights, units = mlp.weight_variances(), np.array(mlp.units, dtype=np.float64)
    drawn = weights[1:] * mlp.kept * signal.value[:-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.append(drawn / signal.q[1:], 1.0)
        branch_share = np.append(drawn / signal.branch[1:], 1.0)
        carried = np.append(signal.q[:-1] / signal.q[1:] * mlp.residual, 0.0)
        branch = weights[1:] * mlp.kept * signal.factor[:-1]
        back = np.append(branch / (branch + mlp.residual), 1.0)
    orthogonal = np.array([layer.orthogonal for layer in mlp.layers])
    # A projection from m to n units keeps n / m of a norm; its variance is 1 - n / m of a Gaussian matrix's.
    forward = orthogonal * np.minimum(1.0, units[1:] / units[:-1])
    backward = orthogonal * np.minimum(1.0, units[:-1] / units[1:])
    readout = mlp.readout is not None and mlp.readout.orthogonal
    last = min(1.0, units[-1] / mlp.outputs) if readout else 0.0
    return LayerShares(share, branch_share, carried, back, forward, np.append(backward[1:], last), units[1:])


def added_noise(
    mlp: MLPVariances, signal: MLPSignal, shares: LayerShares, units: UnitMoments, like: BatchLikeness
) -> LayerNoise:
    """Return the noise that each layer adds, for a batch with this likeness."""
    one, other, n, kept = like.own, 1 - like.own, shares.fan, mlp.kept
    c, spread = signal.at_c, like.spread
    normed = mlp.norm != "none"
    alike = one + other * np.minimum(c**2 + spread, 1)
    grown, tilted = units.derivative(SQUARE, 1), units.derivative(SLOPE_SQUARE, 1)

    def about(first: int, second: int) -> Array:
        return free_covariance(mlp, signal, units, like, first, second, kept=kept)

    passed = about(SQUARE, SQUARE) / n
    own, cross, branch_own = _own(mlp, signal, shares, units, like)
    free = 0.0 if normed else 1.0
    elasticity = shares.carried + free * shares.share * grown
    twice = units.derivative(SQUARE, 2)
    bend = shares.carried + free * shares.share * (grown + twice) - elasticity**2
    forward = np.empty_like(n)
    forward[0] = own[0]
    forward[1:] = shares.share[:-1] ** 2 * passed[:-1] + own[1:] + cross[1:]
    branch = np.append(own[0], shares.branch_share[:-1] ** 2 * passed[:-1] + branch_own[1:])

    gradients = one + other * like.gradients
    slopes = units.over_two(SLOPE_SQUARE, SLOPE_SQUARE, c, spread)
    drawn = one * 3 * kept * units.over_one(SLOPE_SQUARE, SLOPE_SQUARE) + other * (1 + 2 * like.gradients) * slopes - 1
    drawn = drawn - alike * units.coefficients[SLOPE_SQUARE, 2] ** 2 - 2 * gradients * shares.kept_backward
    if mlp.norm == "layer":
        drawn = drawn - (one + other * c) * units.coefficients[SLOPE_SQUARE, 1] ** 2
    slope_pair = units.over_two(SLOPE, SLOPE, c, spread)
    back = shares.back
    meeting = one + other * like.gradients * slope_pair / kept
    gradient = (back**2 * drawn + 4 * back * (1 - back) * meeting) / n
    slope_tilt = -1.0 if normed else tilted
    tilt = back * slope_tilt
    curve = back * (1.0 if normed else tilted + units.derivative(SLOPE_SQUARE, 2)) - tilt**2
    shared = back * shares.share * about(SQUARE, SLOPE_SQUARE) / n
    returned = 2 * gradients * (1 - shares.kept_backward) / n
    return LayerNoise(forward, elasticity, bend, passed, branch, gradient, tilt, curve, shared, returned, drawn / n)


def free_covariance(
    mlp: MLPVariances,
    signal: MLPSignal,
    units: UnitMoments,
    like: BatchLikeness,
    first: int,
    second: int,
    *,
    kept: float = 1.0,
) -> Array:
    """Return the covariance of two functions at given norms of z, averaged over the pairs of the batch, (layers,)."""
    one, other, c = like.own, 1 - like.own, signal.at_c
    pairs = units.over_two(first, second, c, like.spread)
    products = units.coefficients[first] * units.coefficients[second]
    alike = one + other * np.minimum(c**2 + like.spread, 1)
    found = one * kept * units.over_one(first, second) + other * pairs - products[0] - alike * products[2]
    return np.asarray(found - (one + other * c) * products[1] * (mlp.norm == "layer"))


def _own(
    mlp: MLPVariances, signal: MLPSignal, shares: LayerShares, units: UnitMoments, like: BatchLikeness
) -> tuple[Array, Array, Array]:
    """Return what the n random numbers of a layer add to three variances over networks, each of shape (layers,).

    With k the covariance of the linear layer's outputs for two samples, and means over the pairs of the batch: the
    scatter of ln q about the layer's own variance, 2 E[k^2] / (n q^2); the cross term with a residual stream of
    variance q_s and correlation c_s, 4 q_s E[c_s k] / (n q^2), else 0; and the scatter of the branch, which has the
    branch's variance in place of q.
    """
    one, other, n = like.own, 1 - like.own, shares.fan
    biases = mlp.bias_variances() * np.ones(n.size)
    ahead = np.append(signal.q[0] - biases[0], signal.branch[1:] - biases[1:])
    product = np.append(signal.q[0] * signal.c[0] - biases[0], signal.branch[1:] * signal.branch_c[1:] - biases[1:])
    scattered = np.append(like.inputs * signal.q[0] ** 2, _product_spread(mlp, signal, units, like, n)[:-1])
    # Orthogonal weights preserve the norm of what they act on; only the part of the biases varies.
    through = one * ahead**2 + other * (product**2 + scattered)
    with_biases = one * (2 * ahead * biases + biases**2) + other * (2 * product * biases + biases**2)
    if mlp.flat_biases:
        with_biases = with_biases - 0.6 * biases**2
    square = 2 * (through * (1 - shares.kept_forward) + with_biases) / n
    met = np.zeros(n.size)
    if mlp.residual:
        slope_pair = units.over_two(SLOPE, SLOPE, signal.at_c, like.spread)
        rise = mlp.weight_variances()[1:] * (signal.at * signal.slope * slope_pair)[:-1] * like.spread[:-1]
        pairs = one * signal.branch[1:] + other * (signal.c[:-1] * signal.branch[1:] * signal.branch_c[1:] + rise)
        met[1:] = 4 * signal.q[:-1] * pairs / signal.q[1:] ** 2 / n[1:]
    return square / signal.q**2, met, square / signal.branch**2


def _product_spread(mlp: MLPVariances, signal: MLPSignal, units: UnitMoments, like: BatchLikeness, n: Array) -> Array:
    """Return the variance over networks of sigma_w^2 phi(u) . phi(v) / n in the next layer, at given norms, (layers,).

    u and v are the pre-activations of two samples.
    """
    weights = np.append(mlp.weight_variances()[1:], 1.0)
    slope_pair = signal.at * signal.slope * units.over_two(SLOPE, SLOPE, signal.at_c, like.spread)
    free = signal.value**2 * units.over_two(SQUARE, SQUARE, signal.at_c, like.spread) - signal.product**2
    # At given norms the correlation varies less the more alike the samples are.
    chance = np.maximum(free, 0) * (1 - signal.at_c**2) / n
    return np.asarray(weights**2 * (slope_pair**2 * like.spread + chance))


def batch_likeness(
    mlp: MLPVariances,
    signal: MLPSignal,
    shares: LayerShares,
    units: UnitMoments,
    *,
    samples: float,
    cosine: float,
    gradients: float,
) -> BatchLikeness:
    """Return how alike the samples of a batch and their gradients are, with the random deviations of a finite width.

    `cosine`: that of two inputs. `gradients`: the mean square correlation of two samples' gradients at the output.
    """
    depth, n = signal.q.size, shares.fan
    inputs = float((1 - mlp.layers[0].bias_variance / signal.q[0]) ** 2 * (1 - cosine**2) ** 2 / mlp.units[0])
    spread = np.zeros(depth)
    slope_pair = units.over_two(SLOPE, SLOPE, signal.at_c, spread)
    rise = shares.carried + shares.share * signal.at * signal.slope / signal.value * slope_pair
    exact = BatchLikeness(1 / samples, spread, spread, 0.0)
    chance = _product_spread(mlp, signal, units, exact, n)[:-1]
    spread[0] = inputs
    if mlp.residual:
        # The stream adds up actual correlations, not those that the layer before would give.
        spread[0] += (1 - signal.c[0] ** 2) ** 2 / n[0]
        own, shared = signal.branch[1:], signal.branch[1:] * signal.branch_c[1:]
        crossed = own**2 + shared**2 + 2 * signal.q[:-1] * (own + signal.c[:-1] * shared)
        chance = chance + crossed * (1 - signal.c[:-1] ** 2) / n[1:]
    for layer in range(depth - 1):
        grown = rise[layer] ** 2 * spread[layer] + chance[layer] / signal.q[layer + 1] ** 2
        spread[layer + 1] = min(grown, 1 - signal.c[layer + 1] ** 2)
    slope_pair = slope_pair / mlp.kept
    kept = (1 - shares.back + shares.back * slope_pair) ** 2
    slopes = units.over_two(SLOPE_SQUARE, SLOPE_SQUARE, signal.at_c, spread)
    by_chance = (shares.back**2 * slopes + 2 * shares.back * (1 - shares.back)) / n
    alike = gradients + (1 - gradients) / mlp.outputs if mlp.outputs else gradients
    found = np.empty(depth)
    for layer in reversed(range(depth)):
        found[layer] = alike
        alike = min(kept[layer] * alike + (1 - alike) * by_chance[layer], 1.0)
    return BatchLikeness(1 / samples, spread, found, inputs)
