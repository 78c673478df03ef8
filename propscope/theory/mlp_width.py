"""The seed bands of a chain: means and variances over networks of its log norms, forward and backward."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from propscope.theory.mlp_chain import Chain
from propscope.theory.mlp_noise import Likeness, Noise, Steps, free_covariance, likeness_of, noise_of, steps_of
from propscope.theory.mlp_path import Path, path_of
from propscope.theory.stream_noise import stream_band, stream_meets
from propscope.theory.unit_moments import SLOPE_SQUARE, SQUARE, VALUE, UnitMoments, unit_moments

Array = NDArray[np.float64]

_MOST = 0.5


@dataclass(frozen=True, slots=True)
class Band:
    """Mean and variance over networks of ln of a batch's mean square, less its value at infinite width; (layers,)."""

    mean: Array
    variance: Array


@dataclass(frozen=True, slots=True)
class ChainWidth:
    """The bands of a chain: of z the `stream`; of the linear layer's own output the `branch`; of phi the `activation`.

    Backward of dL/dz the `gradient`; of what leaves the norm `inner`; of dL/dh `outer`. Variances over networks of
    ln Var(phi) the `activation_spread`, and of phi's mean `activation_mean`, (layers,). `output`: the variance of ln of
    the mean square of the gradient at the readout. NaN where they are not known.
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
def chain_width(
    chain: Chain, *, mean_square: float, cosine: float, samples: int | None, gradients: float
) -> ChainWidth:
    """Return the bands for a batch of `samples` (None: very many) inputs of this mean square and cosine.

    `gradients`: mean square correlation of the gradients that two samples get at the output, 0 where they are drawn.
    NaN for batch norm and where q leaves the numbers that there are.
    """
    path = path_of(chain, mean_square=mean_square, cosine=cosine, batch=samples)
    usable = np.isfinite(path.q) & (path.q > 1e-280) & (path.value > 1e-280)
    if chain.norm == "batch" or not usable.all():
        unknown = np.full(path.q.size, math.nan)
        nothing = Band(unknown, unknown)
        return ChainWidth(nothing, nothing, nothing, nothing, nothing, nothing, unknown, unknown, math.nan)
    steps, units = steps_of(chain, path), unit_moments(chain.activation, path.at)
    one = Likeness(1.0, np.zeros(path.q.size), np.ones(path.q.size), 0.0)
    batch = math.inf if samples is None else samples
    like = likeness_of(chain, path, steps, units, samples=batch, cosine=cosine, gradients=gradients)
    # A gradient drawn for each output is a sample of its variance; without a readout phi' takes part in that.
    own = 2 / (batch * chain.outputs) if chain.outputs and not gradients else 0.0
    alone, together = (_variances(chain, path, steps, units, each) for each in (one, like))
    means = _means(chain, path, steps, units, alone)

    def band(name: str, own: float = 0.0) -> Band:
        # A batch has the mean of one sample; only the mean of the logarithm sees how much the batch averages out.
        single, variance = getattr(alone, name), getattr(together, name)
        # What the mean square itself is off by: by first order, which says nothing where that is much.
        excess = np.clip(means[name] + single / 2, -_MOST, _MOST)
        return Band(excess - (variance + own) / 2, variance + own)

    return ChainWidth(
        stream=band("stream"),
        branch=band("branch"),
        activation=band("activation"),
        gradient=band("gradient", own),
        inner=band("inner", own),
        outer=band("outer", own),
        activation_spread=_of_phi(chain, path, steps, units, like, together, *_about_the_mean(path)),
        activation_mean=path.value * _of_phi(chain, path, steps, units, like, together, 0.0, 1.0),
        output=own,
    )


@dataclass(frozen=True, slots=True)
class _Variances:
    """The variances of `ChainWidth` for one likeness, (layers,), with the noise that they are from.

    `white`: of the stream, were there nothing that it remembers.
    """

    noise: Noise
    white: Array
    stream: Array
    branch: Array
    activation: Array
    gradient: Array
    inner: Array
    outer: Array


def _variances(chain: Chain, path: Path, steps: Steps, units: UnitMoments, like: Likeness) -> _Variances:
    noise = noise_of(chain, path, steps, units, like)
    white = stream = _forward(noise)
    gradient, inner, outer = _backward(noise, steps, stream)
    if chain.residual:
        stream, remembered = stream_band(chain, path, steps, units, like, noise)
        later = np.append(remembered[1:] - gradient[1:], 0.0)
        gradient, inner, outer = remembered, inner + later, outer + later
    slope = _free(chain, units.derivative(SQUARE, 1))
    grown = slope**2 * stream
    branch = stream
    if chain.residual:
        grown = grown + 2 * slope * stream_meets(chain, path, steps, units, like, noise, SQUARE)
        branch = noise.branch + np.append(0.0, steps.branch_share[:-1] ** 2 * grown[:-1])
    return _Variances(noise, white, stream, branch, grown + noise.passed, gradient, inner, outer)


def _means(chain: Chain, path: Path, steps: Steps, units: UnitMoments, alone: _Variances) -> dict[str, Array]:
    """Return the means of the logarithms for one sample each, by the name of their band."""
    noise, n = alone.noise, steps.fan
    # A vector uniform on a sphere is not quite normal: E[phi^2] = V - q^2 V'' / n.
    twice, steeper = units.derivative(SQUARE, 2), units.derivative(SLOPE_SQUARE, 2)
    # What a stream remembers changes no mean square, and so takes from the mean of its logarithm.
    stream = _mean(noise, steps.share * twice / n, alone.white) + (alone.white - alone.stream) / 2
    grown = _free(chain, units.derivative(SQUARE, 1))
    curve = _free(chain, units.derivative(SQUARE, 1) + twice) - grown**2
    activation = grown * stream + curve * (alone.stream + stream**2) / 2 - twice / n - noise.passed / 2
    branch = stream
    if chain.residual:
        share = np.append(0.0, steps.branch_share[:-1])
        before, scatter = (np.append(0.0, part[:-1]) for part in (activation, alone.activation))
        own = alone.branch - share**2 * scatter
        branch = share * before + share * (1 - share) * scatter / 2 - own / 2
    drift = noise.tilt * stream + noise.curve * (alone.stream + stream**2) / 2 - noise.gradient / 2
    drift += steps.back * (_returned(chain, path, steps, units) - steeper) / n
    gradient = np.cumsum(drift[::-1])[::-1]
    after = np.append(gradient[1:], 0.0)
    return {
        "stream": stream,
        "branch": branch,
        "activation": activation,
        "gradient": gradient,
        "inner": after - noise.drawn / 2 - steeper / n,
        "outer": after - noise.returned / 2,
    }


def _free(chain: Chain, derivative: Array) -> Array:
    """Return a derivative over ln q of what phi gives: none behind a norm."""
    return derivative if chain.norm == "none" else np.zeros_like(derivative)


def _about_the_mean(path: Path) -> tuple[Array, Array]:
    """Return the factors of phi^2 / V and phi / sqrt(V) in phi^2 - 2 E[phi] phi over the variance of phi.

    The mean of that varies as ln of the variance over units and samples does.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        square = path.value / (path.value - path.mean**2)
        return square, np.asarray(-2 * path.mean / np.sqrt(path.value) * square)


