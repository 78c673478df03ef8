"""The seed bands of a multilayer perceptron: means and variances of its log norms over networks, layer by layer.

In a plain network each layer draws its own weights, so its noise is independent of that of the other layers. A residual
stream of pre-activations keeps its units: z_l and z_k correlate by sqrt(q_l / q_k), and so do the deviations of phi^2
and phi'^2 from their means at a given norm of z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from propscope.theory.layer_noise import (
    SLOPE_SQUARE,
    SQUARE,
    VALUE,
    BatchCorrelations,
    FiniteMLP,
    LayerNoise,
    LayerShares,
    UnitMoments,
    batch_correlations,
    conditional_covariance,
    layer_noise,
    layer_shares,
    unit_moments,
)
from propscope.theory.mlp_signal import MLPSignal, MLPVariances, mlp_signal

Array = NDArray[np.float64]

_LARGEST_EXCESS = 0.5


@dataclass(frozen=True, slots=True)
class Band:
    """Mean and variance over networks of ln(mean square of a batch / its value at infinite width), shape (layers,)."""

    mean: Array
    variance: Array


@dataclass(frozen=True, slots=True)
class MLPBands:
    """The bands of an MLP; NaN where theory does not know them.

    Forward: `stream` of z, `branch` of the linear layer's own output, `activation` of phi. Backward: `gradient` of
    dL/dz, `inner` of the gradient at the output of the norm, `outer` of dL/dh. `activation_spread` and
    `activation_mean`, (layers,): the variances over networks of ln Var(phi) and of the mean of phi. `output`: the
    variance of ln of the mean square of the gradient at the readout.
    """

    stream: Band
    branch: Band
    activation: Band
    gradient: Band
    inner: Band
    outer: Band
    activation_spread: Array
    activation_mean: Array
    output: float


@lru_cache(maxsize=512)
def mlp_bands(
    mlp: MLPVariances, *, mean_square: float, cosine: float, samples: int | None, squared_gradient: float
) -> MLPBands:
    """Return the bands for a batch of `samples` inputs (None: very many) of this mean square and cosine.

    `squared_gradient`: the mean square correlation of the gradients that two samples get at the output; 0 for random
    ones. The bands are NaN for batch norm, and where q underflows or overflows.
    """
    signal = mlp_signal(mlp, mean_square=mean_square, cosine=cosine, batch=samples)
    usable = np.isfinite(signal.q) & (signal.q > 1e-280) & (signal.value > 1e-280)
    if mlp.norm == "batch" or not usable.all():
        unknown = np.full(signal.q.size, math.nan)
        nothing = Band(unknown, unknown)
        return MLPBands(nothing, nothing, nothing, nothing, nothing, nothing, unknown, unknown, math.nan)
    net = FiniteMLP(mlp, signal, layer_shares(mlp, signal), unit_moments(mlp.activation, signal.at))
    sample = BatchCorrelations(1.0, np.zeros(signal.q.size), np.ones(signal.q.size), 0.0)
    size = math.inf if samples is None else samples
    batch = batch_correlations(net, samples=size, cosine=cosine, squared_gradient=squared_gradient)
    # A random gradient for each output is a sample of its variance; without a readout phi' is part of that.
    own = 2 / (size * mlp.outputs) if mlp.outputs and not squared_gradient else 0.0
    single, whole = (_variances(net, each) for each in (sample, batch))
    means = _means(net, single)

    def band(name: str, own: float = 0.0) -> Band:
        # E[mean square] is the same for a batch as for one sample; E[ln] is higher, as the batch averages noise out.
        variance = getattr(whole, name)
        # ln of the ratio of E[mean square] to its value at infinite width; first order is no use where it is large.
        excess = np.clip(means[name] + getattr(single, name) / 2, -_LARGEST_EXCESS, _LARGEST_EXCESS)
        return Band(excess - (variance + own) / 2, variance + own)

    return MLPBands(
        stream=band("stream"),
        branch=band("branch"),
        activation=band("activation"),
        gradient=band("gradient", own),
        inner=band("inner", own),
        outer=band("outer", own),
        activation_spread=_variance_of_mean(net, batch, whole, *_variance_weights(signal)),
        activation_mean=signal.value * _variance_of_mean(net, batch, whole, 0.0, 1.0),
        output=own,
    )


@dataclass(frozen=True, slots=True)
class _Variances:
    """The variances of `MLPBands` for one batch, (layers,), and the noise that they result from.

    `independent`: the variance of the stream if the noise of its layers were independent.
    """

    noise: LayerNoise
    independent: Array
    stream: Array
    branch: Array
    activation: Array
    gradient: Array
    inner: Array
    outer: Array


def _variances(net: FiniteMLP, batch: BatchCorrelations) -> _Variances:
    mlp, shares, units = net.mlp, net.shares, net.units
    noise = layer_noise(net, batch)
    independent = stream = _forward_variance(noise)
    gradient, inner, outer = _backward_variances(noise, shares, stream)
    if mlp.residual:
        stream, stream_gradient = stream_variances(net, batch, noise)
        later = np.append(stream_gradient[1:] - gradient[1:], 0.0)
        gradient, inner, outer = stream_gradient, inner + later, outer + later
    slope = _unless_normed(mlp, units.derivative(SQUARE, 1))
    from_stream = slope**2 * stream
    branch = stream
    if mlp.residual:
        from_stream = from_stream + 2 * slope * stream_covariance(net, batch, noise, SQUARE)
        branch = noise.branch + np.append(0.0, shares.branch[:-1] ** 2 * from_stream[:-1])
    return _Variances(noise, independent, stream, branch, from_stream + noise.activation, gradient, inner, outer)


def _means(net: FiniteMLP, single: _Variances) -> dict[str, Array]:
    """Return the mean of each band for one sample, by the band's name."""
    mlp, shares, units = net.mlp, net.shares, net.units
    noise, n = single.noise, shares.widths
    # A vector uniform on a sphere is not quite normal: E[phi^2] = V - q^2 V'' / n.
    second, slope_second = units.derivative(SQUARE, 2), units.derivative(SLOPE_SQUARE, 2)
    # Correlated noise does not change E[mean square]; by its variance it lowers the mean of the logarithm.
    stream = (
        _forward_mean(noise, shares.forward * second / n, single.independent) + (single.independent - single.stream) / 2
    )
    slope = _unless_normed(mlp, units.derivative(SQUARE, 1))
    curvature = _unless_normed(mlp, units.derivative(SQUARE, 1) + second) - slope**2
    activation = slope * stream + curvature * (single.stream + stream**2) / 2 - second / n - noise.activation / 2
    branch = stream
    if mlp.residual:
        share = np.append(0.0, shares.branch[:-1])
        before, scatter = (np.append(0.0, part[:-1]) for part in (activation, single.activation))
        own = single.branch - share**2 * scatter
        branch = share * before + share * (1 - share) * scatter / 2 - own / 2
    drift = (
        noise.gradient_elasticity * stream
        + noise.gradient_curvature * (single.stream + stream**2) / 2
        - noise.gradient / 2
    )
    drift += shares.backward * (_reused_weights(net) - slope_second) / n
    gradient = np.cumsum(drift[::-1])[::-1]
    after = np.append(gradient[1:], 0.0)
    return {
        "stream": stream,
        "branch": branch,
        "activation": activation,
        "gradient": gradient,
        "inner": after - noise.inner / 2 - slope_second / n,
        "outer": after - noise.outer / 2,
    }


