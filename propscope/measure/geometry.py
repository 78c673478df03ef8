"""Geometry of the samples' vectors at a site, from the inner products of at most 32 of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from propscope.measure import kernel
from propscope.measure.sums import widest

GEOMETRY_ROWS = 32
GEOMETRY_FEATURES = 1024
_RUN = 16
# So many matrices are worked on at once: 2 MB of 32 rows.
_TOGETHER = 256
_SAFE = (1e-20, 1e20)


def sample_rows(tensor: Tensor, unit_axis: int) -> Tensor | None:
    """Return at most 32 samples' vectors as a float matrix, (rows, features); None below two samples or two features.

    If the units are on the last axis, a sample is a position on all other axes (tokens of a sequence included);
    otherwise it is an entry of the first axis (images). At most 1024 features of each sample are taken, in 64 evenly
    spread runs of 16, because single features would need a cache line each.
    """
    if tensor.dim() < 2 or not tensor.numel():
        return None
    if tensor.dim() > 2:
        tensor = tensor.flatten(0, -2) if _units_last(tensor, unit_axis) else tensor.flatten(1)
    if min(tensor.shape) < 2:
        return None
    rows = tensor[:: -(-tensor.shape[0] // GEOMETRY_ROWS)]
    if rows.shape[1] > GEOMETRY_FEATURES:
        blocks, apart = _spread(rows.shape[1])
        rows = rows.unfold(1, _RUN, apart)[:, :blocks].flatten(1)
    return rows


def rows_in_memory(tensor: Tensor, unit_axis: int) -> kernel.Rows | None:
    """Return where the samples of `sample_rows` lie in memory, with their features in any order.

    None below two samples or two features, and where a sample does not lie in one piece.
    """
    dimensions, count = tensor.dim(), tensor.numel()
    if dimensions < 2 or not count:
        return None
    order = kernel.memory_order(tensor)
    if order is None:
        return None
    if _units_last(tensor, unit_axis):
        features = tensor.shape[-1]
        together = order[-1] == dimensions - 1
    else:
        features = count // tensor.shape[0]
        together = order[0] == 0
    rows = count // features
    if min(rows, features) < 2 or not together:
        return None
    step = -(-rows // GEOMETRY_ROWS)
    blocks, apart = (1, features) if features <= GEOMETRY_FEATURES else _spread(features)
    length = features if blocks == 1 else _RUN
    return kernel.Rows(-(-rows // step), step * features, blocks, apart, length)


def _units_last(tensor: Tensor, unit_axis: int) -> bool:
    return unit_axis in (-1, tensor.dim() - 1)


def _spread(features: int) -> tuple[int, int]:
    """Return the number of runs of 16 features and the distance of their starts, odd because widths are even."""
    blocks = GEOMETRY_FEATURES // _RUN
    return blocks, max(((features - _RUN) // (blocks - 1) - 1) | 1, _RUN)


def is_safe(last_product: float) -> bool:
    """Return whether inner products lie within float32's range, judged by the last vector's product with itself.

    One is enough: the rows of one layer differ by less than the ten decades of margin.
    """
    return _SAFE[0] < abs(last_product) < _SAFE[1]


def gram(tensor: Tensor, unit_axis: int) -> Tensor | None:
    """Return the inner products of the sampled rows, (rows, rows), or None; see `sample_rows`.

    The product of two rows of n features is summed in float64. Its error is at most n * 2^-53 times the product of
    their lengths, in any order of summation. Rows that are float64 themselves are first divided by their largest
    magnitude, so that no square leaves the range: the mean cosine and the effective rank do not depend on the scale.
    """
    rows = sample_rows(tensor, unit_axis)
    if rows is None:
        return None
    # In float32 a matrix product may be lowered to half the digits, as the processor and the user's settings have it.
    wide = widest(rows)
    if rows.dtype is wide:
        largest = torch.where(torch.isfinite(rows), rows, 0.0).abs().amax()
        rows = rows / torch.where(largest > 0, largest, 1.0)
    rows = rows.to(wide)
    if rows.device.type != "cpu":
        return torch.mm(rows, rows.t())
    # numpy's product: a mode that counts the model's operations does not see it.
    values = rows.numpy()
    with np.errstate(all="ignore"):
        return torch.from_numpy(values @ values.T)


def geometries(grams: Sequence[ArrayLike | None]) -> list[tuple[float | None, float | None]]:
    """Return the mean cosine and the effective rank of each Gram matrix, shape (rows, rows); None of one that is None.

    Zero and non-finite vectors are left out; None below two. The mean cosine is that between different samples'
    vectors: 1 means that the layer no longer tells inputs apart. The effective rank is exp(entropy of the normalized
    eigenvalues), between 1 and rows: Roy and Vetterli 2007 (The effective rank), with the squared singular values as
    the distribution.
    """
    found: list[tuple[float | None, float | None]] = [(None, None)] * len(grams)
    for places, products in _stacks(grams):
        for place, *geometry in zip(places, _mean_cosines(products), _effective_ranks(products), strict=True):
            found[place] = geometry[0], geometry[1]
    return found


def _stacks(grams: Sequence[ArrayLike | None]) -> Iterator[tuple[list[int], NDArray[np.float64]]]:
    """Yield Gram matrices of the same size, shape (matrices, rows, rows), with their places: one call for many."""
    waiting: dict[int, list[tuple[int, NDArray[np.float64]]]] = {}
    for place, gram in enumerate(grams):
        if gram is None or len(products := _usable(gram)) < 2:
            continue
        alike = waiting.setdefault(len(products), [])
        alike.append((place, products))
        if len(alike) == _TOGETHER:
            yield [at for at, _ in alike], np.stack([products for _, products in alike])
            alike.clear()
    for alike in waiting.values():
        if alike:
            yield [at for at, _ in alike], np.stack([products for _, products in alike])


def _usable(gram: ArrayLike) -> NDArray[np.float64]:
    products = np.asarray(gram, dtype=np.float64)
    lengths = np.sqrt(np.abs(np.diagonal(products)))
    if np.isfinite(products).all() and lengths.all():
        return products
    usable = np.isfinite(products).all(axis=1) & (lengths > 0)
    return products[np.ix_(usable, usable)]


def _mean_cosines(products: NDArray[np.float64]) -> list[float]:
    count, rows, _ = products.shape
    lengths = np.sqrt(np.diagonal(products, axis1=1, axis2=2))
    cosines = products / (lengths[:, :, None] * lengths[:, None, :])
    between = cosines.reshape(count, -1).sum(axis=1) - np.trace(cosines, axis1=1, axis2=2)
    means: list[float] = np.clip(between / (rows * (rows - 1)), -1, 1).tolist()
    return means


def _effective_ranks(products: NDArray[np.float64]) -> list[float]:
    shares = products / np.trace(products, axis1=1, axis2=2)[:, None, None]
    return [_exp_entropy(values) for values in np.clip(np.linalg.eigvalsh(shares), 0, None)]


def _exp_entropy(values: NDArray[np.float64]) -> float:
    share = values[values > 0] / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))
