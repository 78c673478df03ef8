"""What a finite width adds: how far one network wanders from the mean field, forward and backward, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from propscope.checks import count, counts, number
from propscope.errors import InputError
from propscope.theory.critical import gain
from propscope.theory.elementwise import ActivationLike, Elementwise
from propscope.theory.mean_field import MeanField
from propscope.theory.quadrature import nodes

Array = NDArray[np.float64]

_TERMS = 48


@dataclass(frozen=True, slots=True)
class LayerMoments:
    """Expectations at each layer's q and over two samples of correlation c there, arrays (layers,).

    `value` V, `slope` D; `grown` q V', `tilted` q D'; `grown_twice` q^2 V'', `tilted_twice` q^2 D''; `joint`
    E[phi^2 phi'^2]; `alone` and `pair`, shape (3, layers): Cov(phi^2, phi^2), Cov(phi'^2, phi'^2), Cov(phi^2, phi'^2)
    of one sample and of two; `slope_pair` E[phi' phi'] of two. `share` is sigma_w^2 V / q'.
    """

    value: Array
    slope: Array
    grown: Array
    tilted: Array
    grown_twice: Array
    tilted_twice: Array
    joint: Array
    alone: Array
    pair: Array
    slope_pair: Array
    share: Array

    @property
    def elasticity(self) -> Array:
        """f' of the map f of ln q to ln q': q chi_parallel / q'."""
        return self.share * self.grown / self.value

    @property
    def bend(self) -> Array:
        """f''."""
        return self.share * (self.grown + self.grown_twice) / self.value - self.elasticity**2

    @property
    def tilt(self) -> Array:
        """The derivative of ln D over ln q."""
        return self.tilted / self.slope

    @property
    def curve(self) -> Array:
        """The second derivative of ln D over ln q."""
        return (self.tilted + self.tilted_twice) / self.slope - self.tilt**2


