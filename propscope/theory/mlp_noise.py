"""How far the norms of a network of finite width stray from the mean field, to first order in 1 / n, layer by layer.

The log norms of a whole batch: y_l = ln(mean square of z_l) - ln q_l, and the same of dL/dz_l. One layer passes on the
deviation that it gets by its elasticity and adds noise of its own (Hanin, Nica 2020; Roberts, Yaida, Hanin 2022), as in
`finite_width`; here also with weights that vary from layer to layer, residual connections, norms and dropout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from propscope.theory.mlp_chain import Chain
from propscope.theory.mlp_path import Path
from propscope.theory.unit_moments import SLOPE, SLOPE_SQUARE, SQUARE, UnitMoments

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike the samples of a batch are; arrays (layers,).

    `own`: 1 over their number. `spread`: E[c^2] - c^2 over pairs, of what enters phi; `inputs` that of the first layer
    given its inputs. `gradients`: the mean square of the correlation of dL/dh behind each layer.
    """

    own: float
    spread: Array
    gradients: Array
    inputs: float


@dataclass(frozen=True, slots=True)
class Noise:
    """Variances that each layer adds, arrays (layers,): `forward` of ln q, given the layer before.

    `elasticity` and `bend`: first and second derivative of ln q' over ln q. `passed`: of the mean square of phi, given
    q. `branch`: of the linear layer's own output. `gradient` of the factor of dL/dz, `tilt` and `curve` its derivatives
    over ln q, `shared` its covariance with the next layer's `forward`. `returned`: what the transposed weights add,
    `drawn`: they and phi' together.
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
class Steps:
    """What does not depend on the batch, arrays (layers,): shares of what sums up, and preserved norms.

    `share` of phi in the next q, `branch_share` of phi in the next branch, `carried` of the stream in the next q;
    `back` share of the branch in the gradient's factor. `kept_forward` and `kept_backward`: the share of a norm that
    orthogonal weights keep. `fan`: units.
    """

    share: Array
    branch_share: Array
    carried: Array
    back: Array
    kept_forward: Array
    kept_backward: Array
    fan: Array


def steps_of(chain: Chain, path: Path) -> Steps:
    """Return the shares of a chain along its path; the entry of the last layer is that of its own output."""
    weights, units = chain.weight_variances(), np.array(chain.units, dtype=np.float64)
    drawn = weights[1:] * chain.kept * path.value[:-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.append(drawn / path.q[1:], 1.0)
        branch_share = np.append(drawn / path.branch[1:], 1.0)
        carried = np.append(path.q[:-1] / path.q[1:] * chain.residual, 0.0)
        branch = weights[1:] * chain.kept * path.factor[:-1]
        back = np.append(branch / (branch + chain.residual), 1.0)
    orthogonal = np.array([layer.orthogonal for layer in chain.layers])
    # A projection from m to n units keeps n / m of a norm; the deviation from that is 1 - n / m of a Gaussian matrix's.
    forward = orthogonal * np.minimum(1.0, units[1:] / units[:-1])
    backward = orthogonal * np.minimum(1.0, units[:-1] / units[1:])
    readout = chain.readout is not None and chain.readout.orthogonal
    last = min(1.0, units[-1] / chain.outputs) if readout else 0.0
    return Steps(share, branch_share, carried, back, forward, np.append(backward[1:], last), units[1:])


def noise_of(chain: Chain, path: Path, steps: Steps, units: UnitMoments, like: Likeness) -> Noise:
    """Return the noise of each layer for a batch of this likeness."""
    one, other, n, kept = like.own, 1 - like.own, steps.fan, chain.kept
    c, spread = path.at_c, like.spread
    normed = chain.norm != "none"
    alike = one + other * np.minimum(c**2 + spread, 1)
    grown, tilted = units.derivative(SQUARE, 1), units.derivative(SLOPE_SQUARE, 1)

    def about(first: int, second: int) -> Array:
        return free_covariance(chain, path, units, like, first, second, kept=kept)

    passed = about(SQUARE, SQUARE) / n
    own, cross, branch_own = _own(chain, path, steps, units, like)
    free = 0.0 if normed else 1.0
    elasticity = steps.carried + free * steps.share * grown
    twice = units.derivative(SQUARE, 2)
    bend = steps.carried + free * steps.share * (grown + twice) - elasticity**2
    forward = np.empty_like(n)
    forward[0] = own[0]
    forward[1:] = steps.share[:-1] ** 2 * passed[:-1] + own[1:] + cross[1:]
    branch = np.append(own[0], steps.branch_share[:-1] ** 2 * passed[:-1] + branch_own[1:])

    gradients = one + other * like.gradients
    slopes = units.over_two(SLOPE_SQUARE, SLOPE_SQUARE, c, spread)
    drawn = one * 3 * kept * units.over_one(SLOPE_SQUARE, SLOPE_SQUARE) + other * (1 + 2 * like.gradients) * slopes - 1
    drawn = drawn - alike * units.coefficients[SLOPE_SQUARE, 2] ** 2 - 2 * gradients * steps.kept_backward
    if chain.norm == "layer":
        drawn = drawn - (one + other * c) * units.coefficients[SLOPE_SQUARE, 1] ** 2
    slope_pair = units.over_two(SLOPE, SLOPE, c, spread)
    back = steps.back
    meeting = one + other * like.gradients * slope_pair / kept
    gradient = (back**2 * drawn + 4 * back * (1 - back) * meeting) / n
    slope_tilt = -1.0 if normed else tilted
    tilt = back * slope_tilt
    curve = back * (1.0 if normed else tilted + units.derivative(SLOPE_SQUARE, 2)) - tilt**2
    shared = back * steps.share * about(SQUARE, SLOPE_SQUARE) / n
    returned = 2 * gradients * (1 - steps.kept_backward) / n
    return Noise(forward, elasticity, bend, passed, branch, gradient, tilt, curve, shared, returned, drawn / n)


def free_covariance(
    chain: Chain, path: Path, units: UnitMoments, like: Likeness, first: int, second: int, *, kept: float = 1.0
) -> Array:
    """Return the covariance that is left for given norms of z, averaged over the batch's pairs, (layers,)."""
    one, other, c = like.own, 1 - like.own, path.at_c
    pairs = units.over_two(first, second, c, like.spread)
    products = units.coefficients[first] * units.coefficients[second]
    alike = one + other * np.minimum(c**2 + like.spread, 1)
    found = one * kept * units.over_one(first, second) + other * pairs - products[0] - alike * products[2]
    return np.asarray(found - (one + other * c) * products[1] * (chain.norm == "layer"))