def _unless_normed(mlp: MLPVariances, derivative: Array) -> Array:
    """Return a derivative with respect to ln q of an expectation of phi; 0 behind a norm, which fixes q."""
    return derivative if mlp.norm == "none" else np.zeros_like(derivative)


def _variance_weights(signal: MLPSignal) -> tuple[Array, Array]:
    """Return a and b of a phi^2 / V + b phi / sqrt(V) = (phi^2 - 2 E[phi] phi) / Var(phi).

    To first order the mean of this over units and samples varies as ln Var(phi) does.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        square = signal.value / (signal.value - signal.mean**2)
        return square, np.asarray(-2 * signal.mean / np.sqrt(signal.value) * square)


def _variance_of_mean(
    net: FiniteMLP, batch: BatchCorrelations, variances: _Variances, square: Array | float, line: Array | float
) -> Array:
    """Return the variance over networks of the mean of a phi^2 / V + b phi / sqrt(V), shape (layers,).

    a is `square`, b is `line`.
    """
    mlp, shares, units = net.mlp, net.shares, net.units

    def covariance(first: int, second: int) -> Array:
        return conditional_covariance(net, batch, first, second) / shares.widths

    slope = _unless_normed(mlp, square * units.derivative(SQUARE, 1) + line * units.derivative(VALUE, 1))
    found = slope**2 * variances.stream + square**2 * covariance(SQUARE, SQUARE) + line**2 * covariance(VALUE, VALUE)
    found = found + 2 * square * line * covariance(SQUARE, VALUE)
    if mlp.residual:
        squares, lines = (stream_covariance(net, batch, variances.noise, f) for f in (SQUARE, VALUE))
        found = found + 2 * slope * (square * squares + line * lines)
    return np.asarray(found)


def _forward_variance(noise: LayerNoise) -> Array:
    found = [float(noise.forward[0])]
    for slope, added in zip(noise.elasticity[:-1].tolist(), noise.forward[1:].tolist(), strict=True):
        found.append(slope**2 * found[-1] + added)
    return np.array(found)


def _forward_mean(noise: LayerNoise, sphere: Array, variance: Array) -> Array:
    """Return the mean over networks of ln q for one sample, less its value at infinite width, shape (layers,).

    Each layer maps the mean m by elasticity m + curvature (variance + m^2) / 2, less `sphere` and half the noise that
    it adds.
    """
    found = [-float(noise.forward[0]) / 2]
    for layer in range(variance.size - 1):
        m = found[-1]
        bend = noise.curvature[layer] * (variance[layer] + m * m) / 2
        found.append(float(noise.elasticity[layer] * m + bend - sphere[layer] - noise.forward[layer + 1] / 2))
    return np.array(found)


def _reused_weights(net: FiniteMLP) -> Array:
    """Return n E[ln f] of the factor f by which reused weights change |dL/dz_l|^2, to first order, shape (layers,).

    The gradient returns through the weights that made z, not through fresh ones, and through the norm. With R =
    E[(z . delta)^2] / (q |delta|^2), delta = dL/dz, of the next layer, the reused weights multiply the expectation of
    |W^T delta|^2 in the direction of h by share (R - 1) + 1. R is 0 before a norm, which removes that direction, and
    follows from layer to layer otherwise. A residual stream's contribution is left out.
    """
    mlp, signal, shares, units = net.mlp, net.signal, net.shares, net.units
    tied = units.over_one_sample(SQUARE, SLOPE_SQUARE) - shares.preserved_backward
    aligned = units.derivative(SQUARE, 1) ** 2 * signal.value / (signal.at * signal.slope)
    elasticity = units.derivative(SLOPE_SQUARE, 1)
    found = np.zeros(signal.q.size)
    normed = mlp.norm != "none"
    ratio = math.nan
    for layer in reversed(range(signal.q.size)):
        excess = 0.0
        if layer < signal.q.size - 1 and not mlp.residual:
            excess = float(shares.forward[layer] * ((0.0 if normed else ratio) - 1))
        ratio = float(1 + 2 * elasticity[layer] + aligned[layer] * excess)
        found[layer] = tied[layer] * excess - normed * ratio - (mlp.norm == "layer")
    return found


def _backward_variances(noise: LayerNoise, shares: LayerShares, forward: Array) -> tuple[Array, Array, Array]:
    """Return the variances over networks of ln of the mean squares of dL/dz, of dL/d norm(z) and of dL/dh."""
    depth = forward.size
    gradient, inner, outer = np.empty(depth), np.empty(depth), np.empty(depth)
    # ln |dL/dz_l|^2 = lever y_l + rest, and the rest is independent of y_l.
    lever = rest = after = 0.0
    for layer in reversed(range(depth)):
        added = float(noise.forward[layer + 1]) if layer < depth - 1 else 0.0
        joint = 2 * lever * float(noise.covariance[layer])
        outer[layer] = after + noise.outer[layer]
        inner[layer] = after + noise.inner[layer] + (joint / shares.backward[layer] if shares.backward[layer] else 0.0)
        rest += float(noise.gradient[layer]) + lever**2 * added + joint
        lever = float(
            noise.gradient_elasticity[layer] + (noise.elasticity[layer] * lever if layer < depth - 1 else 0.0)
        )
        after = gradient[layer] = lever**2 * forward[layer] + rest
    return gradient, inner, outer


def stream_variances(net: FiniteMLP, batch: BatchCorrelations, noise: LayerNoise) -> tuple[Array, Array]:
    """Return the variances over networks of ln of the mean squares of z and of dL/dz in a residual network."""
    signal, shares, units = net.signal, net.shares, net.units
    correlation = _stream_correlation(signal)

    def covariance(first: int, second: int) -> Array:
        return np.asarray(_covariance(net, batch, correlation, first, second) / shares.widths[0])

    squares, slopes, both = (
        covariance(*pair) for pair in ((SQUARE, SQUARE), (SLOPE_SQUARE, SLOPE_SQUARE), (SLOPE_SQUARE, SQUARE))
    )
    share, back = shares.forward[:-1], shares.backward
    own = batch.self_pairs
    forward = np.diag(noise.forward)
    forward[1:, 1:] += (squares - np.diag(np.diag(squares)))[:-1, :-1] * share[:, None] * share
    response = _noise_response(noise)
    stream = response @ forward @ response.T
    with_stream = 4 * back * (1 - back) * own * (_slope_correlation(units, correlation, back) - 1) / shares.widths
    gradient = np.diag(noise.gradient + with_stream) + (slopes - np.diag(np.diag(slopes))) * back[:, None] * back
    # The covariance of phi'^2 of one layer with phi^2 of each, which enters the stream one layer later.
    shared = np.zeros_like(gradient)
    shared[:, 1:] = both[:, :-1] * back[:, None] * share
    elasticity = noise.gradient_elasticity[:, None]
    crossed = elasticity * (response @ shared.T)
    each = elasticity * stream * noise.gradient_elasticity + crossed + crossed.T + gradient
    # The gradient at a layer has the factors of all layers from it on.
    summed = np.cumsum(np.cumsum(each[::-1, ::-1], axis=0), axis=1)
    return np.diag(stream).copy(), np.diag(summed)[::-1].copy()


def stream_covariance(net: FiniteMLP, batch: BatchCorrelations, noise: LayerNoise, which: int) -> Array:
    """Return the covariance over networks of ln q with the mean of a function of `UnitMoments`, shape (layers,).

    At a given norm of the function's own layer. The stream carries the chance deviations of phi in earlier layers, and
    the function at this layer correlates with them. `which`: the function's index.
    """
    signal, shares = net.signal, net.shares
    both = _covariance(net, batch, _stream_correlation(signal), which, SQUARE) / shares.widths[0]
    return np.append(0.0, np.tril(_noise_response(noise)[1:, 1:] * both[1:, :-1] * shares.forward[:-1]).sum(axis=1))


def _stream_correlation(signal: MLPSignal) -> Array:
    """Return the correlation of the stream between every two layers, shape (layers, layers)."""
    return np.asarray(np.sqrt(np.minimum(signal.q[:, None], signal.q) / np.maximum(signal.q[:, None], signal.q)))


def _noise_response(noise: LayerNoise) -> Array:
    """Return d ln q_k / d(noise of layer l) in row k, column l: lower triangular, shape (layers, layers)."""
    found = np.eye(noise.elasticity.size)
    for layer in range(len(found) - 1):
        found[layer + 1, : layer + 1] = noise.elasticity[layer] * found[layer, : layer + 1]
    return found


def _covariance(net: FiniteMLP, batch: BatchCorrelations, correlation: Array, first: int, second: int) -> Array:
    """Return n times the covariance of two functions of `UnitMoments` between every two layers, at given norms of z.

    Shape (layers, layers).
    """
    mlp, signal, units = net.mlp, net.signal, net.units
    b, d = units.coefficients[first], units.coefficients[second]
    terms, layers = b.shape
    own = batch.self_pairs
    # The earlier of two layers determines how alike the samples are.
    earlier = np.minimum(np.arange(layers)[:, None], np.arange(layers))
    left_out = {0, 2, 1} if mlp.norm == "layer" else {0, 2}
    total = np.zeros((layers, layers))
    power = np.ones_like(correlation)
    for k in range(terms):
        if k not in left_out:
            alike = np.minimum(
                signal.at_c**k + (k * (k - 1) / 2 * signal.at_c ** (k - 2) * batch.variance if k > 1 else 0), 1
            )
            total += b[k][:, None] * d[k] * power * (own + (1 - own) * alike[earlier])
        power = power * correlation
    rest = np.maximum(units.over_one_sample(first, second) - (b * d).sum(axis=0), 0)
    total += np.sqrt(rest[:, None] * rest) * power * (own + (1 - own) * np.abs(signal.at_c[earlier]) ** terms)
    return total


def _slope_correlation(units: UnitMoments, correlation: Array, back: Array) -> Array:
    """Return E[delta^2 phi'^2] / (E[delta^2] D) of each layer for one sample, delta = dL/dz of the next layer.

    delta is larger at units whose phi' is larger in the later layers, and the stream keeps phi' much the same there.
    """
    b = units.coefficients[SLOPE_SQUARE]
    terms, layers = b.shape
    whole = np.zeros((layers, layers))
    power = np.ones_like(correlation)
    for k in range(terms):
        whole += b[k][:, None] * b[k] * power
        power = power * correlation
    found = np.ones(layers)
    for layer in range(layers - 1):
        # The share of delta's mean square that passed through the branch of each later layer.
        remaining = np.cumprod(np.append(1.0, 1 - back[layer + 1 : -1]))
        found[layer] = (remaining * back[layer + 1 :] * whole[layer, layer + 1 :]).sum()
    return found
