"""Which elements of a tensor are looked at: all for moments, an even stride for histograms and geometry."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from propscope.measure import kernel
from propscope.measure.sums import widest

HISTOGRAM_LIMIT = 8192
GEOMETRY_ROWS = 32
GEOMETRY_FEATURES = 1024
_RUN = 16
_SAFE = (1e-20, 1e20)


@lru_cache(maxsize=4096)
def stride_for(count: int, limit: int, period: int) -> int:
    """Return the smallest stride that takes at most `limit` of `count` elements and visits every residue of `period`.

    A stride that shares a factor with the row length (`period`) would look at the same few units in every row.
    `limit` 0 means all: stride 1.
    """
    if not limit or count <= limit:
        return 1
    stride = -(-count // limit)
    while math.gcd(stride, max(period, 1)) != 1:
        stride += 1
    return stride


def flatten(tensor: Tensor) -> Tensor:
    """Return the elements as 1-D, in memory order where the tensor is dense, so that nothing is copied."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    order = kernel.memory_order(tensor)
    return tensor.reshape(-1) if order is None else tensor.permute(order).view(-1)


def sample_rows(tensor: Tensor, unit_axis: int) -> Tensor | None:
    """Return at most 32 samples' vectors as a float matrix, (rows, features); None where there are not two samples.

    A sample is a position of every axis but the units' when the units come last (tokens of a sequence included), and
    an entry of the first axis when they do not (images). At most 1024 features of each: 64 evenly spread runs of 16,
    as single ones would take a line of memory each.
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
    """Return the same samples as `sample_rows` by where they lie in memory, features in any order.

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
    """Return how many runs of 16 features are taken, and how far apart they start: oddly, as widths are even."""
    blocks = GEOMETRY_FEATURES // _RUN
    return blocks, max(((features - _RUN) // (blocks - 1) - 1) | 1, _RUN)


def is_safe(last_product: float) -> bool:
    """Return whether inner products are within float32's range, judged by one of a vector with itself.

    It speaks for the whole: rows of one layer differ by less than the ten decades of margin.
    """
    return _SAFE[0] < abs(last_product) < _SAFE[1]


def gram(tensor: Tensor, unit_axis: int) -> Tensor | None:
    """Return the inner products of the sampled rows, (rows, rows), or None; see `sample_rows`.

    The product of two rows of n features is summed in float64, and errs by at most n * 2^-53 of the product of their
    lengths in whatever order that happens. Rows that are float64 themselves are first divided by their largest
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
