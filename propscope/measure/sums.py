"""Sums with an error bound that holds on any device and processor.

A sum in float32 depends on how many numbers a processor adds at once. `torch.linalg.vector_norm` of four million
normally distributed float32 numbers is too small by 8e-5, and by another share on another processor.
"""

from __future__ import annotations

import torch
from torch import Tensor


def widest(tensor: Tensor) -> torch.dtype:
    """Return the dtype to sum in on the tensor's device: float64; float32 on Apple's, which has no other."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def total(values: Tensor) -> Tensor:
    """Return the sum of all n elements, a 0-d tensor of dtype `widest`.

    In float64 the error is at most n * 2^-53 times the sum of the magnitudes, in any order of addition. In float32, one
    half is added to the other until one number is left, and the error is at most ceil(log2(n)) * 2^-24 times that sum.
    """
    if widest(values) is torch.float64:
        return values.sum(dtype=torch.float64)
    values = values.float().reshape(-1)
    while (count := len(values)) > 1:
        half = count // 2
        pairs = values[:half] + values[half : 2 * half]
        values = torch.cat([pairs, values[2 * half :]]) if count % 2 else pairs
    return values.sum()
