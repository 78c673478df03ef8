"""Which elements of a tensor are looked at: all for moments, an even stride for histograms and geometry."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from propscope.measure import kernel

HISTOGRAM_LIMIT = 8192
GEOMETRY_ROWS = 32
GEOMETRY_FEATURES = 1024
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
    order = sorted(range(tensor.dim()), key=lambda axis: (tensor.stride()[axis], tensor.shape[axis]), reverse=True)
    arranged = tensor.permute(order)
    return arranged.view(-1) if arranged.is_contiguous() else tensor.reshape(-1)


def sample_rows(tensor: Tensor, unit_axis: int) -> Tensor | None:
    """Return at most 32 samples' vectors as a float matrix, (rows, features); None where there are not two samples.

    A sample is a position of every axis but the units' when the units come last (tokens of a sequence included), and
    an entry of the first axis when they do not (images). At most 1024 features of each, by an even stride.
    """
    if tensor.dim() < 2 or not tensor.numel():
        return None
    last = unit_axis in (-1, tensor.dim() - 1)
    if tensor.dim() > 2:
        tensor = tensor.flatten(0, -2) if last else tensor.flatten(1)
    if tensor.shape[0] < 2:
        return None
    rows = tensor[:: -(-tensor.shape[0] // GEOMETRY_ROWS)]
    if rows.shape[1] > GEOMETRY_FEATURES:
        rows = rows[:, :: stride_for(rows.shape[1], GEOMETRY_FEATURES, 2)]
    return rows


def gram(tensor: Tensor, unit_axis: int) -> Tensor | None:
    """Return the inner products of the sampled rows, (rows, rows), or None; see `sample_rows`.

    The rows are divided by their largest magnitude first, where squares of theirs would leave float32's range: what is
    read off the products does not depend on the scale.
    """
    products, corner = _compiled_products(tensor, unit_axis)
    if _SAFE[0] < abs(corner) < _SAFE[1]:
        return products
    rows = sample_rows(tensor, unit_axis)
    if rows is None:
        return None
    if rows.dtype not in (torch.float32, torch.float64):
        rows = rows.float()
    if tensor.device.type != "cpu":
        return _scaled_products(rows)
    products = _products(rows)
    corner = float(products.numpy()[-1, -1])
    # A corner speaks for the whole: rows of one layer differ by less than the ten decades of margin.
    return products if _SAFE[0] < abs(corner) < _SAFE[1] else _scaled_products(rows)


def _compiled_products(tensor: Tensor, unit_axis: int) -> tuple[Tensor | None, float]:
    """Return the products of `sample_rows` and the last of them, where the kernel can tell; else None and NaN."""
    count, dimensions = tensor.numel(), tensor.dim()
    if dimensions < 2 or tensor.dtype is not torch.float32 or not tensor.is_contiguous() or not kernel.can_read(tensor):
        return None, math.nan
    rows = count // tensor.shape[-1] if unit_axis in (-1, dimensions - 1) else tensor.shape[0]
    features = count // rows
    if rows < 2 or features > GEOMETRY_FEATURES:
        return None, math.nan
    step = -(-rows // GEOMETRY_ROWS)
    return kernel.gram(tensor.data_ptr(), -(-rows // step), step * features, features)


def _scaled_products(rows: Tensor) -> Tensor:
    largest = torch.where(torch.isfinite(rows), rows, 0.0).abs().amax()
    rows = rows / torch.where(largest > 0, largest, 1.0)
    return _products(rows)


def _products(rows: Tensor) -> Tensor:
    if rows.device.type != "cpu":
        return torch.mm(rows, rows.t())
    # numpy's product: a mode that counts the model's operations does not see it.
    values = rows.numpy()
    with np.errstate(all="ignore"):
        return torch.from_numpy(values @ values.T)
