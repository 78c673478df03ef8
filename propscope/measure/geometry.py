"""Geometry of the samples' vectors at a site, from the inner products of at most 32 of them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from propscope.measure import kernel
from propscope.measure.sums import widest

GEOMETRY_ROWS = 32
GEOMETRY_FEATURES = 1024
_RUN = 16
_SAFE = (1e-20, 1e20)


def sample_rows(tensor: Tensor, unit_axis: int) -> Tensor | None:
    """Return at most 32 samples' vectors as a float matrix, (rows, features); None where there are not two samples.

    If the units are on the last axis, a sample is a position on all other axes (tokens of a sequence included);
    otherwise it is an entry of the first axis (images). At most 1024 features of each sample are taken, in 64 evenly
    spread runs of 16, because single features would need a cache line each.
    """
    if tensor.dim() < 2 or not tensor.numel():
        return None
    if tensor.dim() > 2:
        tensor = tensor.flatten(0, -2) if _units_last(tensor, unit_axis) else tensor.flatten(1)
    if tensor.shape[0] < 2:
        return None
    rows = tensor[:: -(-tensor.shape[0] // GEOMETRY_ROWS)]
    if rows.shape[1] > GEOMETRY_FEATURES:
        blocks, apart = _spread(rows.shape[1])
        rows = rows.unfold(1, _RUN, apart)[:, :blocks].flatten(1)
    return rows


def rows_in_memory(tensor: Tensor, unit_axis: int) -> kernel.Rows | None:
    """Return where the samples of `sample_rows` lie in memory, with their features in any order.

    None where there are not two samples, or one does not lie in one piece.
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
    if rows < 2 or not together:
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


def _usable(gram: ArrayLike) -> NDArray[np.float64]:
    products = np.asarray(gram, dtype=np.float64)
    lengths = np.sqrt(np.abs(np.diagonal(products)))
    if np.isfinite(products).all() and lengths.all():
        return products
    kept = np.isfinite(products).all(axis=1) & (lengths > 0)
    return products[np.ix_(kept, kept)]


def mean_cosine(gram: ArrayLike) -> float | None:
    """Return the mean cosine between different samples' vectors, from their Gram matrix, shape (rows, rows).

    1 means that the layer no longer tells inputs apart. Zero and non-finite vectors are left out; None below two.
    """
    products = _usable(gram)
    rows = len(products)
    if rows < 2:
        return None
    lengths = np.sqrt(np.diagonal(products))
    cosines = products / np.outer(lengths, lengths)
    return float(np.clip((cosines.sum() - np.trace(cosines)) / (rows * (rows - 1)), -1, 1))


def effective_rank(gram: ArrayLike) -> float | None:
    """Return exp(entropy of the normalized eigenvalues) of the Gram matrix, shape (rows, rows): between 1 and rows.

    Roy and Vetterli 2007 (The effective rank), with the squared singular values as the distribution. Zero and
    non-finite vectors are left out; None below two.
    """
    products = _usable(gram)
    if len(products) < 2:
        return None
    values = np.clip(np.linalg.eigvalsh(products / np.trace(products)), 0, None)
    share = values[values > 0] / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))
