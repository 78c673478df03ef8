"""What one layer of finite width adds to the log norms: elasticities, noise and its drift, to first order in 1 / n."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