def layer_moments(field: MeanField, q: Array, c: Array, spread: Array) -> LayerMoments:
    """Return the moments at q and c, both (layers,), where c itself varies over networks by the variance `spread`."""
    keys = np.stack([q, c, spread]).round(14)
    distinct, which = np.unique(keys, axis=1, return_inverse=True)
    parts = np.array_split(distinct, max(1, distinct.shape[1] // 32), axis=1)
    found = np.concatenate([_moments(field, *part) for part in parts], axis=1)[:, which.ravel()]
    value, slope, grown, tilted, grown_twice, tilted_twice, joint = found[:7]
    share = field.weight_variance * value / (field.weight_variance * value + field.bias_variance)
    first = value, slope, grown, tilted, grown_twice, tilted_twice, joint
    return LayerMoments(*first, found[7:10], found[10:13], found[13], share)


def _moments(field: MeanField, q: Array, c: Array, spread: Array) -> Array:
    z, weight, _ = nodes(field.activation, q)
    x = np.sqrt(q)[:, None, None] * z
    derivative = field.activation.derivative(x)
    squares = np.stack([field.activation.value(x) ** 2, derivative**2])

    def mean(polynomial: Array | float) -> Array:
        return np.asarray((squares * (weight * polynomial)).sum(axis=(2, 3)))

    first, once, twice = mean(1.0), mean(z * z - 1) / 2, mean(z**4 - 6 * z * z + 3) / 4
    joint = (squares[0] * squares[1] * weight).sum(axis=(1, 2))
    alone, pair, product = _covariances(np.stack([*squares, derivative]), z, weight, c, spread)
    return np.concatenate([first, once, twice, joint[None], alone, pair, product[None]])


def _covariances(terms: Array, z: Array, weight: Array, c: Array, spread: Array) -> tuple[Array, Array, Array]:
    """Return the covariances of one sample and of two, (3, m), and E[phi' phi'], (m,), of terms phi^2, phi'^2, phi'.

    By Hermite series, sum_k b_k b'_k E[c^k].

    The orders beyond the last are taken as if all were the next; c^k is averaged over c's spread to second order.
    """
    pairs = ((0, 0), (1, 1), (0, 1), (2, 2))
    whole = np.stack([(terms[i] * terms[j] * weight).sum(axis=(1, 2)) for i, j in pairs])
    before, here = np.zeros_like(z), np.ones_like(z)
    found, covered = np.zeros_like(whole), np.zeros_like(whole)
    for k in range(1 if (c == 1).all() else _TERMS):
        order = (terms * (weight * here)).sum(axis=(2, 3))
        product = np.stack([order[i] * order[j] for i, j in pairs])
        covered += product
        found += product * np.minimum(c**k + (k * (k - 1) / 2 * c ** (k - 2) * spread if k > 1 else 0), 1)
        if k == 0:
            means = product
        before, here = here, (z * here - np.sqrt(k) * before) / np.sqrt(k + 1)
    found += (whole - covered) * np.abs(c) ** _TERMS
    return (whole - means)[:3], (found - means)[:3], found[3]


@dataclass(frozen=True, slots=True)
class LayerNoise:
    """Noise variances for one unit, arrays (layers,): of ln q', of ln of the gradient's factor, and their covariance.

    `last`: of the gradient's factor if the layer is the last. `own`: of the mean square of n numbers about their
    variance. `biases`: what orthogonal weights leave to the biases, for a unit of the next layer. `forward_drift` and
    `backward_drift`: shifts of the two logarithms besides half their noise's variance.
    """

    forward: Array
    backward: Array
    shared: Array
    last: Array
    own: Array
    biases: Array
    forward_drift: Array
    backward_drift: Array


def layer_noise(
    moments: LayerMoments, q: Array, *, alike: Array, gradients_alike: Array, samples: float, orthogonal: bool
) -> LayerNoise:
    """Return the noise of mean squares over a batch of `samples`, pairs of which have E[c^2] = `alike`, and their
    gradients `gradients_alike`, (layers,)."""
    one = 1 / samples
    forward, shared = (one * moments.alone[i] + (1 - one) * moments.pair[i] for i in (0, 2))
    slope = moments.slope

    def gradient(covariance: Array, square: Array | float) -> Array:
        return np.asarray((1 + 2 * square) * (covariance + slope**2) - slope**2)

    backward = one * gradient(moments.alone[1], 1.0) + (1 - one) * gradient(moments.pair[1], gradients_alike)
    together = one + (1 - one) * alike
    gradients_together = one + (1 - one) * gradients_alike
    last = backward
    forward_drift = np.zeros_like(q)
    tied = moments.joint / (moments.value * slope)
    backward_drift = np.zeros_like(q)
    if orthogonal:
        # The norms of z and of the gradient are kept, so what projects on them is no noise.
        forward = forward - 2 * together * moments.grown**2
        shared = shared - 2 * together * moments.grown * moments.tilted
        last = backward - 2 * together * moments.tilted**2
        backward = last - 2 * gradients_together * slope**2
        # A vector uniform on a sphere is not quite normal: E[phi^2] = V - q^2 V'' / n.
        forward_drift = -moments.share * moments.grown_twice / moments.value
        backward_drift = -moments.tilted_twice / slope
        tied = tied - 1
    backward_drift[:-1] += (tied * (_tied(moments, q) - 1))[:-1]
    return LayerNoise(
        (moments.share / moments.value) ** 2 * forward,
        backward / slope**2,
        moments.share * shared / (moments.value * slope),
        last / slope**2,
        np.zeros_like(q) if orthogonal else 2 * together,
        2 * together * (1 - moments.share**2) if orthogonal else np.zeros_like(q),
        forward_drift,
        backward_drift,
    )


def _tied(moments: LayerMoments, q: Array) -> Array:
    """Return (W h . delta)^2 / (sigma_w^2 V |delta|^2) of the layer after each.

    It would be 1 if the weights that the gradient passes back through were drawn anew, and not those that made z. With
    R = (z . delta)^2 / (q |delta|^2) of the layer after, it is share R + 1 - share; R follows from layer to layer.
    """
    found = np.ones_like(q)
    aligned = moments.grown**2 / (q * moments.value * moments.slope) if q.size else q
    ratio = 1 + 2 * moments.tilt[-1]
    for layer in reversed(range(q.size - 1)):
        found[layer] = moments.share[layer] * ratio + 1 - moments.share[layer]
        ratio = 1 + 2 * moments.tilt[layer] + aligned[layer] * (found[layer] - 1)
    return found


@dataclass(frozen=True, slots=True)
class FiniteWidth:
    """Layer by layer, arrays of shape (layers,): the `widths` n_l, `q` and `correlation` at infinite width.

    `forward_mean` and `forward_variance` are those of ln(mean square of z_l) - ln q_l over networks, `backward_mean`
    and `backward_variance` those of ln(mean square of dL/dz_l) less its value at infinite width, for a gradient of
    independent normal numbers given to the last layer's activations. Natural logarithms of squares: the rms of one
    network lies within exp((mean +- 2 sqrt(variance)) / 2) of the mean field's 19 times in 20.
    """

    widths: NDArray[np.int_]
    q: Array
    correlation: Array
    forward_mean: Array
    forward_variance: Array
    backward_mean: Array
    backward_variance: Array


def finite_width(
    activation: ActivationLike,
    *,
    widths: Iterable[int],
    weight_variance: float | None = None,
    bias_variance: float = 0.0,
    q0: float | None = None,
    c0: float = 1.0,
    gradient_correlation: float = 1.0,
    samples: int | None = None,
    orthogonal: bool = False,
) -> FiniteWidth:
    """Return mean and variance of the log norms of a network of these `widths`, one a layer, over its random weights.

    `weight_variance` is gain(activation)^2 unless given; `q0` the first layer's variance, by default the fixed point
    that q = 1 tends to, or 1 where there is none. The mean squares are those of a whole batch of `samples` (None: very
    many) whose first pre-activations correlate by `c0` and whose gradients correlate by `gradient_correlation`: 1 and 1
    for one sample, or samples that agree; 0 for a gradient drawn for each sample on its own. `orthogonal`: square
    weights that keep norms, and so fluctuate less.

    For He ReLU ln q_l drifts by -(5/2) sum 1/n and has variance 5 sum 1/n (Hanin, Nica 2020, theorem 1; Hanin, Rolnick
    2018). In general ln Q' = f(ln Q) + noise of variance sigma_w^4 Var(phi^2) / (n q'^2) with f' = q chi_parallel / q',
    f'' and the noise giving the drift (Yaida 2020; Roberts, Yaida, Hanin 2022, chapter 4); backward each layer adds
    noise of variance (3 E[phi'^4] / D^2 - 1) / n, and D depends on Q (chapter 9). To first order in layers / width:
    once the variances reach about 1 they are rough, above all where q may leave its fixed point, as for critical GELU.

    Raises `InputError` for widths that are not whole numbers of at least 1, orthogonal layers of unequal widths, a
    variance or correlation that is not valid, and a q that reaches 0 or infinity on the way.
    """
    elementwise = Elementwise.of(activation)
    units = np.array(counts("widths", widths))
    if orthogonal and (units != units[0]).any():
        raise InputError("widths differ, and orthogonal weights need equal ones", hint="give equal widths")
    weight = gain(elementwise) ** 2 if weight_variance is None else weight_variance
    field = MeanField(elementwise, weight_variance=weight, bias_variance=bias_variance)
    rho = number("gradient_correlation", gradient_correlation, low=-1.0, high=1.0)
    batch = np.inf if samples is None else count("samples", samples)
    q, c = _infinite(field, q0, units.size, c0)
    ones = np.ones(q.size)
    alone = layer_moments(field, q, ones, 0 * ones)
    noise = layer_noise(alone, q, alike=ones, gradients_alike=ones, samples=1, orthogonal=orthogonal)
    found = _log_norms(alone, noise, units)
    if batch > 1 and ((c < 1).any() or abs(rho) < 1):
        # A batch has the mean of one sample; only the mean of the logarithm sees how much the batch averages out.
        spread = _spread(field, layer_moments(field, q, c, 0 * ones), q, c, units)
        pairs = layer_moments(field, q, c, spread)
        noise = layer_noise(
            pairs,
            q,
            alike=np.minimum(c**2 + spread, 1),
            gradients_alike=_gradients_alike(pairs, units, rho),
            samples=batch,
            orthogonal=orthogonal,
        )
        mean, variance, mean_back, variance_back = found
        _, less, _, less_back = _log_norms(pairs, noise, units)
        found = mean + (variance - less) / 2, less, mean_back + (variance_back - less_back) / 2, less_back
    return FiniteWidth(units, q, c, *found)


def _log_norms(moments: LayerMoments, noise: LayerNoise, units: NDArray[np.int_]) -> tuple[Array, Array, Array, Array]:
    mean, variance = _forward(moments, noise, units)
    backward = _backward(moments, noise, units, mean, variance)
    # A layer's own n numbers are a sample of their variance; orthogonal weights keep it.
    own = noise.own / units
    return mean - own / 2, variance + own, *backward


def _infinite(field: MeanField, q0: float | None, layers: int, c0: float) -> tuple[Array, Array]:
    if q0 is None:
        settled = field.fixed_point().q
        q0 = settled if 0 < settled < np.inf else 1.0
    run = field.propagate(number("q0", q0, above=True), max(layers - 1, 1), c0=c0)
    q = run.q[:layers]
    lost = np.flatnonzero(~(np.isfinite(q) & (q > 0)))
    if lost.size:
        raise InputError(
            f"q reaches {q[lost[0]]:g} at layer {lost[0] + 1} of {layers}",
            hint="choose other variances, or fewer layers",
        )
    return q, np.clip(run.correlation[:layers], -1, 1)


def _spread(field: MeanField, moments: LayerMoments, q: Array, c: Array, units: NDArray[np.int_]) -> Array:
    """Return the variance over networks of the correlation of two samples, (layers,).

    Each layer multiplies it by the square of the correlation map's slope and adds the noise of phi phi' / n.
    """
    found = np.zeros(q.size)
    rise = field.weight_variance * q[:-1] / q[1:] * moments.slope_pair[:-1]
    product = (c[1:] * q[1:] - field.bias_variance) / field.weight_variance
    noise = np.maximum(moments.value[:-1] ** 2 + moments.pair[0][:-1] - product**2, 0)
    # Along with the norms the correlation does not vary: the more alike, the less.
    noise *= (field.weight_variance / q[1:]) ** 2 * (1 - c[:-1] ** 2)
    for layer in range(q.size - 1):
        found[layer + 1] = rise[layer] ** 2 * found[layer] + noise[layer] / units[layer]
    return np.minimum(found, 1 - c**2)


def _gradients_alike(moments: LayerMoments, units: NDArray[np.int_], rho: float) -> Array:
    """Return E[rho_l^2], the mean square of the correlation of two samples' gradients behind each layer, (layers,).

    At the last layer that of their entries; further down of the vectors, which have 1 / n by chance from each layer.
    """
    found = np.empty(units.size)
    kept = (moments.slope_pair / moments.slope) ** 2
    chance = (moments.pair[1] + moments.slope**2) / moments.slope**2 / units
    alike = rho**2
    for layer in reversed(range(units.size)):
        found[layer] = alike
        alike = min(kept[layer] * alike + (1 - alike) * chance[layer], 1.0)
    return found


def _forward(moments: LayerMoments, noise: LayerNoise, units: NDArray[np.int_]) -> tuple[Array, Array]:
    """Return mean and variance of ln Q_l - ln q_l, Q_l the variance of layer l's numbers given the layers before."""
    mean, variance = np.zeros(units.size), np.zeros(units.size)
    slope, bend = moments.elasticity, moments.bend
    m = s = 0.0
    for layer in range(units.size - 1):
        added = noise.forward[layer] / units[layer] + noise.biases[layer] / units[layer + 1]
        drift = noise.forward_drift[layer] / units[layer] - added / 2
        m, s = slope[layer] * m + bend[layer] * (s + m * m) / 2 + drift, slope[layer] ** 2 * s + added
        mean[layer + 1], variance[layer + 1] = m, s
    return mean, variance


def _backward(
    moments: LayerMoments, noise: LayerNoise, units: NDArray[np.int_], mean: Array, variance: Array
) -> tuple[Array, Array]:
    """Return mean and variance of ln |dL/dz_l|^2: the sum over the layers from l on of ln D(Q_k) and of its noise."""
    added = noise.backward / units
    added[-1] = noise.last[-1] / units[-1]
    tilt = moments.tilt
    drift = tilt * mean + moments.curve * (variance + mean**2) / 2 + noise.backward_drift / units - added / 2
    found = np.zeros(units.size)
    # ln |dL/dz_l|^2 = lever x_l + rest, x_l = ln Q_l - ln q_l, and the rest is independent of x_l.
    lever = rest = 0.0
    for layer in reversed(range(units.size)):
        forward, shared = noise.forward[layer] / units[layer], noise.shared[layer] / units[layer]
        rest += added[layer] + lever**2 * forward + 2 * lever * shared
        lever = tilt[layer] + moments.elasticity[layer] * lever
        found[layer] = lever**2 * variance[layer] + rest
    return np.cumsum(drift[::-1])[::-1], found