def _own(chain: Chain, path: Path, steps: Steps, units: UnitMoments, like: Likeness) -> tuple[Array, Array, Array]:
    """Return the variances of a layer's own numbers about theirs, of their meeting the stream, and of the branch."""
    one, other, n = like.own, 1 - like.own, steps.fan
    biases = chain.bias_variances() * np.ones(n.size)
    ahead = np.append(path.q[0] - biases[0], path.branch[1:] - biases[1:])
    product = np.append(path.q[0] * path.c[0] - biases[0], path.branch[1:] * path.branch_c[1:] - biases[1:])
    scattered = np.append(like.inputs * path.q[0] ** 2, _product_spread(chain, path, units, like, n)[:-1])
    # Orthogonal weights keep the norm of what they act on, and what biases add is left.
    through = one * ahead**2 + other * (product**2 + scattered)
    with_biases = one * (2 * ahead * biases + biases**2) + other * (2 * product * biases + biases**2)
    if chain.flat_biases:
        with_biases = with_biases - 0.6 * biases**2
    square = 2 * (through * (1 - steps.kept_forward) + with_biases) / n
    met = np.zeros(n.size)
    if chain.residual:
        slope_pair = units.over_two(SLOPE, SLOPE, path.at_c, like.spread)
        rise = chain.weight_variances()[1:] * (path.at * path.slope * slope_pair)[:-1] * like.spread[:-1]
        pairs = one * path.branch[1:] + other * (path.c[:-1] * path.branch[1:] * path.branch_c[1:] + rise)
        met[1:] = 4 * path.q[:-1] * pairs / path.q[1:] ** 2 / n[1:]
    return square / path.q**2, met, square / path.branch**2


def _product_spread(chain: Chain, path: Path, units: UnitMoments, like: Likeness, n: Array) -> Array:
    """Return the variance over networks of the next layer's sigma_w^2 phi . phi' / n, for given norms, (layers,)."""
    weights = np.append(chain.weight_variances()[1:], 1.0)
    slope_pair = path.at * path.slope * units.over_two(SLOPE, SLOPE, path.at_c, like.spread)
    free = path.value**2 * units.over_two(SQUARE, SQUARE, path.at_c, like.spread) - path.product**2
    # Along with the norms the correlation does not vary: the more alike, the less.
    chance = np.maximum(free, 0) * (1 - path.at_c**2) / n
    return np.asarray(weights**2 * (slope_pair**2 * like.spread + chance))


def likeness_of(
    chain: Chain, path: Path, steps: Steps, units: UnitMoments, *, samples: float, cosine: float, gradients: float
) -> Likeness:
    """Return how alike samples and their gradients are, with what finite widths add by chance.

    `cosine` of the inputs; `gradients`: mean square correlation of the gradients at the output.
    """
    depth, n = path.q.size, steps.fan
    inputs = float((1 - chain.layers[0].bias_variance / path.q[0]) ** 2 * (1 - cosine**2) ** 2 / chain.units[0])
    spread = np.zeros(depth)
    slope_pair = units.over_two(SLOPE, SLOPE, path.at_c, spread)
    rise = steps.carried + steps.share * path.at * path.slope / path.value * slope_pair
    exact = Likeness(1 / samples, spread, spread, 0.0)
    chance = _product_spread(chain, path, units, exact, n)[:-1]
    spread[0] = inputs
    if chain.residual:
        # What adds up is correlations as they are, not those that the layer before would give.
        spread[0] += (1 - path.c[0] ** 2) ** 2 / n[0]
        own, shared = path.branch[1:], path.branch[1:] * path.branch_c[1:]
        crossed = own**2 + shared**2 + 2 * path.q[:-1] * (own + path.c[:-1] * shared)
        chance = chance + crossed * (1 - path.c[:-1] ** 2) / n[1:]
    for layer in range(depth - 1):
        grown = rise[layer] ** 2 * spread[layer] + chance[layer] / path.q[layer + 1] ** 2
        spread[layer + 1] = min(grown, 1 - path.c[layer + 1] ** 2)
    slope_pair = slope_pair / chain.kept
    kept = (1 - steps.back + steps.back * slope_pair) ** 2
    slopes = units.over_two(SLOPE_SQUARE, SLOPE_SQUARE, path.at_c, spread)
    by_chance = (steps.back**2 * slopes + 2 * steps.back * (1 - steps.back)) / n
    alike = gradients + (1 - gradients) / chain.outputs if chain.outputs else gradients
    found = np.empty(depth)
    for layer in reversed(range(depth)):
        found[layer] = alike
        alike = min(kept[layer] * alike + (1 - alike) * by_chance[layer], 1.0)
    return Likeness(1 / samples, spread, found, inputs)
