"""The seed band of a residual network, whose stream remembers: what one layer had by chance the next ones have too.

In a plain network fresh weights make each layer's units anew, and its noise is independent of that of the others. A
stream of pre-activations keeps its units: z_l and z_k correlate by sqrt(q_l / q_k), and so do the deviations of phi^2
and phi'^2 from their means that the norm of z leaves free.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from propscope.theory.mlp_chain import Chain
from propscope.theory.mlp_noise import Likeness, Noise, Steps
from propscope.theory.mlp_path import Path
from propscope.theory.unit_moments import SLOPE_SQUARE, SQUARE, UnitMoments

Array = NDArray[np.float64]


def stream_band(
    chain: Chain, path: Path, steps: Steps, units: UnitMoments, like: Likeness, noise: Noise
) -> tuple[Array, Array]:
    """Return the variance over networks of ln of the mean square of z and of dL/dz, (layers,) each."""
    kept = _kept(path)

    def about(first: int, second: int) -> Array:
        return np.asarray(_covariance(chain, path, units, like, kept, first, second) / steps.fan[0])

    squares, slopes, both = about(SQUARE, SQUARE), about(SLOPE_SQUARE, SLOPE_SQUARE), about(SLOPE_SQUARE, SQUARE)
    share, back = steps.share[:-1], steps.back
    forward = np.diag(noise.forward)
    forward[1:, 1:] += (squares - np.diag(np.diag(squares)))[:-1, :-1] * share[:, None] * share
    through = _through(noise)
    stream = through @ forward @ through.T
    meeting = 4 * back * (1 - back) * like.own * (_kept_active(units, kept, back) - 1) / steps.fan
    gradient = np.diag(noise.gradient + meeting) + (slopes - np.diag(np.diag(slopes))) * back[:, None] * back
    # What phi' of one layer shares with phi of all, which enters the stream one layer on.
    shared = np.zeros_like(gradient)
    shared[:, 1:] = both[:, :-1] * back[:, None] * share
    tilt = noise.tilt[:, None]
    crossed = tilt * (through @ shared.T)
    each = tilt * stream * noise.tilt + crossed + crossed.T + gradient
    # The gradient at a layer has the factors of all layers from it on.
    summed = np.cumsum(np.cumsum(each[::-1, ::-1], axis=0), axis=1)
    return np.diag(stream).copy(), np.diag(summed)[::-1].copy()


def stream_meets(
    chain: Chain, path: Path, steps: Steps, units: UnitMoments, like: Likeness, noise: Noise, which: int
) -> Array:
    """Return the covariance of ln q with the mean of one of `UnitMoments`, given the norm of its own layer, (layers,).

    What phi had by chance in the layers before is in the stream, and much of it in phi still.
    """
    both = _covariance(chain, path, units, like, _kept(path), which, SQUARE) / steps.fan[0]
    return np.append(0.0, np.tril(_through(noise)[1:, 1:] * both[1:, :-1] * steps.share[:-1]).sum(axis=1))


def _kept(path: Path) -> Array:
    """Return the correlation of the stream at every two layers, (layers, layers)."""
    return np.asarray(np.sqrt(np.minimum(path.q[:, None], path.q) / np.maximum(path.q[:, None], path.q)))


def _through(noise: Noise) -> Array:
    """Return what becomes of a layer's noise at later ones: lower triangular, (layers, layers)."""
    found = np.eye(noise.elasticity.size)
    for layer in range(len(found) - 1):
        found[layer + 1, : layer + 1] = noise.elasticity[layer] * found[layer, : layer + 1]
    return found


def _covariance(
    chain: Chain, path: Path, units: UnitMoments, like: Likeness, kept: Array, first: int, second: int
) -> Array:
    """Return n times the covariances of two squares at every two layers, (layers, layers), for given norms."""
    b, d = units.coefficients[first], units.coefficients[second]
    terms, layers = b.shape
    # Of two layers the earlier one says how alike samples are.
    earlier = np.minimum(np.arange(layers)[:, None], np.arange(layers))
    gone = {0, 2, 1} if chain.norm == "layer" else {0, 2}
    total = np.zeros((layers, layers))
    power = np.ones_like(kept)
    for k in range(terms):
        if k not in gone:
            alike = np.minimum(path.at_c**k + (k * (k - 1) / 2 * path.at_c ** (k - 2) * like.spread if k > 1 else 0), 1)
            total += b[k][:, None] * d[k] * power * (like.own + (1 - like.own) * alike[earlier])
        power = power * kept
    rest = np.maximum(units.over_one(first, second) - (b * d).sum(axis=0), 0)
    total += np.sqrt(rest[:, None] * rest) * power * (like.own + (1 - like.own) * np.abs(path.at_c[earlier]) ** terms)
    return total


def _kept_active(units: UnitMoments, kept: Array, back: Array) -> Array:
    """Return E[delta^2 phi'^2] / (E[delta^2] D) of each layer, delta the gradient of the next, of one sample.

    delta is larger at units whose phi' is so in the layers that it came through, and these are much the same.
    """
    b = units.coefficients[SLOPE_SQUARE]
    terms, layers = b.shape
    together = np.zeros((layers, layers))
    power = np.ones_like(kept)
    for k in range(terms):
        together += b[k][:, None] * b[k] * power
        power = power * kept
    found = np.ones(layers)
    for layer in range(layers - 1):
        # Shares of delta's mean square that came through the branch of each later layer.
        left = np.cumprod(np.append(1.0, 1 - back[layer + 1 : -1]))
        found[layer] = (left * back[layer + 1 :] * together[layer, layer + 1 :]).sum()
    return found
