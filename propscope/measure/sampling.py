"""Which elements of a tensor are looked at: all for moments, an even stride for histograms."""

from __future__ import annotations

import math
from functools import lru_cache

from torch import Tensor

from propscope.measure import kernel

HISTOGRAM_LIMIT = 8192


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
