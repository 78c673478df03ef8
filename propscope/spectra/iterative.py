"""The spectrum of a Jacobian that is too large to write down, from products with it and its transpose.

J^T u is a backward pass, and J v the derivative of J^T u by u, from one graph for all samples. The largest singular
value is ARPACK's, by `scipy.sparse.linalg.svds`. Mean square, fourth moment and density come from Golub-Kahan
bidiagonalization started at random vectors: stochastic Lanczos quadrature (Ubaru, Chen, Saad 2017, algorithm 1) on
J^T J without squaring it, whose first step is Hutchinson's estimate of the trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from propscope.errors import InputError
from propscope.spectra.sites import Inputs, Prefixes

Floats = NDArray[np.float64]
Product = Callable[[Floats], Floats]

# 30 steps find the ends of a smooth density to about 1% and its moments up to the 59th exactly for each vector.
STEPS = 30
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Density:
    """Quadrature of the singular values of each sample: `nodes` and their `weights`, shape (samples, probes, steps).

    The weights of a sample and probe sum to 1. `largest`: the largest singular value of all samples, `converged` when
    it is so to 1e-4, else a lower bound. `finite`: of which samples all products were finite, shape (samples,); the
    others' nodes are NaN. `values`: how many singular values a sample has.
    """

    nodes: Floats
    weights: Floats
    largest: float
    converged: bool
    finite: NDArray[np.bool_]
    values: int

    def moment(self, power: int) -> Floats:
        """Return the estimates of the mean of s^power, shape (samples, probes)."""
        return np.asarray((self.weights * self.nodes**power).sum(axis=2))


class Products:
    """J v and J^T u at one site, for the Jacobians of all samples; arrays are (probes, samples, features), float64."""

    def __init__(self, value: Tensor, x: Tensor, *, coupled: bool) -> None:
        self._value, self._x, self._coupled = value, x, coupled
        self._cotangent = torch.zeros_like(value, requires_grad=True)
        (self._pulled,) = torch.autograd.grad(value, x, self._cotangent, create_graph=True)
        self.shape = (value[0].numel(), x[0].numel())

    def forward(self, vectors: Floats) -> Floats:
        """Return J v, shape (probes, samples, outputs)."""
        # An x that J^T u does not reach leaves no graph.
        if not self._pulled.requires_grad:
            return np.zeros((*vectors.shape[:2], self.shape[0]))
        return self._product(self._pulled, self._cotangent, vectors)

    def backward(self, vectors: Floats) -> Floats:
        """Return J^T u, shape (probes, samples, inputs)."""
        return self._product(self._value, self._x, vectors)

    def _product(self, of: Tensor, by: Tensor, vectors: Floats) -> Floats:
        probes, samples = vectors.shape[:2]
        given = torch.from_numpy(vectors).to(of).reshape(probes, samples, *of.shape[1:])
        directions = of.new_zeros((probes, *of.shape))
        if not self._coupled:
            directions[:, :samples] = given
            return _rows(_gradients(of, by, directions)[:, :samples])
        # Through a coupled model one sample's direction reaches the others' derivatives too.
        found = []
        for sample in range(samples):
            directions.zero_()
            directions[:, sample] = given[:, sample]
            found.append(_gradients(of, by, directions)[:, sample])
        return _rows(torch.stack(found, dim=1))


def _gradients(of: Tensor, by: Tensor, directions: Tensor) -> Tensor:
    """Return the gradient for each direction, in one pass where the model allows it."""
    if len(directions) > 1:
        # torch states no type for what a transform cannot do.
        with suppress(RuntimeError, NotImplementedError):
            (found,) = torch.autograd.grad(
                of, by, directions, retain_graph=True, allow_unused=True, is_grads_batched=True
            )
            return by.new_zeros((len(directions), *by.shape)) if found is None else found
    each = [torch.autograd.grad(of, by, one, retain_graph=True, allow_unused=True)[0] for one in directions]
    return torch.stack([torch.zeros_like(by) if found is None else found for found in each])


def _rows(tensor: Tensor) -> Floats:
    return np.asarray(tensor.detach().flatten(2).to("cpu", torch.float64).numpy())


def densities(
    prefixes: Prefixes,
    inputs: Inputs,
    sizes: Mapping[str, int],
    *,
    samples: int,
    coupled: bool,
    probes: int,
    seed: int,
) -> dict[str, Density]:
    """Return the density of the singular values at each site; `sizes` and `coupled` as in `exact_spectra`.

    Raises `InputError` for a model that cannot be differentiated twice.
    """
    inputs = inputs if coupled else inputs.samples(slice(0, samples))
    x = inputs.tensor.detach().requires_grad_()
    part = replace(prefixes, inputs=inputs)
    found = {}
    with part.prepared():
        for key, value in zip(sizes, part.at(x, list(sizes)), strict=True):
            products = _products(value, x, key, samples=samples, coupled=coupled)
            found[key] = density_of(products, samples=samples, probes=probes, seed=seed)
    return found


def _products(value: Tensor, x: Tensor, key: str, *, samples: int, coupled: bool) -> Products:
    reason = "its backward pass cannot be differentiated"
    try:
        products = Products(value, x, coupled=coupled)
        if _are_transposed(products, samples, torch.finfo(value.dtype).eps ** 0.5):
            return products
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
    raise InputError(
        f"the iterative method needs second derivatives, and {key or 'the output'} has none: {reason}",
        hint='use method="exact", on a smaller input if necessary, or exclude the site',
    )


def _are_transposed(products: Products, samples: int, tolerance: float) -> bool:
    """Return whether u (J v) equals (J^T u) v; a backward pass that leaves no graph would give J = 0."""
    generator = np.random.default_rng(0)
    u, v = (generator.standard_normal((1, samples, size)) for size in products.shape)
    with np.errstate(all="ignore"):
        image, pulled = products.forward(v), products.backward(u)
        apart = np.abs((u * image).sum(axis=2) - (pulled * v).sum(axis=2))
        allowed = tolerance * (_length(u) * _length(image) + _length(pulled) * _length(v))
        return bool(((apart <= allowed) | ~np.isfinite(apart)).all())


def _length(vectors: Floats) -> Floats:
    return np.asarray(np.linalg.norm(vectors, axis=2))


def density_of(products: Products, *, samples: int, probes: int, seed: int, steps: int = STEPS) -> Density:
    """Return the density from `steps` steps on each of `probes` random vectors a sample, N(0, 1) drawn with `seed`."""
    outputs, features = products.shape
    # Started on the smaller side, the zeros that the larger one has of necessity are no part of the spectrum.
    forward, backward = (
        (products.forward, products.backward) if features <= outputs else (products.backward, products.forward)
    )
    size = min(outputs, features)
    # numpy takes no negative seeds.
    start = np.random.default_rng(seed % 2**64).standard_normal((probes, samples, size))
    # What is not finite is found by its outcome.
    with np.errstate(all="ignore"):
        nodes, weights, ritz = _bidiagonalize(forward, backward, start, min(steps, size))
        finite = np.asarray(np.isfinite(nodes).all(axis=(0, 2)))
        best = np.where(finite, nodes[:, :, 0], 0.0).argmax(axis=0)
        each = np.arange(samples)
        largest, converged = _largest(products, ritz[best, each], nodes[best, each, 0], finite)
    return Density(nodes.swapaxes(0, 1), weights.swapaxes(0, 1), largest, converged, finite, size)


def _bidiagonalize(forward: Product, backward: Product, start: Floats, steps: int) -> tuple[Floats, Floats, Floats]:
    """Return nodes, descending, and weights, shape (probes, samples, steps), and the largest node's right vectors.

    Golub, Kahan 1965: A V = U B with B upper bidiagonal, from V's first column, `start`. V is kept orthogonal in full,
    which is enough for U (Simon, Zha 2000).
    """
    bidiagonal = np.zeros((*start.shape[:2], steps, steps))
    basis = np.zeros((*start.shape[:2], steps, start.shape[2]))
    right, _ = _unit(start)
    left, above = np.zeros(1), np.zeros(start.shape[:2])
    for step in range(steps):
        basis[:, :, step] = right
        left, bidiagonal[:, :, step, step] = _unit(forward(right) - above[..., None] * left)
        if step + 1 == steps:
            break
        right = backward(left)
        earlier = basis[:, :, : step + 1]
        for _ in range(2):
            right = right - ((earlier @ right[..., None]).swapaxes(2, 3) @ earlier)[:, :, 0]
        right, above = _unit(right, beside=bidiagonal.max(axis=(2, 3)))
        bidiagonal[:, :, step, step + 1] = above
    finite = np.isfinite(bidiagonal).all(axis=(2, 3))
    nodes, weights = np.full((2, *start.shape[:2], steps), np.nan)
    ritz = np.zeros_like(start)
    _, nodes[finite], turned = np.linalg.svd(bidiagonal[finite])
    weights[finite] = turned[:, :, 0] ** 2
    ritz[finite] = (turned[:, :1] @ basis[finite])[:, 0]
    return nodes, weights, ritz


def _unit(vectors: Floats, beside: Floats | float = 0.0) -> tuple[Floats, Floats]:
    """Return the vectors divided by their lengths, and the lengths; lengths up to 1e-13 `beside` count as 0."""
    lengths = _length(vectors)
    lengths = np.where(lengths <= 1e-13 * beside, 0.0, lengths)
    scaled = vectors / np.where(lengths == 0, 1.0, lengths)[..., None]
    return np.where(lengths[..., None] == 0, 0.0, scaled), lengths


def _largest(products: Products, start: Floats, best: Floats, finite: NDArray[np.bool_]) -> tuple[float, bool]:
    """Return the largest singular value of all samples' Jacobians, and whether it converged."""
    # It takes 0.1 s to load, which those who take no Jacobian need not wait for.
    from scipy.sparse.linalg import ArpackError, LinearOperator, svds

    if not finite.any():
        return float("nan"), False
    ritz = float(best[finite].max())
    samples, (outputs, features) = len(finite), products.shape
    if ritz == 0 or samples * min(outputs, features) < 2:
        return ritz, True
    is_finite = finite[:, None]

    # The Jacobians of all samples are the blocks of one matrix, and a product with it is one pass.
    def times(vectors: Floats) -> Floats:
        return np.where(is_finite, products.forward(vectors.reshape(1, samples, features))[0], 0.0).ravel()

    def transposed(vectors: Floats) -> Floats:
        return np.where(is_finite, products.backward(vectors.reshape(1, samples, outputs))[0], 0.0).ravel()

    operator = LinearOperator((samples * outputs, samples * features), times, transposed, dtype=np.float64)
    try:
        found = svds(operator, k=1, tol=_TOLERANCE, v0=start.ravel(), return_singular_vectors=False)
    except ArpackError:
        return ritz, False
    return max(float(found[0]), ritz), True
