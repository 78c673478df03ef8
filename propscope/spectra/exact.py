"""Jacobians as whole matrices, and their singular values.

In forward mode one pass with n_in directions gives the Jacobian of every site at once; in reverse mode each site takes
a pass with as many directions as it has elements. Training uses reverse mode, and forward mode must agree with it;
inside `torch.no_grad()`, in dropout and in a user's own functions it may not, so the result is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from propscope.spectra.sites import Inputs, Prefixes

Floats = NDArray[np.float64]

# Bytes that the matrices of one pass may take, and the tensors that make them.
_BUDGET = 128 * 2**20


def exact_spectra(
    prefixes: Prefixes, inputs: Inputs, sizes: Mapping[str, int], *, samples: int, coupled: bool
) -> dict[str, Floats]:
    """Return all singular values, descending, of the Jacobian of each sample at each site, float64.

    `sizes`: elements of one sample at each site, by key. Shape (samples, min(outputs, inputs)) each; the row of a
    Jacobian that is not finite is NaN. Where samples are `coupled`, the others are held fixed: an element is the
    derivative of a sample's own output by its own input.
    """
    features = inputs.tensor[0].numel()
    each = sum(sizes.values()) * features * inputs.tensor.element_size()
    found: dict[str, list[Floats]] = {key: [] for key in sizes}
    for context, rows in _groups(inputs, samples, 1 if coupled else max(1, _BUDGET // each), coupled=coupled):
        part = replace(prefixes, inputs=context)
        for key, matrices in _jacobians(part, sizes, rows).items():
            found[key].append(singular_values(matrices))
    return {key: np.concatenate(parts) for key, parts in found.items()}


def singular_values(matrices: Tensor) -> Floats:
    """Return the singular values of (n, outputs, inputs) matrices in float64, NaN for a matrix that is not finite."""
    wide = matrices.detach().to("cpu", torch.float64)
    finite = torch.isfinite(wide).all(dim=(1, 2))
    values = torch.full((len(wide), min(wide.shape[1:])), torch.nan, dtype=torch.float64)
    if finite.any():
        values[finite] = torch.linalg.svdvals(wide[finite])
    return values.numpy()


def _groups(inputs: Inputs, samples: int, at_once: int, *, coupled: bool) -> Iterator[tuple[Inputs, slice]]:
    """Yield, for each pass, its inputs and the rows of them that are differentiated."""
    for start in range(0, samples, at_once):
        rows = slice(start, min(start + at_once, samples))
        yield (inputs, rows) if coupled else (inputs.samples(rows), slice(None))


def _jacobians(prefixes: Prefixes, sizes: Mapping[str, int], rows: slice) -> dict[str, Tensor]:
    """Return the Jacobians at each site, shape (rows, outputs, inputs)."""
    # A direction of reverse mode goes through half the network on average, and there and back.
    if prefixes.inputs.tensor[0].numel() <= sum(sizes.values()):
        # torch states no type for what a transform, or a forward derivative, cannot do.
        with suppress(RuntimeError, NotImplementedError, ValueError, TypeError):
            found = _forward_mode(prefixes, sizes, rows)
            if _agrees(prefixes, found, rows):
                return found
    return _reverse_mode(prefixes, sizes, rows)


def _forward_mode(prefixes: Prefixes, sizes: Mapping[str, int], rows: slice) -> dict[str, Tensor]:
    x, keys = prefixes.inputs.tensor, list(sizes)
    differentiated = torch.zeros(len(x), *[1] * (x.dim() - 1), dtype=x.dtype, device=x.device)
    differentiated[rows] = 1

    def images(direction: Tensor) -> tuple[Tensor, ...]:
        tangent = differentiated * direction.reshape(x.shape[1:])
        derivatives = torch.func.jvp(lambda value: prefixes.at(value, keys), (x,), (tangent,))[1]
        return tuple(derivative[rows].flatten(1) for derivative in derivatives)

    columns = []
    for directions in _basis(x[0].numel(), x, at_once=_BUDGET // (len(x) * sum(sizes.values()) * x.element_size())):
        with prefixes.prepared(), torch.no_grad():
            columns.append(torch.func.vmap(images, out_dims=2, randomness="same")(directions))
    return {key: torch.cat(parts, dim=2) for key, parts in zip(keys, zip(*columns, strict=True), strict=True)}


def _agrees(prefixes: Prefixes, jacobians: Mapping[str, Tensor], rows: slice) -> bool:
    """Return whether J^T u equals what a backward pass gives, for a random u at each site."""
    x = prefixes.inputs.tensor.detach().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    with prefixes.prepared():
        for value, matrices in zip(prefixes.at(x, list(jacobians)), jacobians.values(), strict=True):
            direction = torch.zeros_like(value)
            direction[rows] = torch.randn(direction[rows].shape, generator=generator).to(value)
            (expected,) = torch.autograd.grad(value, x, direction, retain_graph=True)
            expected = expected[rows].flatten(1)
            found = torch.einsum("so,soi->si", direction[rows].flatten(1), matrices)
            tolerance = torch.finfo(value.dtype).eps ** 0.5
            if not (found - expected).norm() <= tolerance * expected.norm():
                return False
    return True


def _reverse_mode(prefixes: Prefixes, sizes: Mapping[str, int], rows: slice) -> dict[str, Tensor]:
    x = prefixes.inputs.tensor.detach().requires_grad_()
    with prefixes.prepared():
        values = prefixes.at(x, list(sizes))
        return {key: _pulled_back(value, x, rows) for key, value in zip(sizes, values, strict=True)}


def _pulled_back(value: Tensor, x: Tensor, rows: slice) -> Tensor:
    parts = []
    outputs = value[0].numel()
    for directions in _basis(outputs, value, at_once=_BUDGET // (x.numel() * x.element_size())):
        cotangents = torch.zeros(len(directions), *value.shape, dtype=value.dtype, device=value.device)
        cotangents[:, rows] = directions.reshape(-1, 1, *value.shape[1:])
        try:
            (gradients,) = torch.autograd.grad(value, x, cotangents, retain_graph=True, is_grads_batched=True)
        except (RuntimeError, NotImplementedError):
            gradients = torch.stack([torch.autograd.grad(value, x, one, retain_graph=True)[0] for one in cotangents])
        parts.append(gradients[:, rows].flatten(2))
    return torch.cat(parts).transpose(0, 1)


def _basis(size: int, like: Tensor, *, at_once: int) -> Iterator[Tensor]:
    """Yield the unit vectors of `size` dimensions, at most `at_once` at a time, shape (n, size)."""
    at_once = max(1, min(size, at_once))
    for start in range(0, size, at_once):
        count = min(at_once, size - start)
        directions = torch.zeros(count, size, dtype=like.dtype, device=like.device)
        directions[torch.arange(count), torch.arange(start, start + count)] = 1
        yield directions
