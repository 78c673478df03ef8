"""The losses of a step: what a loop hands over becomes one number on its device; nothing here waits for a device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from propscope.errors import InputError
from propscope.measure.shards import local_shard
from propscope.measure.sums import widest


def loss_of(value: Any) -> Tensor:
    """Return a loss as one number on its device; raises `InputError` for what is none."""
    if isinstance(value, Tensor) and value.numel() and not value.is_meta and not value.is_complex():
        tensor = local_shard(value.detach())
        tensor = tensor if tensor.layout is torch.strided else tensor.to_dense()
        return tensor.clone() if tensor.numel() == 1 else tensor.to(widest(tensor)).mean()
    with suppress(TypeError, ValueError, OverflowError):
        if not isinstance(value, (str, Tensor)):
            return torch.tensor(float(value), device="cpu")
    raise InputError(f"loss must be a number or a tensor of numbers, got a {type(value).__name__}")


def first_broken(losses: Sequence[Tensor]) -> Tensor | None:
    """Return the number of the first loss that is not finite, from 1; 0 where all are."""
    if not losses:
        return None
    broken = ~torch.isfinite(torch.stack([one.reshape(()).to(losses[0].device) for one in losses]))
    return torch.where(broken.any(), broken.int().argmax() + 1, 0)


def mean_loss(losses: Sequence[Tensor]) -> Tensor | None:
    """Return the mean of the losses, on the device of the first; None where there are none."""
    if len(losses) < 2:
        return losses[0] if losses else None
    device = losses[0].device
    return torch.stack([one.reshape(()).to(device, non_blocking=True) for one in losses]).double().mean()