def _of_phi(
    chain: Chain,
    path: Path,
    steps: Steps,
    units: UnitMoments,
    like: Likeness,
    known: _Variances,
    square: Array | float,
    line: Array | float,
) -> Array:
    """Return the variance over networks of the mean of square phi^2 / V + line phi / sqrt(V), (layers,)."""

    def free(first: int, second: int) -> Array:
        return free_covariance(chain, path, units, like, first, second) / steps.fan

    grown = _free(chain, square * units.derivative(SQUARE, 1) + line * units.derivative(VALUE, 1))
    found = grown**2 * known.stream + square**2 * free(SQUARE, SQUARE) + line**2 * free(VALUE, VALUE)
    found = found + 2 * square * line * free(SQUARE, VALUE)
    if chain.residual:
        squares, lines = (stream_meets(chain, path, steps, units, like, known.noise, f) for f in (SQUARE, VALUE))
        found = found + 2 * grown * (square * squares + line * lines)
    return np.asarray(found)


def _forward(noise: Noise) -> Array:
    found = [float(noise.forward[0])]
    for slope, added in zip(noise.elasticity[:-1].tolist(), noise.forward[1:].tolist(), strict=True):
        found.append(slope**2 * found[-1] + added)
    return np.array(found)


def _mean(noise: Noise, sphere: Array, variance: Array) -> Array:
    """Return the mean of ln q over networks, one sample each: what noise and the bend of the map take off or add."""
    found = [-float(noise.forward[0]) / 2]
    for layer in range(variance.size - 1):
        m = found[-1]
        bent = noise.bend[layer] * (variance[layer] + m * m) / 2
        found.append(float(noise.elasticity[layer] * m + bent - sphere[layer] - noise.forward[layer + 1] / 2))
    return np.array(found)


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
