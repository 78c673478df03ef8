"""The seed band of a chain: mean and variance of its log norms over networks, forward and backward."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from propscope.theory.chain import Chain, Path, path_of
from propscope.theory.chain_noise import Likeness, Noise, Steps, likeness_of, noise_of, steps_of
from propscope.theory.stream_noise import stream_band
from propscope.theory.unit_moments import SLOPE_SQUARE, SQUARE, UnitMoments, unit_moments

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ChainWidth:
    """Variance over networks of ln of a batch's mean squares, and where their mean lies; arrays (layers,).

    Of z the `stream`, with `stream_mean`; of the linear layer's own output the `branch`; of phi the `activation`.
    Backward of dL/dz the `gradient`, with `gradient_mean`; of what leaves the norm `inner`; of dL/dh `outer`, and at
    the readout the `output`. NaN where it is not known.
    """

    stream: Array
    stream_mean: Array
    branch: Array
    activation: Array
    gradient: Array
    gradient_mean: Array
    inner: Array
    outer: Array
    output: float


@lru_cache(maxsize=512)
def chain_width(
    chain: Chain, *, mean_square: float, cosine: float, samples: int | None, gradients: float
) -> ChainWidth:
    """Return the band for a batch of `samples` (None: very many) inputs of this mean square and cosine.

    `gradients`: mean square correlation of the gradients that two samples get at the output, 0 where they are drawn.
    NaN for batch norm and where q leaves the numbers that there are.
    """
    path = path_of(chain, mean_square=mean_square, cosine=cosine, batch=samples)
    usable = np.isfinite(path.q) & (path.q > 1e-280) & (path.value > 1e-280)
    if chain.norm == "batch" or not usable.all():
        a = np.full(path.q.size, math.nan)
        return ChainWidth(a, a, a, a, a, a, a, a, math.nan)
    steps, units = steps_of(chain, path), unit_moments(chain.activation, path.at)
    zeros, ones = np.zeros(path.q.size), np.ones(path.q.size)
    one = Likeness(1.0, zeros, ones, 0.0)
    alone = noise_of(chain, path, steps, units, one)
    batch = math.inf if samples is None else samples
    like = likeness_of(chain, path, steps, units, samples=batch, cosine=cosine, gradients=gradients)
    noise = noise_of(chain, path, steps, units, like)
    single, forward = _forward(alone), _forward(noise)
    # A batch has the mean of one sample; only the mean of the logarithm sees how much the batch averages out.
    mean = _mean(alone, steps, units, single)
    mean_back = _mean_back(chain, path, alone, steps, units, single, mean)
    # A gradient drawn for each output is a sample of its variance; without a readout phi' takes part in that.
    own = 2 / (batch * chain.outputs) if chain.outputs and not gradients else 0.0
    gradient, inner, outer = (part + own for part in _backward(noise, steps, forward))
    single_back, _, _ = _backward(alone, steps, single)
    if chain.residual:
        forward, gradient_too = stream_band(chain, path, steps, units, like, noise)
        gradient_too = gradient_too + own
        _, single_back = stream_band(chain, path, steps, units, one, alone)
        inner, outer = (part + np.append(gradient_too[1:] - gradient[1:], 0.0) for part in (inner, outer))
        gradient = gradient_too
    grown = 0.0 if chain.norm != "none" else units.derivative(SQUARE, 1)
    before = np.append(0.0, forward[:-1] * np.square(grown * ones)[:-1])
    return ChainWidth(
        stream=forward,
        stream_mean=mean + (single - forward) / 2,
        branch=noise.branch + np.append(0.0, steps.branch_share[:-1] ** 2) * before,
        activation=grown**2 * forward + noise.passed,
        gradient=gradient,
        gradient_mean=mean_back + (single_back - gradient) / 2,
        inner=inner,
        outer=outer,
        output=own,
    )


def _forward(noise: Noise) -> Array:
    found = [float(noise.forward[0])]
    for slope, added in zip(noise.elasticity[:-1].tolist(), noise.forward[1:].tolist(), strict=True):
        found.append(slope**2 * found[-1] + added)
    return np.array(found)


def _mean(noise: Noise, steps: Steps, units: UnitMoments, variance: Array) -> Array:
    """Return the mean of ln q over networks, one sample each: what noise and the bend of the map take off or add."""
    # A vector uniform on a sphere is not quite normal: E[phi^2] = V - q^2 V'' / n.
    sphere = steps.share * units.derivative(SQUARE, 2) / steps.fan
    found = [-float(noise.forward[0]) / 2]
    for layer in range(variance.size - 1):
        m = found[-1]
        bent = noise.bend[layer] * (variance[layer] + m * m) / 2
        found.append(float(noise.elasticity[layer] * m + bent - sphere[layer] - noise.forward[layer + 1] / 2))
    return np.array(found)


def _mean_back(
    chain: Chain, path: Path, noise: Noise, steps: Steps, units: UnitMoments, variance: Array, mean: Array
) -> Array:
    drift = noise.tilt * mean + noise.curve * (variance + mean**2) / 2 - noise.gradient / 2
    drift -= steps.back * units.derivative(SLOPE_SQUARE, 2) / steps.fan
    drift += steps.back * _returned(chain, path, steps, units) / steps.fan
    return np.cumsum(drift[::-1])[::-1]


def _returned(chain: Chain, path: Path, steps: Steps, units: UnitMoments) -> Array:
    """Return n times what it does that the gradient returns through the weights that made z, and through the norm.

    With R = (z . delta)^2 / (q |delta|^2) of the layer after: 0 before a norm, which takes that direction out; else
    from layer to layer, as in `width_noise`. What a stream adds to that is left out.
    """
    tied = units.over_one(SQUARE, SLOPE_SQUARE) - steps.kept_backward
    aligned = units.derivative(SQUARE, 1) ** 2 * path.value / (path.at * path.slope)
    tilt = units.derivative(SLOPE_SQUARE, 1)
    found = np.zeros(path.q.size)
    normed = chain.norm != "none"
    ratio = math.nan
    for layer in reversed(range(path.q.size)):
        excess = 0.0
        if layer < path.q.size - 1 and not chain.residual:
            excess = float(steps.share[layer] * ((0.0 if normed else ratio) - 1))
        ratio = float(1 + 2 * tilt[layer] + aligned[layer] * excess)
        found[layer] = tied[layer] * excess - normed * ratio - (chain.norm == "layer")
    return found


def _backward(noise: Noise, steps: Steps, forward: Array) -> tuple[Array, Array, Array]:
    """Return the variance of ln of the gradient's mean square: of dL/dz, of dL/d norm(z), of dL/dh."""
    depth = forward.size
    gradient, inner, outer = np.empty(depth), np.empty(depth), np.empty(depth)
    # ln |dL/dz_l|^2 = lever y_l + rest, and the rest is independent of y_l.
    lever = rest = after = 0.0
    for layer in reversed(range(depth)):
        added = float(noise.forward[layer + 1]) if layer < depth - 1 else 0.0
        joint = 2 * lever * float(noise.shared[layer])
        outer[layer] = after + noise.returned[layer]
        inner[layer] = after + noise.drawn[layer] + (joint / steps.back[layer] if steps.back[layer] else 0.0)
        rest += float(noise.gradient[layer]) + lever**2 * added + joint
        lever = float(noise.tilt[layer] + (noise.elasticity[layer] * lever if layer < depth - 1 else 0.0))
        after = gradient[layer] = lever**2 * forward[layer] + rest
    return gradient, inner, outer
